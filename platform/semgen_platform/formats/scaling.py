"""Stored values times slope plus intercept, without a float64 copy of the volume.

Integers stay exact integers wherever slope and intercept are whole; else each slab is computed in float64 and kept as
float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.volume import INT16, fits_int16

SIXTEEN_BITS = (np.dtype(np.int16), np.dtype(np.uint16))


def rescaled_slab(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """`stored * slope + intercept` of one slab: exact integers where all three are whole, else float64."""
    if slope == 1 and intercept == 0:
        return stored
    if _is_whole(slope, intercept) and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 4:  # none overflows int64
        narrow = stored.dtype.itemsize <= 2 and abs(slope) < 2**14 and abs(intercept) < 2**29
        wide: NDArray[Any] = stored.astype(np.int32 if narrow else np.int64)
        wide *= int(slope)
        wide += int(intercept)
        return wide
    return stored * np.float64(slope) + np.float64(intercept)


class Stack:
    """An int16 volume filled slab by slab, which turns to float32 at the first slab that does not fit."""

    def __init__(self, shape_zyx: tuple[int, int, int]) -> None:
        self.voxels: NDArray[Any] = np.empty(shape_zyx, dtype=np.int16)

    def fill(self, index: int, stored_YX: NDArray[Any], slope: float = 1.0, intercept: float = 0.0) -> None:
        """Put `stored_YX * slope + intercept` at axis-0 position `index`."""
        if self.voxels.dtype == np.int16 and _stays_int16(stored_YX, slope, intercept):
            _rescale_modulo(stored_YX, int(slope), int(intercept), out=self.voxels[index])
            return
        slab = rescaled_slab(stored_YX, slope, intercept)
        if self.voxels.dtype == np.int16 and not fits_int16(slab):
            self.voxels = self.voxels.astype(np.float32)
        self.voxels[index] = slab


def rescaled(stored_ZYX: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """A whole volume rescaled slab by slab; with slope 1 and intercept 0 the array itself."""
    if slope == 1 and intercept == 0:
        return stored_ZYX
    z, y, x = stored_ZYX.shape
    stack = Stack((z, y, x))
    for index in range(z):
        stack.fill(index, stored_ZYX[index], slope, intercept)
    return stack.voxels


def _is_whole(slope: float, intercept: float) -> bool:
    return slope == int(slope) and intercept == int(intercept) and max(abs(slope), abs(intercept)) < 2**31


def _stays_int16(stored: NDArray[Any], slope: float, intercept: float) -> bool:
    """Whether 16-bit integers stay in the range of int16; a straight line is largest and least at its ends."""
    if stored.dtype not in SIXTEEN_BITS or stored.size == 0 or not _is_whole(slope, intercept):
        return False
    ends = [int(value) * int(slope) + int(intercept) for value in (stored.min(), stored.max())]
    return bool(INT16.min <= min(ends) and max(ends) <= INT16.max)


def _rescale_modulo(stored: NDArray[Any], slope: int, intercept: int, out: NDArray[np.int16]) -> None:
    """The same in arithmetic modulo 2**16, four times as fast; right for whatever ends in the range of int16."""
    values, result = stored.view(np.uint16), out.view(np.uint16)
    if slope != 1:
        values = np.multiply(values, np.uint16(slope % 2**16), out=result)
    np.add(values, np.uint16(intercept % 2**16), out=result)
