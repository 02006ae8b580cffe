"""`pretrain`: the network of a discovery's patterns, trained by Ray Train workers (DDP) and kept in the lake as a run.

Ranks read their crops from the lake themselves; checkpoints, metrics and the result lie in
`<lake>/runs/<run_id>/<attempt>/`. Ray only starts the ranks and starts them again when one dies: where they go on is
read from our checkpoints, so the same command after any kill ends with the weights of an uninterrupted run. The loop
itself is semgen_platform.training.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from semgen_pipelines.following import follow_metrics
from semgen_pipelines.member_crops import TrainingData, find_discovery, training_data
from semgen_pipelines.pretrain_config import PretrainConfig
from semgen_pipelines.pretrain_result import RunName, finish_run, read_record, run_row
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.stopping import Stopping, graceful_stop
from semgen_pipelines.train_group import run_group
from semgen_platform import ids
from semgen_platform.errors import Incomplete
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.progress import Progress
from semgen_platform.training.loop import FitResult, fit
from semgen_platform.training.ranks import Ranks
from semgen_platform.training.sampling import batches_in, check_batches

_log = logging.getLogger(__name__)

REVISION = 1  # raised by hand when the same recipe would give other weights
STOP, OUTCOME = "stop", "outcome.json"


@dataclass(frozen=True)
class PretrainSummary:
    """What `pretrain` made or found; losses and accuracy are of the best weights on validation patients."""

    run_id: str
    attempt: str
    found: bool
    resumed_step: int
    steps: int
    best_step: int
    patterns: int
    training_crops: int
    validation_crops: int
    validation_loss: float | None
    validation_accuracy: float | None
    skipped_steps: int
    seconds: float
    weights_digest: str
    report: str
    lake_version: int


def pretrain(
    lake: Lake,
    config: PretrainConfig,
    *,
    recipe_name: str,
    discovery: str = "latest",
    workers: int = 2,
    resume: bool = True,
    address: str | None = None,
    quiet: bool = False,
) -> PretrainSummary:
    """Pretrain on a discovery, go on with such a run, or find it finished.

    discovery : its id, or latest.  resume : False makes a new attempt of the same run.
    Raises NotFound or InputError (no usable discovery, Ray), ConfigError (batches), Busy (it is being trained),
    Incomplete (ranks died too often), Preempted and Interrupted (stopped by a signal with the state saved).
    """
    found = find_discovery(lake, discovery)
    name = _name(found, config, recipe_name)
    with hold(lake.storage, name.run_id):
        attempt = _attempt(lake, name.run_id, resume=resume)
        folder = lake.artefact_dir("runs", name.run_id, attempt)
        finished = (name.run_id, attempt) in lake.head_keys("runs")
        resumed_step = 0
        if not finished:
            data = training_data(lake, name.discovery_id, config.crops)
            result = _train(lake, data, config, folder, name.run_id, workers, address, quiet=quiet)
            resumed_step = result.resumed_step
            finish_run(lake, data, config, folder, name, attempt, result)
            lake.insert("runs", [run_row(lake, read_record(folder), name, attempt)])
        version = lake.commit("pretrain", name.run_id)
    record = read_record(folder)
    return PretrainSummary(
        run_id=name.run_id,
        attempt=attempt,
        found=finished,
        resumed_step=resumed_step,
        **record["summary"],
        weights_digest=record["weights_digest"],
        report=str(folder / "report.html"),
        lake_version=version,
    )


def _name(discovery: dict[str, Any], config: PretrainConfig, recipe_name: str) -> RunName:
    recipe = config.model_dump(mode="json")
    parents = (discovery["discovery_id"],)
    selection = discovery["selection"]
    run_id = ids.artefact_id("pretrain", recipe=recipe, revision=REVISION, parents=parents, selection=selection)
    return RunName(run_id, recipe_name, recipe, REVISION, parents[0], discovery["encoder_id"], selection)


def _attempt(lake: Lake, run_id: str, *, resume: bool) -> str:
    """The newest attempt at the run, or the next one."""
    folder = lake.artefact_dir("runs", run_id)
    numbers = [int(p.name) for p in folder.iterdir() if p.name.isdecimal()] if folder.is_dir() else []
    newest = max(numbers, default=-1)
    return str(newest if resume and numbers else newest + 1)


def _train(
    lake: Lake,
    data: TrainingData,
    config: PretrainConfig,
    folder: Path,
    run_id: str,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> FitResult:
    """Run the ranks to the end, with their steps shown meanwhile."""
    check_batches(len(data.train), config.training.batch_size, workers)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OUTCOME).unlink(missing_ok=True)
    task = {"root": str(lake.root), "data": data, "config": config, "folder": str(folder), "run_id": run_id}
    gpus = workers if address is None and torch.cuda.device_count() >= workers else 0
    with (
        ray_session(address, needs={"train workers": workers}, gpus=gpus) as ray,
        graceful_stop(folder / STOP) as stopping,
        Progress("pretrain: steps", planned_steps(config, len(data.train)), quiet=quiet) as progress,
        follow_metrics(folder, "start", _tell_start),
        follow_metrics(folder, "train", lambda row: progress.show(row["step"], _losses(row))),
    ):
        use_gpu = ray.cluster_resources().get("GPU", 0) >= workers
        stopping.wait_for(partial(run_group, _worker, task, folder, workers, use_gpu=use_gpu))
    return _outcome(folder, stopping)


def planned_steps(config: PretrainConfig, crops: int) -> int:
    """Steps of a run in which no stage ends early."""
    training = config.training
    epoch = batches_in(min(crops, training.epoch_crops or crops), training.batch_size)
    return epoch * (training.classification_epochs + training.epochs)


def _worker(task: dict[str, Any]) -> None:
    """One rank: train to the end or to a request to stop; the first rank writes how it ended."""
    from ray.train.torch import get_device

    torch.set_num_threads(1)  # ranks share the machine's cores, and one thread sums in one order
    data: TrainingData = task["data"]
    config: PretrainConfig = task["config"]
    folder, shape = Path(task["folder"]), config.crops.shape_zyx
    reader = data.reader(Path(task["root"]))
    result = fit(
        config.fit_config(),
        data.train.crops(reader, shape),
        data.validation.crops(reader, shape) if len(data.validation) else None,
        classes=len(data.patterns),
        folder=folder,
        config_digest=task["run_id"],
        device=get_device(),
        stop=(folder / STOP).exists,
    )
    if Ranks.current().first:
        aside = folder / f".{OUTCOME}"
        aside.write_text(json.dumps(asdict(result)), encoding="utf-8")
        aside.rename(folder / OUTCOME)


def _outcome(folder: Path, stopping: Stopping) -> FitResult:
    """How the ranks ended. Raises Preempted or Interrupted if a signal stopped them."""
    try:
        result = FitResult(**json.loads((folder / OUTCOME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        if stopping.signal:
            raise stopping.error("the workers ended before they saved, so their last checkpoint counts") from None
        raise Incomplete("the workers ended without a result; run the same command again to go on") from None
    if result.ended == "stopped":
        raise stopping.error(f"the run is saved at step {result.step}")
    return result


def _tell_start(row: dict[str, Any]) -> None:
    if row["start"] > 1:
        _log.warning("pretrain goes on from step=%d start=%d workers=%d", row["step"], row["start"], row["world"])


def _losses(row: dict[str, Any]) -> str:
    restoration = f", restoration {row['restoration']:.4f}" if row["restoration"] else ""
    return f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.2f}{restoration}"
