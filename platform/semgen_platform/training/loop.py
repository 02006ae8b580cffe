"""The loop that pretrains: classification first, then classification and restoration, over one or more ranks.

It knows neither Ray nor the lake: crops come from a reader that is passed in, files go to a folder that only the first
rank writes. `fit` can be stopped at any step and started again anywhere; it then ends with the weights that it would
have had anyway (USERS.md items 15-18, 22-24). Method: METHOD.md section 4.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from semgen_platform.errors import Incomplete, SemgenError
from semgen_platform.training.checkpoint import newest_checkpoint, save_checkpoint, weights_digest
from semgen_platform.training.crops import BatchMaker, Crops, read_ahead
from semgen_platform.training.losses import Batch
from semgen_platform.training.metrics import MetricsWriter
from semgen_platform.training.ranks import Ranks
from semgen_platform.training.sampling import Indices, batch_of, batches_in, check_batches, epoch_order, share_of_rank
from semgen_platform.training.state import FitConfig, TrainState
from semgen_platform.training.step import as_vector, sum_of_losses, train_step

T = TypeVar("T")

CHECKPOINTS, BEST = "checkpoints", "best"
LOSSES = ("loss", "classification", "restoration", "accuracy")


@dataclass(frozen=True)
class FitResult:
    """How a fit ended on this rank; `weights_digest` is of the last step's weights, the best ones lie in the folder."""

    ended: Literal["finished", "stopped"]
    resumed_step: int
    step: int
    skipped_steps: int
    weights_digest: str


def fit(
    config: FitConfig,
    train: Crops,
    validation: Crops | None,
    *,
    classes: int,
    folder: Path,
    config_digest: str,
    device: torch.device,
    stop: Callable[[], bool] = lambda: False,
) -> FitResult:
    """Train to the end, or until `stop` says so on any rank, going on from the newest checkpoint in `folder`.

    Every rank calls it with the same arguments inside one process group. Raises ConfigError for batches that cannot be
    dealt to the ranks, SemgenError after too many steps without finite gradients, Incomplete if the ranks do not agree
    on where to go on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = RunFolder(folder, config_digest, config.keep_checkpoints)
    return _Fit(config, train, validation, TrainState(config, classes, device), run, stop).run()


def best_weights(folder: Path, *, config_digest: str) -> tuple[dict[str, Tensor], int]:
    """(state dict, step) of the lowest validation loss of the last stage, or of the last step without validation.

    Raises Incomplete if the run in `folder` has not got so far.
    """
    for kind in (BEST, CHECKPOINTS):
        found = newest_checkpoint(folder / kind, config_digest=config_digest)
        if found is not None:
            return found.state["network"], found.step
    raise Incomplete(f"no whole checkpoint lies in {folder.name}; run the same command again")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its checkpoints."""

    path: Path
    config_digest: str
    keep: int

    def save(self, state: TrainState) -> None:
        """The state that a later start goes on from."""
        self._save(CHECKPOINTS, state, self.keep)

    def save_best(self, state: TrainState) -> None:
        """The weights with the lowest validation loss so far."""
        self._save(BEST, state, 1)

    def resume(self, state: TrainState) -> None:
        """Bring `state` to the newest whole checkpoint, if there is one."""
        found = newest_checkpoint(self.path / CHECKPOINTS, config_digest=self.config_digest)
        if found is not None:
            state.restore(found.state)

    def _save(self, kind: str, state: TrainState, keep: int) -> None:
        saved, step = state.as_dict(), state.position.step
        save_checkpoint(self.path / kind, saved, step=step, config_digest=self.config_digest, keep=keep)


class _Fit:
    """One call of `fit` on one rank."""

    def __init__(
        self,
        config: FitConfig,
        train: Crops,
        validation: Crops | None,
        state: TrainState,
        folder: RunFolder,
        stop: Callable[[], bool],
    ) -> None:
        self.config, self.train, self.validation, self.state, self.folder = config, train, validation, state, folder
        self.stop, self.ranks = stop, Ranks.current()
        self.make_batch = BatchMaker(config.seed, config.window_hu, config.perturbation, state.device)
        self.epoch_crops = min(len(train.labels), config.epoch_crops or len(train.labels))
        check_batches(self.epoch_crops, config.batch_size, self.ranks.world)
        folder.resume(state)
        self.resumed_step = state.position.step
        self._check_that_ranks_agree()
        self.metrics = MetricsWriter(folder.path, step=self.resumed_step) if self.ranks.first else None
        self.window = _Window()

    def run(self) -> FitResult:
        epochs = self.config.classification_epochs + self.config.epochs
        steps = epochs * batches_in(self.epoch_crops, self.config.batch_size)
        self._record("start", {"world": self.ranks.world, "planned_steps": steps})
        stopped = False
        while not (self.state.finished or stopped):
            stopped = not self._train_stage()
        if self.ranks.first and self.state.position.step > self.resumed_step:
            self.folder.save(self.state)
        if self.metrics is not None:
            self.metrics.close()
        position, digest = self.state.position, weights_digest(self.state.network.state_dict())
        ended: Literal["finished", "stopped"] = "stopped" if stopped else "finished"
        return FitResult(ended, self.resumed_step, position.step, position.skipped_steps, digest)

    def _train_stage(self) -> bool:
        """Train to the end of the present stage; False if stopped before."""
        stage = self.state.position.stage
        network = self.ranks.wrap(self.state.network)
        while not self.state.finished and self.state.position.stage == stage:
            if not self._train_epoch(network):
                return False
            self._end_epoch()
        del network
        gc.collect()  # frees this stage's hooks on the gradients before the next stage's DDP adds its own
        return True

    def _train_epoch(self, network: nn.Module) -> bool:
        """Train on what is left of the epoch; False if stopped before its end."""
        position, size = self.state.position, self.config.batch_size
        order = epoch_order(self.config.seed, position.epoch, len(self.train.labels))[: self.epoch_crops]
        left = [batch_of(order, b, size) for b in range(position.batch, batches_in(self.epoch_crops, size))]
        shares = [share_of_rank(batch, self.ranks.rank, self.ranks.world) for batch in left]
        self.state.set_learning_rate()
        network.train()
        self.window = _Window()
        for everyone, (share, crops_hu) in zip(left, self.window.timed(read_ahead(self.train, shares)), strict=True):
            batch = self.make_batch(self.train, share, crops_hu, "train", position.epoch)
            if self._step(network, batch, everyone):
                return False
        return True

    def _step(self, network: nn.Module, batch: Batch, everyone: Indices) -> bool:
        """One step, counted, recorded and perhaps saved; whether the ranks have agreed to stop."""
        position, config = self.state.position, self.config
        losses, taken = train_step(network, self.state.optimiser, batch, config.loss, restore=self.state.stage.restore)
        own = torch.cat([losses.total.new_tensor([float(self.stop())]), as_vector(losses)])
        shared = self._mean_with_running_averages(own)
        self.window.losses.append(shared[1:])
        position.batch, position.step = position.batch + 1, position.step + 1
        if not taken:
            self._count_skipped(everyone)
        if position.step % config.report_every_steps == 0:
            where = {"stage": position.stage, "epoch": position.epoch, "learning_rate": self.state.learning_rate}
            self._record("train", {**where, **self.window.summary()})
            self.window.clear()
        if position.step % config.checkpoint_every_steps == 0 and self.ranks.first:
            self.folder.save(self.state)
        return bool(shared[0] > 0)

    def _mean_with_running_averages(self, values: Tensor) -> Tensor:
        """Mean of `values` over the ranks; on the way the norms' running averages become their mean over the ranks."""
        if self.ranks.world == 1:
            return values
        buffers = [b for b in self.state.network.buffers() if b.is_floating_point()]
        shared = self.ranks.mean(torch.cat([values, *(b.flatten() for b in buffers)]))
        parts = shared[len(values) :].split([b.numel() for b in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
        return shared[: len(values)]

    def _count_skipped(self, everyone: Indices) -> None:
        position, most = self.state.position, self.config.most_skipped_steps
        position.skipped_steps += 1
        self._record("skipped", {"crops": everyone.tolist()})
        if position.skipped_steps > most:
            raise SemgenError(
                f"{position.skipped_steps} steps had no finite gradients (the limit is {most}), the last at step "
                f"{position.step}; lower learning_rate, or look at the crops in the rows `skipped` of metrics.jsonl"
            )

    def _end_epoch(self) -> None:
        """Validate, keep the best weights, and move on to the next epoch or stage."""
        position, stage = self.state.position, self.state.stage
        if self.validation is not None:
            values = self._validate(self.validation)
            position.stale_epochs += 1
            if values["loss"] < position.best_loss:  # never true of NaN
                position.best_loss, position.best_step, position.stale_epochs = values["loss"], position.step, 0
                if self.ranks.first:
                    self.folder.save_best(self.state)
            self._record("validation", {"stage": position.stage, "epoch": position.epoch, **values})
        position.epoch, position.stage_epoch, position.batch = position.epoch + 1, position.stage_epoch + 1, 0
        if position.stage_epoch >= stage.epochs or position.stale_epochs >= self.config.patience_epochs:
            self.state.end_stage()

    def _validate(self, crops: Crops) -> dict[str, float]:
        """Means over all validation crops, freshly perturbed in each epoch as published; the same on all ranks."""
        position, world = self.state.position, self.ranks.world
        size = self.config.batch_size // world
        chunks = [np.arange(i, min(i + size, len(crops.labels))) for i in range(0, len(crops.labels), size)]
        batches = (
            self.make_batch(crops, indices, crops_hu, "val", position.epoch)
            for indices, crops_hu in read_ahead(crops, chunks[self.ranks.rank :: world])
        )
        sums = sum_of_losses(self.state.network, batches, self.config.loss, restore=self.state.stage.restore)
        total = self.ranks.sum(sums.to(self.state.device))
        self._mean_with_running_averages(total[:0].float())  # the norm mode `batch` moves them here, too
        return dict(zip(LOSSES, (total[:4] / total[4]).tolist(), strict=True))

    def _check_that_ranks_agree(self) -> None:
        step = torch.tensor([float(self.resumed_step)], dtype=torch.float64, device=self.state.device)
        if float(self.ranks.mean(step)) != self.resumed_step:
            raise Incomplete(
                f"this rank would go on from step {self.resumed_step} and another from elsewhere; run again"
            )

    def _record(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(kind, self.state.position.step, values)


class _Window:
    """Losses and times of the steps since the last report."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.losses: list[Tensor] = []
        self.waited_s, self.since = 0.0, time.perf_counter()

    def timed(self, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time counted that the caller waits for each."""
        while True:
            asked = time.perf_counter()
            item = next(items, None)
            self.waited_s += time.perf_counter() - asked
            if item is None:
                return
            yield item

    def summary(self) -> dict[str, float]:
        means = dict(zip(LOSSES, torch.stack(self.losses).mean(dim=0).tolist(), strict=True))
        seconds = time.perf_counter() - self.since
        return {**means, "seconds_per_step": seconds / len(self.losses), "waiting_share": self.waited_s / seconds}
