"""Elastic deformation: smoothed noise displaces y and x, never z. Source: METHOD.md sections 4.2 and 4.3.

The published field is uniform noise on every voxel, smoothed by a Gaussian (truncated at 4 sigma, zero outside the
crop) and scaled by alpha. Here the noise lies on a grid of half a sigma and three small dense matrices, which hold the
Gaussian, spread it: the same mean and covariance for a 64th of the draws at sigma 8, since two samples a sigma lose
nothing of a Gaussian (the aliased part of its spectrum is below 1e-8).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semgen_platform.errors import ConfigError

TRUNCATE_SIGMAS = 4.0

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """How far and how smoothly a crop is warped."""

    sigma_voxels: float = 8.0
    """Width of the Gaussian in voxels of the crop."""
    alpha: float = 991.0
    """Factor on the smoothed noise; 991 at sigma 8 displaces by 3.79 voxels (sd of each component). 0 switches off."""

    def __post_init__(self) -> None:
        if self.sigma_voxels <= 0 or self.alpha < 0:
            raise ConfigError(
                f"elastic sigma {self.sigma_voxels:g} must be above 0 and alpha {self.alpha:g} at least 0"
            )

    @property
    def grid_spacing(self) -> int:
        """Voxels between two noise samples: half a sigma."""
        return max(1, int(self.sigma_voxels // 2))


def draw_elastic(rng: np.random.Generator, shape_zyx: Shape, config: ElasticConfig) -> Tensor:
    """Noise uniform in (-1, 1) on the coarse grid, (2, z, y, x): one component for y and one for x."""
    cells = [_cells(size, config.grid_spacing) for size in shape_zyx]
    return torch.from_numpy(rng.uniform(-1, 1, size=(2, *cells)).astype(np.float32))


def displacement(noise: Tensor, shape_zyx: Shape, config: ElasticConfig) -> Tensor:
    """Displacement in voxels along (y, x) for every voxel, (2, z, y, x), from the drawn noise."""
    along_z, along_y, along_x = (
        _spread(size, cells, config.sigma_voxels).to(noise.device)
        for size, cells in zip(shape_zyx, noise.shape[1:], strict=True)
    )
    field = along_y @ noise @ along_x.T  # (2, cells of z, y, x)
    return config.alpha * torch.einsum("zc,kcyx->kzyx", along_z, field)


def warp(crop_ZYX: Tensor, displacement_KZYX: Tensor) -> Tensor:
    """The crop read at each voxel's place plus its displacement (y, x): linear, reflected at the border."""
    _, height, width = crop_ZYX.shape
    y = torch.arange(height, device=crop_ZYX.device).view(-1, 1) + displacement_KZYX[0]
    x = torch.arange(width, device=crop_ZYX.device) + displacement_KZYX[1]
    grid = torch.stack(
        ((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1
    )  # torch wants (x, y), voxel edges at -1, 1
    warped = functional.grid_sample(
        crop_ZYX[:, None], grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return warped[:, 0]


def _cells(size: int, spacing: int) -> int:
    return max(1, round(size / spacing))


@lru_cache(maxsize=64)
def _spread(size: int, cells: int, sigma: float) -> Tensor:
    """(size, cells) matrix from noise at cell centres to smooth values at voxels; one cell a voxel is a plain Gaussian.

    The factor sqrt(size / cells) makes up for the variance that fewer, wider cells would lose.
    """
    radius = int(TRUNCATE_SIGMAS * sigma + 0.5)
    total = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).sum()
    step = size / cells
    centres = (np.arange(cells) + 0.5) * step - 0.5
    distance = np.arange(size)[:, None] - centres
    weights = np.where(np.abs(distance) <= radius, np.exp(-0.5 * (distance / sigma) ** 2), 0.0) / total
    return torch.from_numpy((np.sqrt(step) * weights).astype(np.float32))
