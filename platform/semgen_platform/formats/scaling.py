"""Stored values times slope plus intercept, without a float64 copy of the volume.

Integers stay exact integers wherever slope and intercept are whole; else each slab is computed in float64 and kept as
float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.volume import INT16


def rescaled_slab(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """`stored * slope + intercept` of one slab: exact integers where all three are whole, else float64."""
    if slope == 1 and intercept == 0:
        return stored
    whole = slope == int(slope) and intercept == int(intercept) and max(abs(slope), abs(intercept)) < 2**31
    if whole and stored.dtype.kind in "iu" and stored.dtype.itemsize <= 4:  # so that nothing overflows int64
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

    def fill(self, index: int, slab: NDArray[Any]) -> None:
        """Put a (y, x) slab at axis-0 position `index`."""
        if self.voxels.dtype == np.int16 and not _fits_int16(slab):
            self.voxels = self.voxels.astype(np.float32)
        self.voxels[index] = slab


def rescaled(stored_ZYX: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """A whole volume rescaled slab by slab; with slope 1 and intercept 0 the array itself."""
    if slope == 1 and intercept == 0:
        return stored_ZYX
    z, y, x = stored_ZYX.shape
    stack = Stack((z, y, x))
    for index in range(z):
        stack.fill(index, rescaled_slab(stored_ZYX[index], slope, intercept))
    return stack.voxels


def _fits_int16(slab: NDArray[Any]) -> bool:
    if slab.dtype == np.int16 or slab.size == 0:
        return True
    low, high = slab.min(), slab.max()
    if not (low >= INT16.min and high <= INT16.max):  # also where NaN
        return False
    return slab.dtype.kind in "iu" or bool(np.array_equal(slab, np.rint(slab)))
