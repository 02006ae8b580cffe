"""One histogram of a volume's values, on which its statistics, its flags and the search for label maps rest.

Pure functions of arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -(2**15), 2**15 - 1
SAMPLED_ABOVE, SAMPLED_ROWS = 2**24, 4
"""Voxels, 64 slices of 512 x 512: counting more of them one by one would take an eighth of the whole conversion."""


@dataclass(frozen=True)
class Histogram:
    """Counts of voxels by value rounded to whole HU, clipped to int16; `counts[0]` is the value -32768."""

    counts: NDArray[np.int64]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def share(self, low: int, high: int) -> float:
        """Share of voxels with low <= value <= high."""
        return float(self.counts[low - LOWEST : high - LOWEST + 1].sum() / max(1, self.total))

    def percentile(self, percent: float) -> float:
        """The smallest value that at least `percent` % of the voxels do not exceed."""
        rank = max(1, int(np.ceil(self.total * percent / 100)))
        return float(np.searchsorted(np.cumsum(self.counts), rank) + LOWEST)

    def without(self, value: float | None) -> Histogram:
        """The same without the voxels of one value, where that leaves any."""
        if value is None or not LOWEST <= value <= HIGHEST:
            return self
        counts = self.counts.copy()
        counts[round(value) - LOWEST] = 0
        return Histogram(counts) if counts.any() else self


def histogram(voxels_ZYX: NDArray[Any]) -> Histogram:
    """Histogram of an int16 or a finite float32 (z, y, x) array, exact up to SAMPLED_ABOVE voxels.

    Of a larger one every fourth row counts, and of the others what lies beyond the values of these, so that the lowest
    and the highest value are exact.
    """
    step = 1 if voxels_ZYX.size <= SAMPLED_ABOVE else SAMPLED_ROWS
    counts = np.zeros(2**16, dtype=np.int64)
    for slab in voxels_ZYX:
        _count(_whole(slab[::step]), counts)
    if step > 1:
        present = np.flatnonzero(counts)
        low, high = int(present[0]) + LOWEST, int(present[-1]) + LOWEST
        for slab in voxels_ZYX:
            if slab.min() < low or slab.max() > high:
                whole = _whole(slab)
                _count(whole[(whole < low) | (whole > high)], counts)
    return Histogram(counts)


def _whole(slab_YX: NDArray[Any]) -> NDArray[np.int16]:
    if slab_YX.dtype == np.int16:
        return np.ascontiguousarray(slab_YX)
    whole: NDArray[np.int16] = np.clip(np.rint(slab_YX), LOWEST, HIGHEST).astype(np.int16)
    return whole


def _count(values: NDArray[np.int16], counts: NDArray[np.int64]) -> None:
    if values.size:
        low = int(values.min())
        above = values.reshape(-1).view(np.uint16) - np.uint16(low % 2**16)  # modulo 2**16, so never negative
        found = np.bincount(above)
        counts[low - LOWEST : low - LOWEST + len(found)] += found
