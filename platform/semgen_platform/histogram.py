"""One exact histogram of a volume's values, on which its statistics, its flags and the search for label maps rest.

Pure functions of arrays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOWEST, HIGHEST = -(2**15), 2**15 - 1
PIECE = 2**17
"""Voxels counted at once: as 64-bit integers, which counting wants, they stay in a second-level cache."""


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
    """Exact histogram of an int16 or a finite float32 array."""
    counts = np.zeros(2**16, dtype=np.int64)
    above, wide = np.empty(PIECE, dtype=np.uint16), np.empty(PIECE, dtype=np.intp)
    for piece in _pieces(voxels_ZYX):
        low, size = int(piece.min()), len(piece)
        np.subtract(piece.view(np.uint16), np.uint16(low % 2**16), out=above[:size])  # modulo 2**16, so never negative
        np.copyto(wide[:size], above[:size])
        found = np.bincount(wide[:size])
        counts[low - LOWEST : low - LOWEST + len(found)] += found
    return Histogram(counts)


def _pieces(voxels_ZYX: NDArray[Any]) -> Iterator[NDArray[np.int16]]:
    """All voxels, in rows of PIECE at most, as int16; of a volume in C order without a copy."""
    flat = voxels_ZYX.reshape(-1)
    for start in range(0, len(flat), PIECE):
        piece = flat[start : start + PIECE]
        yield piece if piece.dtype == np.int16 else np.clip(np.rint(piece), LOWEST, HIGHEST).astype(np.int16)
