"""The published composition: the elastic warp always, then exactly one of four changes. Source: METHOD.md section 4.1.

A crop's draw is a pure function of its key, so it does not depend on the worker, the batch or the device (the published
code shared one noise among its workers and its epochs: METHOD.md section 4.4, faults).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from semgen_platform.errors import ConfigError
from semgen_platform.ids import uniform_stream
from semgen_platform.perturbations.elastic import ElasticConfig, Shape, displacement, draw_elastic, warp
from semgen_platform.perturbations.intensity import IntensityMap, draw_intensity, map_intensity
from semgen_platform.perturbations.painting import InPaint, OutPaint, draw_in_paint, draw_out_paint, in_paint, out_paint
from semgen_platform.perturbations.shuffling import Shuffle, draw_shuffle, shuffle

SMALLEST_SIZE = 16  # below, an out-painting box finds no place between its margins

Key = tuple[int | str, ...]
Change = Shuffle | IntensityMap | InPaint | OutPaint


@dataclass(frozen=True, kw_only=True)
class PerturbationConfig:
    """What happens to crops. The four shares are the chances of the four changes and add up to 1."""

    elastic: ElasticConfig = field(default_factory=ElasticConfig)
    shuffling: float = 0.25
    intensity: float = 0.25
    in_painting: float = 0.25
    out_painting: float = 0.25
    shuffle_blocks: int = 5
    """Blocks that are shuffled when shuffling is drawn; 5 as published, Models Genesis has 10,000."""

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(
                f"shares of the four perturbations are {self.shares}; they must be positive and add up to 1"
            )

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Chances of shuffling, intensity, in-painting and out-painting."""
        return self.shuffling, self.intensity, self.in_painting, self.out_painting


@dataclass(frozen=True)
class Perturbation:
    """One draw: noise of the elastic field (None where alpha is 0) and one of the four changes."""

    elastic_noise: Tensor | None
    change: Change


def draw_perturbation(rng: np.random.Generator, shape_zyx: Shape, config: PerturbationConfig) -> Perturbation:
    """One draw for a crop of this shape. Raises ConfigError if an axis has fewer than 16 voxels."""
    if min(shape_zyx) < SMALLEST_SIZE:
        raise ConfigError(
            f"crops of {shape_zyx} voxels are too small to be perturbed; give at least {SMALLEST_SIZE} an axis"
        )
    noise = draw_elastic(rng, shape_zyx, config.elastic) if config.elastic.alpha > 0 else None
    kind = int(rng.choice(4, p=config.shares))
    change: Change
    if kind == 0:
        change = draw_shuffle(rng, shape_zyx, config.shuffle_blocks)
    elif kind == 1:
        change = draw_intensity(rng)
    elif kind == 2:
        change = draw_in_paint(rng, shape_zyx)
    else:
        change = draw_out_paint(rng, shape_zyx)
    return Perturbation(noise, change)


def apply_perturbation(crop_ZYX: Tensor, drawn: Perturbation, config: PerturbationConfig) -> Tensor:
    """The perturbed crop, a new tensor on the crop's device."""
    warped = crop_ZYX
    if drawn.elastic_noise is not None:
        z, y, x = crop_ZYX.shape
        warped = warp(crop_ZYX, displacement(drawn.elastic_noise.to(crop_ZYX.device), (z, y, x), config.elastic))
    return _apply_change(warped, drawn.change)


def perturb(crops_NZYX: Tensor, keys: Sequence[Key], config: PerturbationConfig) -> Tensor:
    """Perturbed crops (N, z, y, x) from crops in [0, 1]; crop n is changed as keys[n] says: (seed, epoch, index)."""
    _, z, y, x = crops_NZYX.shape
    draws = [draw_perturbation(uniform_stream("perturb", *key), (z, y, x), config) for key in keys]
    return torch.stack([apply_perturbation(crop, drawn, config) for crop, drawn in zip(crops_NZYX, draws, strict=True)])


def _apply_change(crop_ZYX: Tensor, change: Change) -> Tensor:
    device = crop_ZYX.device
    match change:
        case Shuffle():
            return shuffle(crop_ZYX, Shuffle(change.to.to(device), change.source.to(device)))
        case IntensityMap():
            return map_intensity(crop_ZYX, IntensityMap(change.table.to(device)))
        case InPaint():
            return in_paint(crop_ZYX, InPaint(change.box, change.noise.to(device)))
        case OutPaint():
            return out_paint(crop_ZYX, OutPaint(change.kept, change.noise.to(device)))
