"""Crops and coarse levels read straight from a lake's volumes, in HU and in millimetres.

A request says where each voxel of the crop lies in the patient; the reader picks the coarsest stored level that is at
least as fine as the request, decodes only the inner chunks it needs, and interpolates linearly. A voxel reaches half
its spacing beyond its centre (as in ITK): up to there the nearest stored values hold, and further out is air. Stores
are opened in the process that reads, so a reader can be pickled to spawned workers. Source: DESIGN.md section 4.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import InputError, NotFound
from semgen_platform.geometry import apply_affine
from semgen_platform.lake.pyramid import Shape, level_affine
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.shards import StoredLevel
from semgen_platform.lake.volumes import open_level
from semgen_platform.storage import Address

FloatArray = NDArray[np.float64]
Spacing = tuple[float, float, float]

AIR_HU = -1000.0
SPACING_TOLERANCE = 1.001  # a level asked for by its own spacing is found whatever the rounding
ALIGNED_TOLERANCE = 1e-6  # voxels of drift across a crop below which its axes count as the volume's own
SAMPLES_AT_ONCE = 2**14  # of an oblique crop: what a step makes and needs stays in the processor's cache
OPEN_LEVELS = 256  # each holds one file descriptor, of which a process has 1024 by default


@dataclass(frozen=True, eq=False)
class CropRequest:
    """A box to read: `zyx_to_lps_mm` (4, 4) maps the crop's voxel index (z, y, x, 1) to LPS+ mm."""

    scan_id: str
    zyx_to_lps_mm: FloatArray
    shape_zyx: Shape


@dataclass(frozen=True, eq=False)
class CoarseVolume:
    """A whole level: voxels (z, y, x) as stored, where they lie (4, 4), and which level it is."""

    voxels_ZYX: NDArray[Any]
    zyx_to_lps_mm: FloatArray
    level: int


class CropReader:
    """Reads the volumes of `scans` in the lake at an address.

    It can be pickled and opens files when it first reads. A process forked from one that had read is refused: start
    workers with spawn.
    """

    def __init__(self, lake: Address, scans: Sequence[Scan]) -> None:
        self._lake = lake
        self._scans = {scan.scan_id: scan for scan in scans}
        self._open: dict[tuple[str, int], StoredLevel] = {}
        self._process: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_process": None}

    def level(self, scan_id: str, spacing_mm: float) -> CoarseVolume:
        """The coarsest stored level with no spacing above `spacing_mm`, else the finest.

        Raises NotFound for a scan that the reader was not given, Damage for a level that is absent or broken.
        """
        scan = self._scan(scan_id)
        number = self._choose(scan, (spacing_mm, spacing_mm, spacing_mm))
        affine = level_affine(scan.zyx_to_lps_mm, scan.levels[number].factor_zyx)
        return CoarseVolume(self._stored(scan_id, number).whole(), affine, number)

    def read(self, requests: Sequence[CropRequest]) -> NDArray[np.float32]:
        """Crops (N, z, y, x) in HU, in the order of the requests, which all have one shape; air outside the volume.

        Raises NotFound for a scan that the reader was not given, Damage for a level that is absent or broken.
        """
        shapes = {request.shape_zyx for request in requests}
        assert len(shapes) == 1, f"crops of one call have one shape, not {sorted(shapes)}"
        crops = np.empty((len(requests), *shapes.pop()), np.float32)
        for crop, request in zip(crops, requests, strict=True):
            self._read_into(crop, request)
        return crops

    def _read_into(self, crop: NDArray[np.float32], request: CropRequest) -> None:
        scan = self._scan(request.scan_id)
        crop_to_scan = _between(scan.zyx_to_lps_mm, request.zyx_to_lps_mm)
        number = self._choose(scan, _sampled_spacing_mm(crop_to_scan, scan.spacing_zyx_mm))
        to_level = _between(level_affine(np.eye(4), scan.levels[number].factor_zyx), crop_to_scan)
        sample(self._stored(scan.scan_id, number), to_level, crop)

    def _choose(self, scan: Scan, wanted_zyx_mm: Spacing) -> int:
        for number in reversed(range(len(scan.levels))):
            factors = scan.levels[number].factor_zyx
            pairs = zip(scan.spacing_zyx_mm, factors, wanted_zyx_mm, strict=True)
            if all(spacing * factor <= wanted * SPACING_TOLERANCE for spacing, factor, wanted in pairs):
                return number
        return 0

    def _scan(self, scan_id: str) -> Scan:
        if scan_id not in self._scans:
            raise NotFound(f"scan {scan_id} is not among the {len(self._scans)} scans that this reader was given")
        return self._scans[scan_id]

    def _stored(self, scan_id: str, number: int) -> StoredLevel:
        if self._process not in (None, os.getpid()):
            raise InputError(
                "crops are read in a process that was forked after reading began; start workers with spawn"
            )
        self._process = os.getpid()
        level = self._open.get((scan_id, number))
        if level is None:
            level = open_level(self._lake, scan_id, self._scan(scan_id).attempt, number)
            if len(self._open) >= OPEN_LEVELS:
                self._open.pop(next(iter(self._open)), None)
            self._open[scan_id, number] = level
        return level


def sample(level: StoredLevel, to_level: FloatArray, out: NDArray[np.float32]) -> None:
    """Fill `out` (z, y, x) by linear interpolation; `to_level` (4, 4) maps its voxel index to that of the level."""
    drift = np.abs(to_level[:3, :3] - np.diag(np.diag(to_level[:3, :3]))) * np.array(out.shape)
    if drift.max() < ALIGNED_TOLERANCE:
        _sample_aligned(level, to_level, out)
    else:
        _sample_oblique(level, to_level, out)


def _sample_aligned(level: StoredLevel, to_level: FloatArray, out: NDArray[np.float32]) -> None:
    """Axes of crop and level agree, so the interpolation is one small matrix per axis."""
    axes = []
    for axis, samples in enumerate(out.shape):
        positions = to_level[axis, axis] * np.arange(samples) + to_level[axis, 3]
        axes.append(_axis_weights(positions, level.shape_zyx[axis]))
    out[...] = AIR_HU
    z, y, x = axes
    if z is None or y is None or x is None:
        return
    box = level.read((z.low, y.low, x.low), (z.high, y.high, x.high)).astype(np.float32)
    box = np.tensordot(z.weights, box, 1) if z.weights is not None else box
    box = np.matmul(y.weights, box) if y.weights is not None else box
    box = np.matmul(box, x.weights.T) if x.weights is not None else box
    out[z.samples, y.samples, x.samples] = box


@dataclass(frozen=True, eq=False)
class _AxisWeights:
    """How samples along one axis come from voxels [low, high): weights (samples, voxels), None where they are these."""

    low: int
    high: int
    weights: NDArray[np.float32] | None
    samples: slice


def _axis_weights(positions: FloatArray, size: int) -> _AxisWeights | None:
    """Linear weights for evenly spaced positions (voxels) along an axis of `size`; None where no position is inside."""
    nearest = np.rint(positions)
    positions = np.where(np.abs(positions - nearest) < ALIGNED_TOLERANCE, nearest, positions)
    inside = np.flatnonzero((positions >= -0.5) & (positions <= size - 0.5))
    if not len(inside):
        return None
    samples = slice(int(inside[0]), int(inside[-1]) + 1)
    held = np.clip(positions[samples], 0, size - 1)
    left = np.floor(held).astype(np.int64)
    share = held - left
    right = left + (share > 0)
    low, high, rows = int(left.min()), int(right.max()) + 1, np.arange(len(held))
    if np.array_equal(held, low + rows):
        return _AxisWeights(low, high, None, samples)
    weights = np.zeros((len(held), high - low), np.float32)
    weights[rows, right - low] += share
    weights[rows, left - low] += 1 - share
    return _AxisWeights(low, high, weights, samples)


def _sample_oblique(level: StoredLevel, to_level: FloatArray, out: NDArray[np.float32]) -> None:
    """Any affine: eight gathers out of the box that holds the crop."""
    last = np.array(out.shape) - 1
    corners = apply_affine(to_level, np.array(list(itertools.product(*((0, n) for n in last)))))
    size = np.array(level.shape_zyx)
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.floor(corners.max(0)) + 2, size).astype(int)
    out[...] = AIR_HU
    if (low >= high).any():
        return
    box = level.read(_triple(low), _triple(high)).astype(np.float32)
    whole_inside = bool((corners >= -0.5).all() and (corners <= size - 0.5).all())
    slices = max(1, SAMPLES_AT_ONCE // (out.shape[1] * out.shape[2]))
    for z in range(0, out.shape[0], slices):
        slab = out[z : z + slices]
        positions = _grid_positions(to_level, low, z, slab.shape)
        bounds = zip(positions, -0.5 - low, size - 0.5 - low, strict=True)
        inside = whole_inside or np.logical_and.reduce([(p >= least) & (p <= most) for p, least, most in bounds])
        np.copyto(slab, _trilinear(box, positions), where=inside)


def _grid_positions(
    to_level: FloatArray, low: NDArray[Any], first_z: int, shape: tuple[int, ...]
) -> list[NDArray[np.float32]]:
    """Positions (z, y, x) of crop voxels from slice `first_z` on, relative to a corner; good to 1e-4 voxels."""
    z, y, x = (np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) for axis, n in enumerate(shape))
    z = z + first_z
    return [
        (row[0] * z + row[1] * y + (row[3] - corner)).astype(np.float32) + (row[2] * x).astype(np.float32)
        for row, corner in zip(to_level[:3], low, strict=True)
    ]


def _trilinear(box: NDArray[np.float32], positions: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Linear interpolation at positions (voxels of the box); beyond its outer voxels their values hold."""
    flat, shares, steps = np.zeros(positions[0].shape, np.int64), [], []
    for position, size, stride in zip(
        positions, box.shape, (box.shape[1] * box.shape[2], box.shape[2], 1), strict=True
    ):
        held = np.clip(position, 0, size - 1)
        left = np.minimum(held.astype(np.int64), max(size - 2, 0))
        shares.append(held - left.astype(np.float32))
        steps.append(stride if size > 1 else 0)
        flat += left * stride
    values = box.reshape(-1)
    corners = [values.take(flat + (dz + dy + dx)) for dz, dy, dx in itertools.product(*((0, step) for step in steps))]
    for share in reversed(shares):  # pairs that differ along x, then along y, then along z
        corners = [near + share * (far - near) for near, far in zip(corners[0::2], corners[1::2], strict=True)]
    return corners[0]


def _between(to_mm: FloatArray, other_to_mm: FloatArray) -> FloatArray:
    """(4, 4) map from the voxel index of a second grid to that of the first."""
    return np.asarray(np.linalg.solve(to_mm, np.asarray(other_to_mm, dtype=np.float64)), dtype=np.float64)


def _sampled_spacing_mm(crop_to_scan: FloatArray, spacing_zyx_mm: Spacing) -> Spacing:
    """Spacing in mm at which a crop samples each axis of the scan: that of the crop's axis nearest to it."""
    in_mm = crop_to_scan[:3, :3] * np.array(spacing_zyx_mm)[:, None]
    lengths = np.linalg.norm(in_mm, axis=0)
    z, y, x = lengths[np.abs(in_mm / lengths).argmax(1)].tolist()
    return z, y, x


def _triple(values: NDArray[Any]) -> Shape:
    z, y, x = values.tolist()
    return z, y, x
