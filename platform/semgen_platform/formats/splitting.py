"""Slices that share a SeriesInstanceUID and are several volumes, told apart by what their headers say.

Scanners and converters file two reconstruction kernels, two fields of view, a reformatted copy or several contrast
phases under one series. Pure functions of header values; whether a part is a regular grid, slices.py says. Sources:
DICOM PS3.3 C.7.6.2 (Image Plane), C.7.6.1.1.2 (Image Type), C.8.2.1 (CT Image).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST_PART = 3
"""Slices. A smaller group is an odd slice, for which the series is refused, and no volume of its own."""

APART_COSINE, APART_MM, APART_SPACING_MM = 0.01, 1.0, 0.01
"""Directions, in-plane positions and pixel spacings of two stacks are further apart; those of one
stack drift by less a slice, or, in a tilted one, leave every slice alone and so divide nothing."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What one slice says beside its pixels; None or "" where its header lacks the value."""

    image_type: str = ""
    kernel: str = ""
    orientation: tuple[float, ...] | None = None
    position_mm: tuple[float, ...] | None = None
    pixel_spacing_mm: tuple[float, ...] | None = None
    shape_yx: tuple[int, int] = (0, 0)
    time_point: str = ""
    acquisition: str = ""


Labels = Callable[[Sequence[Traits]], list[str]]
"""What tells slices apart by one trait: equal labels stay together."""


def split(slices: Sequence[Traits]) -> list[tuple[str, list[int]]]:
    """(name, indices) of each part; one part with the name "" where nothing tells the slices apart.

    Another kernel, direction, pixel grid or place always splits; image type, time point and acquisition only where
    slices of two labels alternate, since one scan may be numbered as several acquisitions, or be summed in its lower
    part. A name is made of the part's own values alone, so that it stays when other parts grow.
    """
    parts = [("", list(range(len(slices))))]
    for name, labels in ALWAYS.items():
        parts = [smaller for part in parts for smaller in _divided(slices, part, name, labels)]
    for name, labels in WHERE_INTERLEAVED.items():
        parts = [
            smaller
            for part in parts
            for smaller in (_divided(slices, part, name, labels) if _interleaved(slices, part[1], labels) else [part])
        ]
    return parts


def _divided(
    slices: Sequence[Traits], part: tuple[str, list[int]], name: str, labels: Labels
) -> list[tuple[str, list[int]]]:
    """The part in groups of one label, or as it is where a group would be too small."""
    before, indices = part
    groups: dict[str, list[int]] = {}
    for index, label in zip(indices, labels([slices[index] for index in indices]), strict=True):
        groups.setdefault(label, []).append(index)
    if len(groups) < 2 or min(map(len, groups.values())) < SMALLEST_PART:
        return [part]
    return [(f"{before}{name}={label};", members) for label, members in groups.items()]


def _interleaved(slices: Sequence[Traits], indices: Sequence[int], labels: Labels) -> bool:
    """Whether slices of two labels alternate along the normal, at the same places or between one another's.

    What one label follows another is one stack, however it was numbered. False where a slice does not say where it is.
    """
    part = [slices[index] for index in indices]
    if any(s.orientation is None or s.position_mm is None for s in part):
        return False
    row, column = np.array(part[0].orientation, dtype=np.float64).reshape(2, 3)
    along = np.array([s.position_mm for s in part], dtype=np.float64) @ np.cross(row, column)
    found = labels(part)
    ordered = [found[n] for n in np.argsort(along, kind="stable")]
    runs = 1 + sum(one != other for one, other in itertools.pairwise(ordered))
    return runs > len(set(found))


def _clusters(values: Sequence[Sequence[float] | None], apart: float, decimals: int) -> list[str]:
    """Labels of vectors: in each component, values are of one cluster unless a gap larger than `apart` parts them.

    A label names the clusters by their medians. All are alike where a vector is missing.
    """
    if any(value is None for value in values):
        return [""] * len(values)
    columns = np.array(values, dtype=np.float64).reshape(len(values), -1).T
    return ["/".join(parts) for parts in zip(*(_clustered(c, apart, decimals) for c in columns), strict=True)]


def _clustered(values: np.ndarray[tuple[int], np.dtype[np.float64]], apart: float, decimals: int) -> list[str]:
    order = np.argsort(values, kind="stable")
    cluster = np.empty(len(values), dtype=np.int64)
    cluster[order] = np.concatenate([[0], np.cumsum(np.diff(values[order]) > apart)])
    names = [f"{np.median(values[cluster == n]):.{decimals}f}" for n in range(cluster.max() + 1)]
    return [names[n] for n in cluster]


def _directions(slices: Sequence[Traits]) -> list[str]:
    return _clusters([s.orientation for s in slices], APART_COSINE, 2)


def _grids(slices: Sequence[Traits]) -> list[str]:
    spacings = _clusters([s.pixel_spacing_mm for s in slices], APART_SPACING_MM, 2)
    return [f"{s.shape_yx[0]}x{s.shape_yx[1]}/{spacing}" for s, spacing in zip(slices, spacings, strict=True)]


def _places(slices: Sequence[Traits]) -> list[str]:
    """Where the first pixels lie along rows and columns: equal for all slices of a straight stack."""
    return _clusters([_lateral(s) for s in slices], APART_MM, 0)


def _lateral(slice_: Traits) -> list[float] | None:
    if slice_.orientation is None or slice_.position_mm is None:
        return None
    lateral: list[float] = (np.reshape(slice_.orientation, (2, 3)) @ np.array(slice_.position_mm)).tolist()
    return lateral


ALWAYS: dict[str, Labels] = {
    "kernel": lambda slices: [s.kernel for s in slices],
    "orientation": _directions,
    "grid": _grids,
    "place": _places,
}
WHERE_INTERLEAVED: dict[str, Labels] = {
    "image_type": lambda slices: [s.image_type for s in slices],
    "time_point": lambda slices: [s.time_point for s in slices],
    "acquisition": lambda slices: [s.acquisition for s in slices],
}
