"""Local shuffling: the voxels inside small blocks change places. Source: METHOD.md section 4.2."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

LARGEST_SHARE = 10  # a block is at most a tenth of the crop along each axis


@dataclass(frozen=True)
class Shuffle:
    """Flat voxel indices of a crop: voxel `to[n]` receives the crop's value at `source[n]`; no index twice in `to`."""

    to: Tensor
    source: Tensor


def draw_shuffle(rng: np.random.Generator, shape_zyx: tuple[int, int, int], blocks: int) -> Shuffle:
    """Blocks of 1..size//10 voxels along each axis (at least 1) at uniform places; where two meet, the later counts."""
    voxels = np.arange(np.prod(shape_zyx)).reshape(shape_zyx)
    result = voxels.copy()
    for _ in range(blocks):
        sides = [rng.integers(1, max(1, size // LARGEST_SHARE), endpoint=True) for size in shape_zyx]
        corner = [rng.integers(0, size - side, endpoint=True) for size, side in zip(shape_zyx, sides, strict=True)]
        box = tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
        result[box] = rng.permutation(voxels[box].ravel()).reshape(sides)  # from the untouched crop, as published
    to = np.flatnonzero(result != voxels)
    return Shuffle(torch.from_numpy(to), torch.from_numpy(result.ravel()[to]))


def shuffle(crop_ZYX: Tensor, change: Shuffle) -> Tensor:
    """A copy of the crop with the drawn voxels replaced."""
    out = crop_ZYX.flatten().clone()
    out[change.to] = crop_ZYX.flatten()[change.source]
    return out.view_as(crop_ZYX)
