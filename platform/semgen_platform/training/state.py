"""What changes while a network trains: weights, optimiser, position. All of it goes into a checkpoint."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from semgen_platform.errors import ConfigError
from semgen_platform.networks.norm import NormMode
from semgen_platform.networks.unet3d import PUBLISHED_WIDTH, SemanticGenesisNet
from semgen_platform.perturbations.compose import PerturbationConfig
from semgen_platform.training.losses import LossWeights


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Everything that decides the weights but the crops. Defaults are the published ones (METHOD.md section 4.4)."""

    seed: int = 0
    width: int = PUBLISHED_WIDTH
    norm: NormMode = "batch"
    window_hu: tuple[float, float] = (-1000.0, 1000.0)
    """HU that become 0 and 1; values outside are clipped."""
    perturbation: PerturbationConfig = field(default_factory=PerturbationConfig)
    loss: LossWeights = field(default_factory=LossWeights)
    classification_epochs: int = 20
    """Epochs of the first stage, which trains encoder and head on the patterns alone; 0 leaves it out."""
    epochs: int = 10_000
    """Most epochs of the second stage, which trains everything."""
    patience_epochs: int = 50
    """A stage ends after so many epochs without a lower validation loss."""
    epoch_crops: int | None = None
    """Crops of one epoch, drawn anew from all of them; None takes each crop once."""
    batch_size: int = 64
    """Crops of one step over all ranks."""
    learning_rate: float = 1e-3
    halve_every_epochs: int = 40
    checkpoint_every_steps: int = 200
    keep_checkpoints: int = 3
    report_every_steps: int = 10
    most_skipped_steps: int = 20
    """Steps without finite gradients are skipped; more than so many end the run."""

    def __post_init__(self) -> None:
        low, high = self.window_hu
        if not low < high:
            raise ConfigError(f"window_hu is ({low:g}, {high:g}); the first must be below the second")
        if self.epochs < 1 or self.classification_epochs < 0:
            raise ConfigError(
                f"epochs {self.epochs} must be at least 1, classification_epochs {self.classification_epochs} 0"
            )


@dataclass(frozen=True)
class Stage:
    """One part of the training, with an optimiser, a schedule and a best loss of its own, like a published run."""

    name: str
    epochs: int
    restore: bool


def stages_of(config: FitConfig) -> list[Stage]:
    """The classifier alone, if it has epochs, and then everything."""
    first = (
        [Stage("classification", config.classification_epochs, restore=False)] if config.classification_epochs else []
    )
    return [*first, Stage("classification and restoration", config.epochs, restore=True)]


@dataclass
class Position:
    """Where the training stands; with the seed it says which crops come next and how they will be perturbed."""

    stage: int = 0
    stage_epoch: int = 0
    epoch: int = 0
    """Over all stages, so that no epoch repeats another's draws."""
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    stale_epochs: int = 0
    skipped_steps: int = 0


class TrainState:
    """A network in training with its optimiser and its position."""

    def __init__(self, config: FitConfig, classes: int, device: torch.device) -> None:
        """The start: weights from the framework's defaults under the seed."""
        self.config, self.device = config, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = SemanticGenesisNet(classes, config.width, config.norm)
        # Channels last in memory: a third less time on a CPU at width 8; values and state dict are the same.
        self.network = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.position = Position()
        self._new_optimiser()

    @property
    def stage(self) -> Stage:
        """The stage that the position lies in."""
        return stages_of(self.config)[self.position.stage]

    @property
    def finished(self) -> bool:
        """Whether every stage has ended."""
        return self.position.stage >= len(stages_of(self.config))

    @property
    def learning_rate(self) -> float:
        """The rate of the present epoch: halved every so many epochs of the stage."""
        return self.config.learning_rate * 0.5 ** (self.position.stage_epoch // self.config.halve_every_epochs)

    def set_learning_rate(self) -> None:
        """Give the optimiser the rate of the present epoch."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate

    def end_stage(self) -> None:
        """Move to the next stage, which starts from these weights with an optimiser and a best loss of its own."""
        old = self.position
        self.position = Position(stage=old.stage + 1, epoch=old.epoch, step=old.step, skipped_steps=old.skipped_steps)
        if not self.finished:
            self._new_optimiser()

    def _new_optimiser(self) -> None:
        """Adam over what the stage trains; the decoder is frozen while the classifier trains alone."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(self.stage.restore or not name.startswith(("up_tr", "out_tr")))
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.Adam(trained, lr=self.config.learning_rate)

    def as_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "position": asdict(self.position),
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `as_dict` gave."""
        self.position = Position(**saved["position"])
        if not self.finished:
            self._new_optimiser()
            self.optimiser.load_state_dict(saved["optimiser"])
        self.network.load_state_dict(saved["network"])
