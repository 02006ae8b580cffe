"""Smooth fields from few numbers: values on a coarse lattice spread over a fine grid axis by axis, and noise made so.

Spreading is three products with small dense matrices, which is far faster than a general resampler.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]


def linear_weights(positions: NDArray[np.float64], size: int) -> Field:
    """(N, size) matrix that interpolates lattice values 0 .. size-1 at fractional positions, constant outside."""
    clipped = np.clip(positions, 0, size - 1)
    low = np.minimum(clipped.astype(int), max(size - 2, 0))
    matrix = np.zeros((len(clipped), size), np.float32)
    rows = np.arange(len(clipped))
    matrix[rows, low] = 1 - (clipped - low)
    if size > 1:
        matrix[rows, low + 1] += clipped - low
    return matrix


def cubic_weights(positions: NDArray[np.float64], size: int) -> Field:
    """(N, size) matrix of cubic B-splines at lattice points 0 .. size-1: smooth, with continuous curvature."""
    away = np.abs(positions[:, None] - np.arange(size)[None, :])
    inner = 2 / 3 - away**2 * (1 - away / 2)
    outer = np.maximum(2 - away, 0) ** 3 / 6
    return np.where(away < 1, inner, outer).astype(np.float32)


def spread(coarse_ZYX: Field, weights: Sequence[Field]) -> Field:
    """The coarse array (z, y, x) multiplied by one weight matrix an axis."""
    z, y, x = weights
    partial = np.tensordot(z, coarse_ZYX, axes=(1, 0))
    partial = np.matmul(y, partial)
    return np.asarray(partial @ x.T, np.float32)


def smooth_noise(shape_zyx: Sequence[int], cell: float, rng: np.random.Generator) -> Field:
    """Gaussian noise of mean 0 and about unit variance that changes over `cell` grid points."""
    sizes = [int(np.ceil(n / cell)) + 3 for n in shape_zyx]
    coarse = rng.standard_normal(sizes, dtype=np.float32)
    weights = [cubic_weights(np.arange(n) / cell + 1, size) for n, size in zip(shape_zyx, sizes, strict=True)]
    return spread(coarse, weights) * np.float32(
        2.6
    )  # a cubic B-spline sum keeps 0.4 of the variance per axis: 0.39 ** -1
