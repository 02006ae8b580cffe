"""Whitening of embeddings for search: centred, decorrelated by PCA to at most 64 dimensions, length one.

Source: METHOD.md 5b step 0. The transform is part of an index and travels with it. Shapes: N vectors, D dimensions in,
R dimensions out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import Damage, InputError

MOST_DIMENSIONS = 64
POINTS_PER_DIMENSION = 4
"""N points whitened to N - 1 dimensions are all equally far from each other, so small sets keep N / 4 dimensions."""

SMALLEST_SD = 1e-5  # of the largest; embeddings are float32, so below it there is rounding, not signal


@dataclass(frozen=True, eq=False)
class Whitening:
    """A vector's whitened form is (vector - mean_D) @ projection_DR in float64, scaled to length one."""

    mean_D: NDArray[np.float64]
    projection_DR: NDArray[np.float64]

    def transform(self, vectors_ND: NDArray[Any]) -> NDArray[np.float32]:
        """(N, R) float32 of length one; a vector equal to the mean stays zero. Raises InputError for another D."""
        vectors = np.asarray(vectors_ND, dtype=np.float64)
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean_D):
            raise InputError(
                f"vectors of shape {vectors.shape} do not fit a whitening of {len(self.mean_D)} dimensions"
            )
        # row by row: a matrix product may round a row differently in another batch
        white = np.stack([(row - self.mean_D) @ self.projection_DR for row in vectors])
        norms = np.linalg.norm(white, axis=1, keepdims=True)
        return (white / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def fit(vectors_ND: NDArray[Any]) -> Whitening:
    """The whitening of N vectors (N, D), to R = min(64, N / 4, rank) dimensions, at least one.

    Raises InputError if all vectors are equal (or there is only one), since then no direction is left.
    """
    vectors = np.asarray(vectors_ND, dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise InputError(f"whitening needs a matrix of finite numbers, not shape {vectors.shape} with gaps")
    mean_D = vectors.mean(0)
    _, singular, directions = np.linalg.svd(vectors - mean_D, full_matrices=False)
    rank = int((singular > max(SMALLEST_SD * singular.max(), 1e-12)).sum())
    if rank == 0:
        raise InputError(f"{len(vectors)} equal vectors cannot be whitened; embed at least two different scans")
    kept = max(1, min(MOST_DIMENSIONS, len(vectors) // POINTS_PER_DIMENSION, rank))
    deviations = singular[:kept] / np.sqrt(len(vectors))
    largest = np.abs(directions[:kept]).argmax(1)
    signs = np.sign(directions[np.arange(kept), largest])  # the sign of a principal axis is free: fix it
    return Whitening(mean_D, (directions[:kept] * (signs / deviations)[:, None]).T)


def save(whitening: Whitening, path: Path) -> None:
    """Write both arrays as one .npz."""
    np.savez(path, mean_D=whitening.mean_D, projection_DR=whitening.projection_DR)


def load(path: Path) -> Whitening:
    """What `save` wrote. Raises Damage if the file cannot be read."""
    try:
        with np.load(path) as arrays:
            return Whitening(arrays["mean_D"], arrays["projection_DR"])
    except (OSError, ValueError, KeyError) as error:
        raise Damage(f"the whitening in {path} cannot be read ({error}); build the index again") from error
