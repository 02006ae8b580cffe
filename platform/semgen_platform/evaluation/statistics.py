"""Scores and their spread: small functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (0 for one value), lowest and highest of some scores."""

    mean: float
    sd: float
    low: float
    high: float


def spread_of(scores: Sequence[float]) -> Spread:
    """Of at least one score."""
    values = np.asarray(scores, dtype=np.float64)
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Spread(float(values.mean()), sd, float(values.min()), float(values.max()))


def balanced_accuracy(truth_N: NDArray[Any], predicted_N: NDArray[Any]) -> float:
    """Mean over the classes that occur in the truth of the share found, so that frequent classes do not decide."""
    hits = truth_N == predicted_N
    return float(np.mean([hits[truth_N == label].mean() for label in np.unique(truth_N)]))
