"""Series that are no regular grid and can be made one: a gantry tilt by a shear, uneven steps by interpolation.

Only on request (`ingest --geometry repair`) and always flagged, since voxels are made that no scanner measured. Slices
that are missing are never made up: no gap may be as wide as two steps. Pure functions of planes and arrays. Values are
interpolated linearly, whole HU stay whole, and nothing is made out of padding. Source: the shear follows from DICOM
PS3.3 C.7.6.2.1.1 (Image Plane): a tilted gantry shifts each slice within its own plane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.scaling import Stack
from semgen_platform.formats.slices import FloatArray, Plane, directions, distances_along, most_frequent
from semgen_platform.volume import Refusal

REPAIRABLE = frozenset({"uneven_spacing", "gantry_tilt"})
WIDEST_GAP = 2.0
"""Steps. From there on a slice is missing, and anatomy would be invented."""
LARGEST_TILT_DEG = 35.0
"""CT gantries tilt by up to 30 degrees; slices stacked more obliquely come from something else."""
WHOLE = 1e-3
"""Pixels. A shift this near to whole pixels is one, and leaves the slice's values as they are."""


@dataclass(frozen=True)
class Repair:
    """How a regular grid is made out of n slices.

    order : slices along the normal.  shift_xy : (n, 2), where on the new grid each slice's first pixel lies, in pixels.
    below, weight : (m,), new slice k is (1 - weight) of slice below[k] and weight of the next.
    shape_zyx, ijk_to_lps_mm : of the new grid.  flags, said : what was done, for the row of the source.
    """

    order: tuple[int, ...]
    shift_xy: FloatArray
    below: NDArray[np.int64]
    weight: FloatArray
    shape_zyx: tuple[int, int, int]
    ijk_to_lps_mm: FloatArray
    flags: tuple[str, ...]
    said: str


def plan_repair(planes: Sequence[Plane], faults: Sequence[Refusal]) -> Repair | None:
    """The repair of planes that are no regular grid for these reasons, or None where there is none.

    planes : complete, of one shape and direction, as those without another fault are.
    """
    reasons = {reason for fault in faults for reason in fault.reasons}
    if not reasons or not reasons <= REPAIRABLE:
        return None
    order, distances = distances_along(planes)
    gaps = np.diff(distances)
    uneven, tilted = "uneven_spacing" in reasons, "gantry_tilt" in reasons
    step = most_frequent(gaps) if uneven else float(gaps.mean())
    if gaps.max() >= WIDEST_GAP * step:
        return None
    row, column = directions(planes)
    between_rows, between_columns = planes[0].pixel_spacing_mm or (0.0, 0.0)
    positions = np.array([planes[n].position_mm for n in order], dtype=np.float64)
    path = positions[-1] - positions[0]
    tilt_deg = _tilt_deg(path, np.cross(row, column))
    if tilted and tilt_deg > LARGEST_TILT_DEG:
        return None
    offsets = (positions - positions[0]) @ np.stack([row / between_columns, column / between_rows], axis=1)
    shift_xy = _snapped(offsets) if tilted else np.zeros_like(offsets)
    low = np.floor(shift_xy.min(axis=0))
    rows, columns = planes[0].shape_yx
    width, height = (np.ceil(shift_xy.max(axis=0)) - low + (columns, rows)).astype(int)
    below, weight = (
        _between(distances - distances[0], step) if uneven else (np.arange(len(planes)), np.zeros(len(planes)))
    )
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2] = np.cross(row, column) * step if tilted else path * step / (distances[-1] - distances[0])
    affine[:3, 3] = positions[0] + affine[:3, :2] @ low
    said = [f"sheared by {tilt_deg:.4g} degrees"] if tilted else []
    if uneven:
        spread = f"{gaps.min():.4g} to {gaps.max():.4g} mm"
        said.append(f"interpolated {len(planes)} slices at steps of {spread} to {len(below)} at {step:.4g} mm")
    return Repair(
        order=tuple(int(n) for n in order),
        shift_xy=shift_xy - low,
        below=below,
        weight=weight,
        shape_zyx=(len(below), int(height), int(width)),
        ijk_to_lps_mm=affine,
        flags=("gantry_tilt_repaired",) * tilted + ("slices_interpolated",) * uneven,
        said="; ".join(said),
    )


def repaired(
    plan: Repair, slab: Callable[[int], NDArray[Any]], fill_hu: float, padding_hu: float | None
) -> NDArray[Any]:
    """(z, y, x) voxels of the repaired grid, int16 where every slab is of integers, else float32.

    slab : the (y, x) HU of the slice with that index among the planes.  fill_hu : put where no slice reaches.
    padding_hu : of the slices, out of which nothing is made.
    """

    @lru_cache(maxsize=2)  # the two neighbours of a new slice
    def sheared(n: int) -> tuple[FloatArray, bool]:
        found = slab(plan.order[n])
        whole = found.dtype.kind in "iu"
        values = found.astype(np.float64)
        if padding_hu is not None:
            values[found == padding_hu] = np.nan
        x, y = plan.shift_xy[n]
        height, width = plan.shape_zyx[1:]
        return _shifted(_shifted(values, y, height, 0), x, width, 1), whole

    stack = Stack(plan.shape_zyx)
    for k, (n, weight) in enumerate(zip(plan.below.tolist(), plan.weight.tolist(), strict=True)):
        values, whole = sheared(n)
        if weight:
            above, above_whole = sheared(n + 1)
            values, whole = (1 - weight) * values + weight * above, whole and above_whole
        values = np.where(np.isnan(values), fill_hu, np.rint(values) if whole else values)
        stack.fill(k, values)
    return stack.voxels


def _tilt_deg(path_mm: FloatArray, normal: FloatArray) -> float:
    """Angle between the way that slices are stacked and their normal."""
    sine = np.linalg.norm(np.cross(path_mm / np.linalg.norm(path_mm), normal))
    return float(np.degrees(np.arcsin(min(1.0, float(sine)))))


def _snapped(shift: FloatArray) -> FloatArray:
    return np.where(np.abs(shift - np.rint(shift)) < WHOLE, np.rint(shift), shift)


def _between(distances_mm: FloatArray, step_mm: float) -> tuple[NDArray[np.int64], FloatArray]:
    """(slice below, weight of the one above) of each new slice at whole steps from the first to the last."""
    count = int(np.floor(distances_mm[-1] / step_mm + WHOLE)) + 1
    targets = np.minimum(np.arange(count) * step_mm, distances_mm[-1])
    below = np.clip(np.searchsorted(distances_mm, targets, side="right") - 1, 0, len(distances_mm) - 2)
    weight = (targets - distances_mm[below]) / np.diff(distances_mm)[below]
    exact = np.abs(weight - np.rint(weight)) < WHOLE
    below, weight = np.where(exact & (weight > 0.5), below + 1, below), np.where(exact, 0.0, weight)
    return below.astype(np.int64), weight


def _shifted(values: FloatArray, shift: float, length: int, axis: int) -> FloatArray:
    """`values` along an axis of the new length, moved on by `shift` pixels (0 or more); NaN where there are none."""
    values = np.moveaxis(values, axis, 0)
    start, part = int(np.floor(shift)), float(shift - np.floor(shift))
    out = np.full((length, *values.shape[1:]), np.nan)
    if part == 0:
        out[start : start + len(values)] = values
    else:
        out[start + 1 : start + len(values)] = part * values[:-1] + (1 - part) * values[1:]
    return np.moveaxis(out, 0, axis)
