"""Non-linear intensity: a monotone Bezier curve from [0, 1] to [0, 1]. Source: METHOD.md sections 4.2 and 4.3."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CURVE_POINTS = 4096  # along the curve; more change the table by less than float32 shows in an image of 12 bits
TABLE_POINTS = 2001  # one for every HU of the window [-1000, 1000]


@dataclass(frozen=True)
class IntensityMap:
    """Values (2001,) of a map at equal steps over [0, 1]."""

    table: Tensor


def draw_intensity(rng: np.random.Generator) -> IntensityMap:
    """A monotone map, increasing or, in half of the draws, decreasing.

    The curve (X(s), Y(s)) is cubic, with ends (0, 0), (1, 1) and two control points uniform in the unit square; the
    increasing map is f(X(s)) = Y(s), the decreasing one f(X(s)) = Y(1 - s).
    """
    (x1, y1), (x2, y2) = rng.uniform(size=(2, 2))
    curve_x, curve_y = _bezier(x1, x2), _bezier(y1, y2)
    if rng.uniform() < 0.5:
        curve_y = curve_y[::-1]
    table = np.interp(np.linspace(0, 1, TABLE_POINTS), curve_x, curve_y)
    return IntensityMap(torch.from_numpy(table.astype(np.float32)))


def map_intensity(crop_ZYX: Tensor, change: IntensityMap) -> Tensor:
    """The crop with each value replaced by the table's, linear between its points and constant outside [0, 1]."""
    position = crop_ZYX.clamp(0, 1) * (TABLE_POINTS - 1)
    below = position.floor().clamp(max=TABLE_POINTS - 2)
    index = below.nan_to_num().to(torch.int32)  # a NaN stays one through the weight of lerp
    return torch.lerp(change.table[index], change.table[index + 1], position - below)


def _bezier(first: float, second: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """One coordinate of the cubic with control values 0, first, second, 1; never decreasing (METHOD.md section 4.3)."""
    s = np.linspace(0, 1, CURVE_POINTS)
    return 3 * first * s * (1 - s) ** 2 + 3 * second * s**2 * (1 - s) + s**3
