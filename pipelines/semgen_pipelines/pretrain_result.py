"""What a finished pretraining leaves in its folder and in `runs`: weights, run.json, report.

run.json is what backbones.finished_run reads; it is written last, so that a folder with one is whole.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semgen_pipelines.member_crops import TrainingData
from semgen_pipelines.pretrain_config import PretrainConfig
from semgen_platform import ids
from semgen_platform.backbones.finished_run import RECORD, WEIGHTS
from semgen_platform.backbones.weights import tensors_to_bytes
from semgen_platform.errors import Damage
from semgen_platform.lake.lake import Lake
from semgen_platform.networks.unet3d import SemanticGenesisNet
from semgen_platform.reports.pretrain import Example, pretrain_report
from semgen_platform.training.checkpoint import weights_digest
from semgen_platform.training.crops import BatchMaker
from semgen_platform.training.loop import FitResult, best_weights
from semgen_platform.training.metrics import read_metrics

REPORT = "report.html"
EXAMPLES = 4  # crops that the report shows, of as many patterns


@dataclass(frozen=True)
class RunName:
    """A run's id and all that it is a digest of, with the encoder that the discovery used."""

    run_id: str
    recipe_name: str
    recipe: dict[str, Any]
    revision: int
    discovery_id: str
    encoder_id: str | None
    selection: str


def finish_run(
    lake: Lake, data: TrainingData, config: PretrainConfig, folder: Path, name: RunName, attempt: str, result: FitResult
) -> None:
    """Write weights, report and run.json of a run that has trained to its end; doing so again writes the same."""
    weights, best_step = best_weights(folder, config_digest=name.run_id)
    _write(folder / WEIGHTS, tensors_to_bytes(weights))
    record = {
        "run_id": name.run_id,
        "attempt": attempt,
        "recipe_name": name.recipe_name,
        "recipe": name.recipe,
        "revision": name.revision,
        "discovery_id": name.discovery_id,
        "encoder_id": name.encoder_id,
        "lake_version": lake.version,
        "network": {**config.network.model_dump(mode="json"), "classes": len(data.patterns)},
        "crops": {**config.crops.model_dump(mode="json"), "spacing_zyx_mm": data.spacing_zyx_mm},
        "patterns": data.patterns,
        "weights_digest": weights_digest(weights),
        "software": {"torch": torch.__version__},
        "summary": _summary(folder, data, config, best_step, result),
        "files": {WEIGHTS: ids.file_digest(folder / WEIGHTS)},
    }
    examples = _examples(lake, data, config, weights)
    rows = {kind: read_metrics(folder, kind) for kind in ("train", "validation")}
    _write(folder / REPORT, pretrain_report(record, rows["train"], rows["validation"], examples).encode())
    _write(folder / RECORD, json.dumps(record, indent=1).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """run.json of a finished run. Raises Damage if it cannot be read."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damage(f"{RECORD} of run {folder.parent.name} cannot be read ({error}); give --resume no") from error
    return record


def run_row(lake: Lake, record: Mapping[str, Any], name: RunName, attempt: str) -> dict[str, Any]:
    """The row in `runs` of a finished run."""
    summary = record["summary"]
    return {
        "run_id": name.run_id,
        "attempt": attempt,
        "kind": "pretrain",
        "recipe_name": name.recipe_name,
        "recipe": name.recipe,
        "parents": [name.discovery_id],
        "selection": name.selection,
        "lake_version": lake.version,
        "state": "done",
        "steps": summary["steps"],
        "best_metric": summary["validation_loss"],
        "seconds": summary["seconds"],
        "digest": record["weights_digest"],
        "software": record["software"],
        "details": {"revision": name.revision, **summary},
    }


def _summary(
    folder: Path, data: TrainingData, config: PretrainConfig, best_step: int, result: FitResult
) -> dict[str, Any]:
    best = next((row for row in read_metrics(folder, "validation") if row["step"] == best_step), None)
    every = config.training.report_every_steps
    return {
        "steps": result.step,
        "best_step": best_step,
        "patterns": len(data.patterns),
        "training_crops": len(data.train),
        "validation_crops": len(data.validation),
        "validation_loss": best["loss"] if best else None,
        "validation_accuracy": best["accuracy"] if best else None,
        "skipped_steps": result.skipped_steps,
        "seconds": round(sum(every * row["seconds_per_step"] for row in read_metrics(folder, "train")), 1),
    }


def _examples(lake: Lake, data: TrainingData, config: PretrainConfig, weights: Mapping[str, Tensor]) -> list[Example]:
    """Middle slices of a few crops, of validation if there is any: what the network saw, made of it and should have."""
    places = data.validation if len(data.validation) else data.train
    indices = np.unique(places.labels, return_index=True)[1]
    indices = indices[np.linspace(0, len(indices) - 1, min(EXAMPLES, len(indices))).astype(int)]
    fit = config.fit_config()
    make_batch = BatchMaker(fit.seed, fit.window_hu, fit.perturbation, torch.device("cpu"))
    crops = places.crops(data.reader(lake.root), config.crops.shape_zyx)
    batch = make_batch(crops, indices, crops.read(indices), "report", 0)
    network = SemanticGenesisNet(len(data.patterns), fit.width, fit.norm).eval()
    network.load_state_dict(weights)
    with torch.no_grad():
        logits, restored = network(batch.perturbed)
    middle = config.crops.shape_zyx[0] // 2
    slices = [tensor[:, 0, middle].numpy() for tensor in (batch.perturbed, restored, batch.target)]
    return [
        Example(data.patterns[int(label)], data.patterns[int(guess)], *pictures)
        for label, guess, *pictures in zip(batch.labels, logits.argmax(dim=1), *slices, strict=True)
    ]


def _write(path: Path, content: bytes) -> None:
    """Whole or absent."""
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(content)
    aside.rename(path)
