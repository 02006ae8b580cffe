"""Labelled places in held-out scans: where crops are cut for a probe, and what anatomy each shows.

Truth is a folder of .npz files with `labels_ZYX` (uint8 or int, one label a voxel) and `zyx_to_lps_mm` (4, 4), as the
phantom cohort writes them. A file belongs to the scan with the same grid in space, so neither file names nor patients
need to be known to the lake. A place is the centre of a small region that one label fills for the most part. Shapes: N
places.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import InputError
from semgen_platform.geometry import apply_affine
from semgen_platform.ids import uniform_stream
from semgen_platform.lake.selection import Scan

SAME_GRID_MM = 0.05
"""Corners of one grid may differ by so much: files hold affines in single precision."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Places:
    """N labelled places, in a fixed order.

    scan_ids, groups : (N,) the scan of each, and the split group of its patient.
    centres_zyx_mm : (N, 3) in LPS mm.
    labels : (N,) int64.
    """

    scan_ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    centres_zyx_mm: FloatArray
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, chosen: NDArray[Any]) -> Places:
        """The places of a mask or of positions."""
        return Places(self.scan_ids[chosen], self.groups[chosen], self.centres_zyx_mm[chosen], self.labels[chosen])


def truth_by_scan(scans: Sequence[Scan], folder: Path) -> dict[str, Path]:
    """The truth file of every scan, found by its grid in space.

    Raises InputError if the folder holds none, a scan has none or two, or a file is no truth.
    """
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder} holds no truth (.npz); give the folder truth/ of a phantom cohort")
    grids = [(path, *_grid_of(path)) for path in files]
    return {scan.scan_id: _only_match(scan, grids, folder) for scan in scans}


def _only_match(scan: Scan, grids: Iterable[tuple[Path, tuple[int, ...], FloatArray]], folder: Path) -> Path:
    corners = np.array(np.meshgrid(*((0, n - 1) for n in scan.shape_zyx), indexing="ij")).reshape(3, -1).T
    place = apply_affine(scan.zyx_to_lps_mm, corners)
    found = [
        path
        for path, shape, affine in grids
        if shape == scan.shape_zyx and np.abs(apply_affine(affine, corners) - place).max() <= SAME_GRID_MM
    ]
    if len(found) != 1:
        raise InputError(
            f"{len(found)} truth files in {folder} lie on the grid of scan {scan.scan_id}, and it needs exactly one; "
            "select the collection that this truth belongs to"
        )
    return found[0]


def _grid_of(path: Path) -> tuple[tuple[int, ...], FloatArray]:
    try:
        with np.load(path) as truth, zipfile.ZipFile(path) as members:
            with members.open("labels_ZYX.npy") as stream:  # the header alone; the map itself is large
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape = read(stream)[0]
            return shape, np.asarray(truth["zyx_to_lps_mm"], dtype=np.float64).reshape(4, 4)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no truth file ({error}); it needs labels_ZYX and zyx_to_lps_mm") from error


def read_labels(path: Path) -> NDArray[Any]:
    """`labels_ZYX` of a truth file."""
    with np.load(path) as truth:
        labels: NDArray[Any] = truth["labels_ZYX"]
    return labels


def candidates(
    labels_ZYX: NDArray[Any], zyx_to_lps_mm: FloatArray, region_mm: float, least_share: float
) -> tuple[FloatArray, NDArray[np.int64]]:
    """(centres (N, 3) z, y, x in LPS mm, labels (N,)) of the regions that one label fills for at least `least_share`.

    Regions are boxes of about `region_mm`, side by side along the scan's axes from its first voxel.
    """
    spacing = np.linalg.norm(np.asarray(zyx_to_lps_mm)[:3, :3], axis=0)
    size = np.maximum(1, np.rint(region_mm / spacing)).astype(int)
    count = np.array(labels_ZYX.shape) // size
    if not count.all():
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    z, y, x = count * size
    blocks = labels_ZYX[:z, :y, :x].reshape(count[0], size[0], count[1], size[1], count[2], size[2])
    voxels = blocks.transpose(0, 2, 4, 1, 3, 5).reshape(count.prod(), size.prod())
    kinds = int(labels_ZYX.max()) + 1
    row = np.arange(len(voxels))[:, None] * kinds
    histogram = np.bincount((row + voxels).ravel(), minlength=len(voxels) * kinds).reshape(len(voxels), kinds)
    label, share = histogram.argmax(1), histogram.max(1) / size.prod()
    kept = np.flatnonzero(share >= least_share)
    index_zyx = np.stack(np.unravel_index(kept, tuple(count)), axis=1) * size + (size - 1) / 2
    return apply_affine(zyx_to_lps_mm, index_zyx)[:, ::-1], label[kept].astype(np.int64)


def drawn(
    scan: Scan, centres_zyx_mm: FloatArray, labels: NDArray[np.int64], per_label: int, ignored: Sequence[int], seed: int
) -> Places:
    """At most `per_label` places of each label of one scan, drawn by (seed, scan, label)."""
    chosen: list[NDArray[np.int64]] = []
    for label in np.setdiff1d(np.unique(labels), ignored):
        found = np.flatnonzero(labels == label)
        order = uniform_stream(seed, "places", scan.scan_id, int(label)).permutation(len(found))
        chosen.append(np.sort(found[order[:per_label]]))
    rows = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    whose = np.full(len(rows), scan.scan_id), np.full(len(rows), scan.split_group)
    return Places(*whose, centres_zyx_mm[rows], labels[rows])


def joined(parts: Sequence[Places], least_groups: float) -> Places:
    """Places of all scans, without the labels that fewer than this share of the split groups show."""
    places = Places(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("scan_ids", "groups", "centres_zyx_mm", "labels")
        )
    )
    groups = len(np.unique(places.groups))
    shown: Mapping[int, int] = {
        int(label): len(np.unique(places.groups[places.labels == label])) for label in np.unique(places.labels)
    }
    common = [label for label, count in shown.items() if count >= least_groups * groups]
    return places.taken(np.isin(places.labels, common))
