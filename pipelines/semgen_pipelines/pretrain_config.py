"""The configuration of `pretrain`: recipes are YAML of this form (platform/semgen_platform/recipes/pretrain/)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from semgen_platform.config import Config
from semgen_platform.networks.unet3d import PUBLISHED_WIDTH, SHRINK
from semgen_platform.perturbations.compose import SMALLEST_SIZE, PerturbationConfig
from semgen_platform.perturbations.elastic import ElasticConfig
from semgen_platform.training.losses import LossWeights
from semgen_platform.training.state import FitConfig


class NetworkSettings(Config):
    """The network of METHOD.md section 2."""

    width: int = Field(PUBLISHED_WIDTH, ge=2, multiple_of=2)
    """Channels of the first unit; 32 as published."""
    norm: Literal["batch", "running", "instance"] = "batch"
    """`batch` as published; with `running` or `instance` no answer of the backbone depends on its batch."""


class CropSettings(Config):
    """How a discovered box becomes an input."""

    shape_zyx: tuple[int, int, int] = (32, 64, 64)
    """Voxels that the box is cut into; the box keeps its size in millimetres."""
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    """HU that become 0 and 1; clipped outside."""
    validation_crops: int = Field(1320, ge=0)
    """Most crops that validate, spread evenly over patterns and patients; 0 leaves validation out."""

    @field_validator("shape_zyx")
    @classmethod
    def _fits_the_network(cls, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if any(size < SMALLEST_SIZE or size % SHRINK for size in shape):
            raise ValueError(f"give three multiples of {SHRINK}, at least {SMALLEST_SIZE} each")
        return shape

    @field_validator("window_hu")
    @classmethod
    def _has_extent(cls, window: tuple[float, float]) -> tuple[float, float]:
        if window[0] >= window[1]:
            raise ValueError("the first value must be below the second")
        return window


class PerturbationSettings(Config):
    """What happens to an input before the network restores it (METHOD.md section 4)."""

    elastic_sigma_voxels: float = Field(8.0, gt=0)
    elastic_alpha: float = Field(991.0, ge=0)
    """Strength of the elastic warp; 0 switches it off."""
    shuffling: float = Field(0.25, ge=0, le=1)
    intensity: float = Field(0.25, ge=0, le=1)
    in_painting: float = Field(0.25, ge=0, le=1)
    out_painting: float = Field(0.25, ge=0, le=1)
    """Chances of the four changes, of which each crop gets one; they add up to 1."""
    shuffle_blocks: int = Field(5, ge=1)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        shares = (self.shuffling, self.intensity, self.in_painting, self.out_painting)
        if abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"the four chances of perturbation are {shares} and add up to {sum(shares):g}, not to 1")
        return self


class TrainingSettings(Config):
    """Steps, losses and what is kept (METHOD.md section 4.4)."""

    seed: int = 0
    classification_epochs: int = Field(20, ge=0)
    """Epochs of the first stage, the classifier alone; 0 leaves it out."""
    epochs: int = Field(10_000, ge=1)
    """Most epochs of the second stage, classification and restoration."""
    patience_epochs: int = Field(50, ge=1)
    """A stage ends after so many epochs without a lower validation loss."""
    epoch_crops: int | None = Field(None, ge=1)
    """Crops of an epoch, drawn anew from all; null takes every crop once."""
    batch_size: int = Field(64, ge=1)
    """Crops of a step over all workers."""
    learning_rate: float = Field(1e-3, gt=0)
    halve_every_epochs: int = Field(40, ge=1)
    classification_weight: float = Field(0.01, ge=0)
    restoration_weight: float = Field(1.0, ge=0)
    checkpoint_every_steps: int = Field(200, ge=1)
    keep_checkpoints: int = Field(3, ge=1)
    report_every_steps: int = Field(10, ge=1)
    most_skipped_steps: int = Field(20, ge=0)
    """Steps without finite gradients are skipped; more than so many end the run."""


class PretrainConfig(Config):
    """Everything that decides what a pretraining makes of a discovery."""

    network: NetworkSettings = NetworkSettings()
    crops: CropSettings = CropSettings()
    perturbation: PerturbationSettings = PerturbationSettings()
    training: TrainingSettings = TrainingSettings()

    def fit_config(self) -> FitConfig:
        """The same for the loop, which knows plain dataclasses only."""
        changes, training = self.perturbation, self.training
        return FitConfig(
            seed=training.seed,
            width=self.network.width,
            norm=self.network.norm,
            window_hu=self.crops.window_hu,
            perturbation=PerturbationConfig(
                elastic=ElasticConfig(sigma_voxels=changes.elastic_sigma_voxels, alpha=changes.elastic_alpha),
                shuffling=changes.shuffling,
                intensity=changes.intensity,
                in_painting=changes.in_painting,
                out_painting=changes.out_painting,
                shuffle_blocks=changes.shuffle_blocks,
            ),
            loss=LossWeights(classification=training.classification_weight, restoration=training.restoration_weight),
            **training.model_dump(exclude={"seed", "classification_weight", "restoration_weight"}),
        )
