"""In-painting and out-painting: a box becomes noise, or all but a box does. Source: METHOD.md section 4.2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MARGIN = 3  # voxels between a box and the crop's faces

Box = tuple[slice, slice, slice]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class InPaint:
    """Noise, uniform in (0, 1), for a box of the crop."""

    box: Box
    noise: Tensor


@dataclass(frozen=True)
class OutPaint:
    """Noise, uniform in (0, 1), for the whole crop but a box that is kept."""

    kept: Box
    noise: Tensor


def draw_in_paint(rng: np.random.Generator, shape_zyx: Shape) -> InPaint:
    """One box with sides of size//6..size//3 voxels."""
    sides = [int(rng.integers(size // 6, size // 3, endpoint=True)) for size in shape_zyx]
    return InPaint(_place(rng, shape_zyx, sides), _noise(rng, sides))


def draw_out_paint(rng: np.random.Generator, shape_zyx: Shape) -> OutPaint:
    """One kept box with sides of size - (3*size//7..4*size//7) voxels."""
    sides = [size - int(rng.integers(3 * size // 7, 4 * size // 7, endpoint=True)) for size in shape_zyx]
    return OutPaint(_place(rng, shape_zyx, sides), _noise(rng, list(shape_zyx)))


def in_paint(crop_ZYX: Tensor, change: InPaint) -> Tensor:
    """A copy of the crop with noise in the box."""
    out = crop_ZYX.clone()
    out[change.box] = change.noise
    return out


def out_paint(crop_ZYX: Tensor, change: OutPaint) -> Tensor:
    """Noise with the kept box of the crop in it."""
    out = change.noise.clone()
    out[change.kept] = crop_ZYX[change.kept]
    return out


def _place(rng: np.random.Generator, shape_zyx: Shape, sides: list[int]) -> Box:
    """A box whose corner is uniform from the margin to size - side - margin."""
    z, y, x = (
        int(rng.integers(MARGIN, size - side - MARGIN, endpoint=True))
        for size, side in zip(shape_zyx, sides, strict=True)
    )
    return slice(z, z + sides[0]), slice(y, y + sides[1]), slice(x, x + sides[2])


def _noise(rng: np.random.Generator, sides: list[int]) -> Tensor:
    return torch.from_numpy(rng.random(size=sides, dtype=np.float32))
