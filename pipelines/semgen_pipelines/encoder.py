"""`train-encoder`: the auto-encoder whose bottleneck embeds whole scans, trained with Ray Train from coarse levels.

Ranks read the lake themselves; what travels are scan ids. The epoch's order is global and dealt to the ranks,
validation is by patient, and each epoch ends in a checkpoint, so that the same command goes on after a kill. Source:
METHOD.md 5b step 0; the published encoder could copy through its skips (5.2, fault 3) and stretched the scan (fault 4).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semgen_pipelines.artefacts import ATTEMPT, made
from semgen_pipelines.following import follow_metrics
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.stopping import graceful_stop
from semgen_pipelines.train_group import run_group
from semgen_platform import ids
from semgen_platform.discovery import embedder
from semgen_platform.discovery.embedder import EncoderConfig
from semgen_platform.errors import Incomplete, InputError
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.selection import Scan
from semgen_platform.networks.autoencoder import AutoEncoder
from semgen_platform.progress import Progress
from semgen_platform.training.checkpoint import newest_checkpoint, save_checkpoint
from semgen_platform.training.metrics import MetricsWriter
from semgen_platform.training.ranks import Ranks
from semgen_platform.training.sampling import batch_of, batches_in, epoch_order, share_of_rank

CACHE_BYTES = 2**30  # inputs a rank keeps in memory; what is beyond is read again
KEPT_CHECKPOINTS = 2
CHECKPOINTS, STOP = "checkpoints", "stop"

History = list[dict[str, Any]]
"""One entry an epoch: epoch, training_mse, validation_mse."""

Read = Callable[[int], Tensor]
"""Input (1, z, y, x) in [0, 1] of the n-th scan."""


@dataclass(frozen=True)
class Split:
    """Positions of scans that train and that validate; no split group is on both sides."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


@dataclass(frozen=True)
class EncoderSummary:
    """What `train-encoder` made or found."""

    encoder_id: str
    found: bool
    scans: int
    epochs: int
    validation_mse: float
    lake_version: int


def train_encoder(
    lake: Lake,
    scans: Sequence[Scan],
    config: EncoderConfig,
    *,
    recipe_name: str,
    workers: int = 2,
    address: str | None = None,
    quiet: bool = False,
) -> EncoderSummary:
    """Train the encoder of these scans and this configuration, or find it.

    Raises InputError (fewer than two patients, Ray), Busy (it is being trained), Incomplete (ranks died too often).
    """
    named = made("encoder", config, scans, recipe_name=recipe_name, revision=embedder.REVISION)
    split = split_by_patient(scans, config)
    folder = lake.artefact_dir("encoders", named.artefact_id, ATTEMPT)
    with hold(lake.storage, named.artefact_id):
        found = (named.artefact_id,) in lake.head_keys("encoders")
        if not found and embedder.saved_encoder(folder) is None:
            _train(lake, scans, split, config, folder, workers, address, quiet=quiet)
        saved = embedder.saved_encoder(folder)
        if saved is None:
            raise Incomplete(f"encoder {named.artefact_id} was not written; run the same command again")
        description, digest = saved
        epochs, best = len(description["history"]), min(row["validation_mse"] for row in description["history"])
        if not found:
            row = {
                "encoder_id": named.artefact_id,
                **named.columns(lake, digest),
                "dimension": 16 * config.width,
                "spacing_mm": config.spacing_mm,
                "details": {"scans": len(scans), "epochs": epochs, "validation_mse": best},
            }
            lake.insert("encoders", [row])
        version = lake.commit("train-encoder", named.artefact_id)
    return EncoderSummary(named.artefact_id, found, len(scans), epochs, best, version)


def split_by_patient(scans: Sequence[Scan], config: EncoderConfig) -> Split:
    """Split groups by the digest of their name and the seed, at least one on each side.

    Raises InputError for fewer than two.
    """
    groups = sorted({s.split_group for s in scans}, key=lambda g: ids.digest_of(["validation", config.seed, g]))
    if len(groups) < 2:
        raise InputError(
            f"{len(scans)} scans of {len(groups)} patients are selected; an encoder needs at least two patients"
        )
    held_out = set(groups[: max(1, min(len(groups) - 1, round(config.validation_share * len(groups))))])
    return Split(
        training=tuple(n for n, s in enumerate(scans) if s.split_group not in held_out),
        validation=tuple(n for n, s in enumerate(scans) if s.split_group in held_out),
    )


class Inputs:
    """Network inputs of scans, read from the lake by the process that needs them and kept up to CACHE_BYTES."""

    def __init__(self, root: Path, scans: Sequence[Scan], config: EncoderConfig) -> None:
        self._reader, self._scans, self._config = CropReader(root, scans), scans, config
        self._kept: dict[int, Tensor] = {}

    def __call__(self, position: int) -> Tensor:
        if position in self._kept:
            return self._kept[position]
        scan = self._scans[position]
        level = self._reader.level(scan.scan_id, embedder.INPUT_LEVEL_MM)
        array = embedder.input_of(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu, self._config)
        tensor = torch.from_numpy(array)[None]
        if (len(self._kept) + 1) * tensor.nbytes <= CACHE_BYTES:
            self._kept[position] = tensor
        return tensor


def fit(
    config: EncoderConfig, split: Split, read: Read, folder: Path, device: torch.device, stop: Callable[[], bool]
) -> None:
    """Train on this rank until the validation error no longer falls; the first rank writes checkpoints and encoder.

    stop : asked after every epoch; where a rank says yes, all end without an encoder, to go on later.
    """
    ranks = Ranks.current()
    network = embedder.channels_last(embedder.network_for(config).to(device))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    history, best = _resume(network, optimizer, config, folder)
    wrapped = ranks.wrap(network)
    with ExitStack() as ending:
        metrics = MetricsWriter(folder, step=len(history) * _batches(config, split)) if ranks.first else None
        if metrics is not None:
            ending.callback(metrics.close)
        while not _finished(history, config):
            epoch = len(history)
            error = _train_epoch(wrapped, optimizer, config, split, read, epoch, ranks, metrics)
            _average_buffers(network, ranks)
            validation = _validate(network, split, read, ranks)
            history.append({"epoch": epoch, "training_mse": error, "validation_mse": validation})
            if validation <= min(row["validation_mse"] for row in history):
                best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            if metrics is not None:
                metrics.write("epoch", len(history), history[-1])
                _save(network, optimizer, config, folder, history, best)
            if float(ranks.sum(torch.tensor(float(stop()), device=device))) > 0:
                return
    if ranks.first:
        network.load_state_dict(best)
        embedder.save_encoder(network.cpu(), config, history, folder)


def _resume(
    network: AutoEncoder, optimizer: torch.optim.Optimizer, config: EncoderConfig, folder: Path
) -> tuple[History, dict[str, Tensor]]:
    """(history, best weights) of the newest checkpoint, loaded into network and optimizer, or of a start."""
    checkpoint = newest_checkpoint(folder / CHECKPOINTS, config_digest=_digest(config))
    if checkpoint is None:
        return [], {}
    network.load_state_dict(checkpoint.state["network"])
    optimizer.load_state_dict(checkpoint.state["optimizer"])
    return checkpoint.state["history"], checkpoint.state["best"]


def _save(
    network: AutoEncoder,
    optimizer: torch.optim.Optimizer,
    config: EncoderConfig,
    folder: Path,
    history: History,
    best: dict[str, Tensor],
) -> None:
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "best": best, "history": history}
    digest = _digest(config)
    save_checkpoint(folder / CHECKPOINTS, state, step=len(history), config_digest=digest, keep=KEPT_CHECKPOINTS)


def _digest(config: EncoderConfig) -> str:
    return ids.digest_of(config.model_dump(mode="json"))


def _finished(history: History, config: EncoderConfig) -> bool:
    errors = [row["validation_mse"] for row in history]
    since_best = len(errors) - 1 - errors.index(min(errors)) if errors else 0
    return len(errors) >= config.epochs or since_best >= config.patience


def _batch_size(config: EncoderConfig, split: Split) -> int:
    return min(config.batch_size, len(split.training))


def _batches(config: EncoderConfig, split: Split) -> int:
    return batches_in(len(split.training), _batch_size(config, split))


def _train_epoch(
    network: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: EncoderConfig,
    split: Split,
    read: Read,
    epoch: int,
    ranks: Ranks,
    metrics: MetricsWriter | None,
) -> float:
    """Mean squared error over the epoch. Every rank takes the same number of steps with as many scans."""
    network.train()
    order, size = epoch_order(config.seed, epoch, len(split.training)), _batch_size(config, split)
    batches = _batches(config, split)
    total = torch.zeros((), device=_device_of(network))
    for batch in range(batches):
        share = share_of_rank(batch_of(order, batch, size), ranks.rank, ranks.world)
        scans = _stack([read(split.training[n]) for n in share], network)
        loss = torch.nn.functional.mse_loss(network(scans), scans)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach()
        if metrics is not None:
            metrics.write("step", epoch * batches + batch + 1, {"mse": loss.item()})
    return float(ranks.mean(total / batches))


@torch.inference_mode()
def _validate(network: AutoEncoder, split: Split, read: Read, ranks: Ranks) -> float:
    """Mean squared error over the validation scans, the same on every rank."""
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=_device_of(network))
    for position in split.validation[ranks.rank :: ranks.world]:
        scan = _stack([read(position)], network)
        total += torch.nn.functional.mse_loss(network(scan), scan)
    return float(ranks.sum(total)) / len(split.validation)


def _stack(scans: Sequence[Tensor], network: torch.nn.Module) -> Tensor:
    return torch.stack(list(scans)).to(_device_of(network), memory_format=torch.channels_last_3d)


def _device_of(network: torch.nn.Module) -> torch.device:
    return next(network.parameters()).device


def _average_buffers(network: AutoEncoder, ranks: Ranks) -> None:
    """Running averages of the norms become means over the ranks; linear in the batches, so once an epoch is enough."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(ranks.mean(buffer))


def _train(
    lake: Lake,
    scans: Sequence[Scan],
    split: Split,
    config: EncoderConfig,
    folder: Path,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> None:
    """Run `fit` on the workers of a Ray Train group, and show their steps meanwhile."""
    size = _batch_size(config, split)
    workers = max(w for w in range(1, min(workers, size) + 1) if size % w == 0)  # equal shares of every batch
    steps = config.epochs * _batches(config, split)
    folder.mkdir(parents=True, exist_ok=True)
    task = {"root": str(lake.root), "scans": list(scans), "split": split, "config": config, "folder": str(folder)}
    gpus = workers if address is None and torch.cuda.device_count() >= workers else 0
    with (
        ray_session(address, needs={"encoder workers": workers}, gpus=gpus) as ray,
        graceful_stop(folder / STOP) as stopping,
        Progress("train-encoder: steps", steps, quiet=quiet) as progress,
        follow_metrics(folder, "step", lambda row: progress.show(row["step"], f"mse {row['mse']:.5f}")),
    ):
        use_gpu = ray.cluster_resources().get("GPU", 0) >= workers
        stopping.wait_for(lambda: run_group(_worker, task, folder, workers, use_gpu=use_gpu))
    if stopping.signal and embedder.saved_encoder(folder) is None:
        raise stopping.error("the encoder is saved after its last whole epoch")


def _worker(task: dict[str, Any]) -> None:
    """One rank of the Ray Train group."""
    from ray.train.torch import get_device

    torch.set_num_threads(1)  # ranks share the machine's cores, and one thread sums in one order
    folder = Path(task["folder"])
    inputs = Inputs(Path(task["root"]), task["scans"], task["config"])
    fit(task["config"], task["split"], inputs, folder, get_device(), stop=(folder / STOP).exists)
