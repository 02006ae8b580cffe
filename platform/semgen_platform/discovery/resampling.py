"""Grids along the axes of patient space, means of a scan over their cells, and values between their centres.

Inside discovery a place is (z, y, x) in LPS+ millimetres, so that points, shifts and arrays share one axis order;
`zyx_matrix` converts at the edge. Nothing here uses BLAS, whose sums may depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from semgen_platform import geometry

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Shape = tuple[int, int, int]

AIR_HU = -1000.0
LEAST_COVERED = 0.5  # share of a cell that must hold measured voxels for its mean to count


@dataclass(frozen=True)
class Grid:
    """Cubic cells along z, y, x. `origin_zyx_mm` is the centre of cell (0, 0, 0)."""

    origin_zyx_mm: tuple[float, float, float]
    spacing_mm: float
    shape_zyx: Shape

    def to_index(self, points_zyx_mm: Any) -> FloatArray:
        """(..., 3) points in mm as fractional cell indices."""
        return (np.asarray(points_zyx_mm, dtype=np.float64) - self.origin_zyx_mm) / self.spacing_mm

    def to_mm(self, index_zyx: Any) -> FloatArray:
        """(..., 3) cell indices as points in mm."""
        return np.asarray(index_zyx, dtype=np.float64) * self.spacing_mm + self.origin_zyx_mm

    @property
    def edges_zyx_mm(self) -> tuple[FloatArray, FloatArray]:
        """Lower and upper outer faces."""
        return self.to_mm([-0.5] * 3), self.to_mm(np.array(self.shape_zyx) - 0.5)

    def centres_zyx_mm(self) -> FloatArray:
        """(cells, 3) centres of all cells in C order."""
        return self.to_mm(np.stack(np.unravel_index(np.arange(np.prod(self.shape_zyx)), self.shape_zyx), axis=1))


def grid_over(low_zyx_mm: Any, high_zyx_mm: Any, spacing_mm: float) -> Grid:
    """The smallest grid whose first face is at `low` and whose last is at or beyond `high`."""
    low, high = np.asarray(low_zyx_mm, dtype=np.float64), np.asarray(high_zyx_mm, dtype=np.float64)
    z, y, x = np.maximum(1, np.ceil((high - low) / spacing_mm - 1e-6)).astype(int).tolist()
    origin_z, origin_y, origin_x = (low + spacing_mm / 2).tolist()
    return Grid((origin_z, origin_y, origin_x), spacing_mm, (z, y, x))


def zyx_matrix(zyx_to_lps_mm: Any) -> FloatArray:
    """The same map with its world axes in the order z, y, x as well; also undoes itself."""
    return np.asarray(zyx_to_lps_mm, dtype=np.float64)[[2, 1, 0, 3]]


def extent_zyx_mm(shape_zyx: Shape, zyx_to_lps_mm: Any) -> tuple[FloatArray, FloatArray]:
    """Lower and upper corner, along world axes, of the box round all voxels of a volume (outer faces)."""
    corners = np.stack(np.meshgrid(*[(-0.5, n - 0.5) for n in shape_zyx], indexing="ij"), axis=-1).reshape(-1, 3)
    world = geometry.apply_affine(zyx_matrix(zyx_to_lps_mm), corners)
    return world.min(axis=0), world.max(axis=0)


def mean_over_cells(
    voxels_ZYX: NDArray[Any], zyx_to_lps_mm: Any, padding_hu: float | None, grid: Grid
) -> tuple[Float32Array, BoolArray]:
    """(mean HU, validity) of a scan on a grid; cells without measured voxels hold air and are invalid.

    The mean is that of the trilinear interpolant over each cell, so it is an area mean where voxels are finer than
    cells and a smooth line where slices are thicker. Voxels that equal `padding_hu` do not count. An oblique scan is
    averaged over cells along its own axes first and then interpolated, since a separable mean has no other axes.
    """
    affine = geometry.reverse_index_axes(np.asarray(zyx_to_lps_mm, dtype=np.float64))
    voxels, affine = geometry.reorient(voxels_ZYX, affine, geometry.canonical_axes(affine))
    if geometry.obliquity_deg(affine) <= geometry.OBLIQUE_TOLERANCE_DEG:
        first_mm = affine[[2, 1, 0], 3]
        return _separable_mean(voxels, first_mm, np.array(geometry.spacing_zyx_mm(affine)), padding_hu, grid)
    return _oblique_mean(voxels, affine, padding_hu, grid)


def _separable_mean(
    voxels_ZYX: NDArray[Any], first_zyx_mm: FloatArray, spacing_zyx_mm: FloatArray, padding_hu: float | None, grid: Grid
) -> tuple[Float32Array, BoolArray]:
    shape = voxels_ZYX.shape
    weights = [_cell_weights(shape[a], first_zyx_mm[a], spacing_zyx_mm[a], grid, a) for a in range(3)]
    values = voxels_ZYX.astype(np.float32)
    measured = None if padding_hu is None else voxels_ZYX != padding_hu
    if measured is None or measured.all():
        mass = np.ones((1, 1, 1), np.float32)
        for axis, weight in enumerate(weights):
            mass = mass * np.asarray(weight.sum(axis=1), dtype=np.float32).reshape(
                [-1 if a == axis else 1 for a in range(3)]
            )
    else:
        values = np.where(measured, values, np.float32(0))
        mass = _apply_weights(weights, measured.astype(np.float32))
    total = _apply_weights(weights, values)
    valid = np.broadcast_to(mass >= LEAST_COVERED, total.shape)
    mean = np.divide(total, mass, out=np.full(total.shape, AIR_HU, np.float32), where=valid)
    return mean, np.ascontiguousarray(valid)


def _apply_weights(weights: list[sparse.csr_array], values_ZYX: Float32Array) -> Float32Array:
    """Each axis multiplied by its (cells, voxels) matrix; the axis that shrinks most comes first in time."""
    out = values_ZYX
    for axis in sorted(range(3), key=lambda a: weights[a].shape[0] / weights[a].shape[1]):
        moved = np.moveaxis(out, axis, 0)
        flat = np.ascontiguousarray(moved).reshape(moved.shape[0], -1)
        out = np.moveaxis((weights[axis] @ flat).reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(out)


def _cell_weights(voxels: int, first_mm: float, step_mm: float, grid: Grid, axis: int) -> sparse.csr_array[Any]:
    """(cells, voxels) float32: the mean of each voxel's linear hat over each cell; a row sums to the cell's covered
    share.

    The outermost voxels are held constant over their outer halves.
    """
    cells, origin_mm, cell_mm = grid.shape_zyx[axis], grid.origin_zyx_mm[axis], grid.spacing_mm
    edges = (origin_mm + (np.arange(cells + 1) - 0.5) * cell_mm - first_mm) / step_mm
    edges = np.clip(edges, -0.5, voxels - 0.5)
    integral = _hat_integral(edges[:, None] - np.arange(voxels)[None])
    integral[:, 0] = np.where(edges < 0, edges + 0.5, integral[:, 0])
    integral[:, -1] = np.where(edges > voxels - 1, edges - (voxels - 1) + 0.5, integral[:, -1])
    weights = np.diff(integral, axis=0) * (step_mm / cell_mm)
    return sparse.csr_array(np.where(weights > 1e-9, weights, 0.0).astype(np.float32))


def _hat_integral(t: FloatArray) -> FloatArray:
    """Integral of max(0, 1 - |t|) from minus infinity."""
    inside = np.clip(t, -1.0, 1.0)
    return np.where(inside < 0, (inside + 1) ** 2 / 2, 1 - (1 - inside) ** 2 / 2)


def _oblique_mean(
    voxels_ZYX: NDArray[Any], ijk_to_lps_mm: FloatArray, padding_hu: float | None, grid: Grid
) -> tuple[Float32Array, BoolArray]:
    steps = np.array(geometry.spacing_zyx_mm(ijk_to_lps_mm))
    own = grid_over(-0.5 * steps, (np.array(voxels_ZYX.shape) - 0.5) * steps, grid.spacing_mm)
    mean, valid = _separable_mean(voxels_ZYX, np.zeros(3), steps, padding_hu, own)
    to_index = np.linalg.inv(zyx_matrix(geometry.reverse_index_axes(ijk_to_lps_mm)))
    points = geometry.apply_affine(np.asarray(to_index, dtype=np.float64), grid.centres_zyx_mm()) * steps
    total, mass = sample(field(np.where(valid, mean, 0), valid), own, points)
    inside = mass >= LEAST_COVERED
    hu = np.divide(total, mass, out=np.full(total.shape, AIR_HU, np.float32), where=inside)
    return hu.reshape(grid.shape_zyx), inside.reshape(grid.shape_zyx)


def field(*channels_ZYX: NDArray[Any]) -> torch.Tensor:
    """(C, z, y, x) float32 tensor of arrays on one grid, to be sampled together."""
    return torch.from_numpy(np.stack([np.asarray(c, dtype=np.float32) for c in channels_ZYX]))


def sample(field_CZYX: torch.Tensor, grid: Grid, points_zyx_mm: FloatArray) -> Float32Array:
    """(C, N) trilinear values of a field at (N, 3) points in mm; outside the grid every channel is 0.

    So a channel that was multiplied by its validity, divided by the validity channel, is the mean over valid
    neighbours.
    """
    index_xyz = grid.to_index(points_zyx_mm)[:, ::-1]
    unit = (2 * index_xyz + 1) / np.array(grid.shape_zyx[::-1]) - 1  # -1 and 1 are the outer faces
    places = torch.from_numpy(unit.astype(np.float32)).reshape(1, 1, 1, -1, 3)
    values = torch.nn.functional.grid_sample(field_CZYX[None], places, mode="bilinear", align_corners=False)
    out: Float32Array = values.reshape(len(field_CZYX), -1).numpy()
    return out


def halved(values_ZYX: NDArray[Any], valid_ZYX: BoolArray) -> tuple[Float32Array, BoolArray]:
    """(means of the valid values in blocks of 2x2x2, where half a block or more is valid); odd sizes are filled up."""
    widths = [(0, n % 2) for n in values_ZYX.shape]
    total = _sum_of_pairs(np.pad(np.where(valid_ZYX, values_ZYX, 0).astype(np.float32), widths))
    count = _sum_of_pairs(np.pad(valid_ZYX.astype(np.float32), widths))
    enough = count >= 8 * LEAST_COVERED
    mean: Float32Array = np.divide(total, count, out=np.zeros(total.shape, np.float32), where=enough)
    return mean, enough


def _sum_of_pairs(values_ZYX: Float32Array) -> Float32Array:
    """Sums over blocks of 2x2x2 of even sizes."""
    planes = values_ZYX[0::2] + values_ZYX[1::2]
    rows = planes[:, 0::2] + planes[:, 1::2]
    return rows[:, :, 0::2] + rows[:, :, 1::2]
