"""The pyramid: which levels a volume has, where their voxels lie, and their values as block means.

Pure functions of arrays. Level n+1 halves the axes whose spacing is at most 1.5 times the finest spacing of level n, so
that thick slices are not thinned further, until every axis is at most 64 voxels. Source: DESIGN.md section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]

SMALL_ENOUGH = 64
SLAB_VOXELS = 2**19  # in slices that are averaged at once; their sums stay in a second-level cache
THICK = 1.5  # an axis this many times coarser than the finest one is not halved


@dataclass(frozen=True)
class Level:
    """One level: its shape and how many voxels of level 0 each of its voxels spans, both (z, y, x)."""

    shape_zyx: Shape
    factor_zyx: Shape


def plan_levels(shape_zyx: Shape, spacing_zyx_mm: tuple[float, float, float]) -> list[Level]:
    """Levels of a volume, the finest (the volume itself) first. An axis of one voxel is never halved."""
    levels = [Level(shape_zyx, (1, 1, 1))]
    while max(levels[-1].shape_zyx) > SMALL_ENOUGH:
        last = levels[-1]
        spacing = [s * f for s, f in zip(spacing_zyx_mm, last.factor_zyx, strict=True)]
        finest = min(s for s, n in zip(spacing, last.shape_zyx, strict=True) if n > 1)
        steps = [2 if n > 1 and s <= THICK * finest else 1 for s, n in zip(spacing, last.shape_zyx, strict=True)]
        shape = [-(-n // step) for n, step in zip(last.shape_zyx, steps, strict=True)]
        factor = [f * step for f, step in zip(last.factor_zyx, steps, strict=True)]
        levels.append(Level(_triple(shape), _triple(factor)))
    return levels


def level_affine(zyx_to_lps_mm: NDArray[np.float64], factor_zyx: Shape) -> NDArray[np.float64]:
    """(4, 4) `zyx_to_lps_mm` of a level from that of level 0: its voxels are centred on the blocks they average."""
    change = np.diag([*map(float, factor_zyx), 1.0])
    change[:3, 3] = (np.array(factor_zyx) - 1) / 2
    return np.asarray(zyx_to_lps_mm, dtype=np.float64) @ change


def block_mean(voxels_ZYX: NDArray[Any], step_zyx: Shape, padding_hu: float | None) -> NDArray[Any]:
    """Means of blocks of `step_zyx` (1 or 2 per axis) voxels, in the same dtype (int16 or float32).

    Voxels equal to `padding_hu` do not count; a block of nothing else keeps that value. Where a size is odd the last
    block is what is left. int16 means are rounded half to even.
    """
    if padding_hu is not None and voxels_ZYX.dtype.kind == "i":  # else all voxels would be compared as float64
        padding_hu = int(padding_hu) if float(padding_hu).is_integer() else None
    step_z = step_zyx[0]
    out = np.empty([-(-n // step) for n, step in zip(voxels_ZYX.shape, step_zyx, strict=True)], voxels_ZYX.dtype)
    slab = 2 * max(1, SLAB_VOXELS // (2 * voxels_ZYX[0].size))  # even, so that no block is parted
    for z in range(0, len(voxels_ZYX), slab):
        out[z // step_z : (z + slab) // step_z] = _slab_mean(voxels_ZYX[z : z + slab], step_zyx, padding_hu)
    return out


def _slab_mean(voxels_ZYX: NDArray[Any], step_zyx: Shape, padding_hu: float | None) -> NDArray[Any]:
    padding = voxels_ZYX == padding_hu if padding_hu is not None else None
    if padding is not None and padding.any():
        return _mean_without(voxels_ZYX, padding, step_zyx)
    return _rounded(_block_sum(_summable(voxels_ZYX), step_zyx), _halvings(step_zyx))


def _mean_without(voxels_ZYX: NDArray[Any], padding: NDArray[np.bool_], step_zyx: Shape) -> NDArray[Any]:
    """The means of whole blocks, and instead of those of blocks with padding the means of what is left of them."""
    value = voxels_ZYX[padding][0]
    total = _block_sum(_summable(np.where(padding, voxels_ZYX.dtype.type(0), voxels_ZYX)), step_zyx)
    left_out = _block_sum(padding.view(np.uint8), step_zyx)
    mean = _rounded(total, _halvings(step_zyx))
    partial = left_out > 0
    count = 2 ** _halvings(step_zyx) - left_out[partial]
    # float64 holds every mean that ends in one half exactly, so the rounding is that of the true mean
    remaining = np.divide(total[partial], count, out=np.full(count.shape, value, np.float64), where=count > 0)
    mean[partial] = np.rint(remaining) if voxels_ZYX.dtype.kind == "i" else remaining
    return mean


def _summable(voxels_ZYX: NDArray[Any]) -> NDArray[Any]:
    """In a dtype in which eight of them can be added: int16 for those in [-4096, 4095], else int32; or float64."""
    if voxels_ZYX.dtype.kind != "i":
        return voxels_ZYX.astype(np.float64)
    return voxels_ZYX if voxels_ZYX.min() >= -4096 and voxels_ZYX.max() <= 4095 else voxels_ZYX.astype(np.int32)


def _halvings(step_zyx: Shape) -> int:
    """How often the sum of a block is halved to be its mean."""
    return sum(step == 2 for step in step_zyx)


def _block_sum(values_ZYX: NDArray[Any], step_zyx: Shape) -> NDArray[Any]:
    """Sums over blocks; the last voxel of an odd axis counts twice, which leaves means as they are."""
    for axis, step in enumerate(step_zyx):
        if step == 2:
            values = np.moveaxis(values_ZYX, axis, 0)
            pairs = len(values) // 2
            total = np.empty_like(values[0::2])
            np.add(values[0 : 2 * pairs : 2], values[1::2], out=total[:pairs])
            np.multiply(values[2 * pairs :], 2, out=total[pairs:])
            values_ZYX = np.moveaxis(total, 0, axis)
    return values_ZYX


def _rounded(total: NDArray[Any], halvings: int) -> NDArray[Any]:
    """total / 2**halvings; integers round half to even without leaving their dtype."""
    if total.dtype.kind != "i":
        return total / 2**halvings
    if halvings == 0:
        return total
    half_less_one = (1 << (halvings - 1)) - 1
    return (total + half_less_one + ((total >> halvings) & 1)) >> halvings


def _triple(values: list[int]) -> Shape:
    z, y, x = values
    return z, y, x
