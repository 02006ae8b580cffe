"""What a pretraining run hands over: `weights.safetensors` and `run.json` in `<lake>/runs/<run_id>/<attempt>/`.

run.json as read here: `recipe_name`, `network` (width, norm), `crops` (shape_zyx, spacing_zyx_mm, window_hu),
`discovery_id`, `encoder_id`, `lake_version` and `files` (name to BLAKE3). The pattern head (`clc_out`) stays behind:
its classes mean nothing outside the discovery that they come from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from semgen_platform import ids
from semgen_platform.backbones.contract import Architecture, Lineage, Preprocessing
from semgen_platform.backbones.weights import read_tensors
from semgen_platform.errors import Damage, InputError, NotFound
from semgen_platform.lake.lake import Lake

WEIGHTS, RECORD = "weights.safetensors", "run.json"
LATEST = "latest"
HEAD = "clc_out."


@dataclass(frozen=True)
class FinishedRun:
    """The backbone of a finished pretraining run, before it is published."""

    tensors: Mapping[str, torch.Tensor]
    architecture: Architecture
    preprocessing: Preprocessing
    lineage: Lineage


def read_finished_run(lake: Lake, run_id: str) -> FinishedRun:
    """The newest finished attempt of a pretraining run, or of the newest such run for `latest`.

    Raises NotFound if the lake has none, Damage if its files are missing or differ from their digests.
    """
    run_id, attempt = _finished_attempt(lake, run_id)
    folder = lake.artefact_dir("runs", run_id, attempt)
    record = _read_record(folder, run_id)
    for name, digest in record["files"].items():
        if not (folder / name).is_file() or ids.file_digest(folder / name) != digest:
            raise Damage(
                f"{name} of run {run_id} is missing or differs from its digest; pretrain again with --resume no"
            )
    tensors = {name: t for name, t in read_tensors(folder / WEIGHTS).items() if not name.startswith(HEAD)}
    try:
        return FinishedRun(
            tensors,
            _architecture(record["network"]),
            _preprocessing(record["crops"]),
            _lineage(lake, record, run_id, attempt),
        )
    except (KeyError, ValidationError) as error:
        raise InputError(
            f"run {run_id} cannot be published: {RECORD} lacks or misstates {str(error).splitlines()[0]}"
        ) from error


def _finished_attempt(lake: Lake, run_id: str) -> tuple[str, str]:
    rows = lake.table("runs", columns=["run_id", "attempt", "kind", "state", "created_at"]).to_pylist()
    done = [row for row in rows if row["kind"] == "pretrain" and row["state"] == "done"]
    mine = [row for row in done if run_id in (LATEST, row["run_id"])]
    if not mine:
        known = ", ".join(sorted({row["run_id"] for row in done})) or "none"
        raise NotFound(f"lake {lake.uri} has no finished pretraining run {run_id}; there are {known}")
    newest = max(mine, key=lambda row: (row["created_at"], row["run_id"]))
    return newest["run_id"], newest["attempt"]


def _read_record(folder: Path, run_id: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damage(f"{RECORD} of run {run_id} cannot be read ({error}); pretrain again with --resume no") from error
    if WEIGHTS not in record.get("files", {}):
        raise Damage(f"{RECORD} of run {run_id} names no {WEIGHTS}; pretrain again with --resume no")
    return record


def _architecture(network: Mapping[str, Any]) -> Architecture:
    trained = network["norm"]
    return Architecture(
        width=network["width"], norm="instance" if trained == "batch" else trained, trained_norm=trained
    )


def _preprocessing(crops: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        window_hu=crops["window_hu"], spacing_zyx_mm=crops["spacing_zyx_mm"], crop_shape_zyx=crops["shape_zyx"]
    )


def _lineage(lake: Lake, record: Mapping[str, Any], run_id: str, attempt: str) -> Lineage:
    return Lineage(
        lake_id=lake.lake_id,
        lake_version=record["lake_version"],
        run=run_id,
        attempt=attempt,
        recipe=record["recipe_name"],
        discovery=record.get("discovery_id"),
        encoder=record.get("encoder_id"),
    )
