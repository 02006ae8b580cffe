"""Published backbones in a lake: `<lake>/models/<name>/<version>/` and a row in `models`.

A version is a number and is never rewritten; an alias is a row that points to one, the newest row speaks, and `latest`
is always the highest number. Folders hold weights.safetensors, golden.safetensors, config.json and card.md, and can be
copied away and loaded without a lake. Source: DESIGN.md section 4, USERS.md 40.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from semgen_platform import ids
from semgen_platform.backbones import golden
from semgen_platform.backbones.backbone import Backbone, new_network
from semgen_platform.backbones.card import card
from semgen_platform.backbones.contract import FORMAT, Architecture, BackboneConfig, File, Lineage, Preprocessing
from semgen_platform.backbones.finished_run import read_finished_run
from semgen_platform.backbones.weights import load_strictly, read_tensors, tensors_to_bytes
from semgen_platform.errors import ConfigError, Damage, InputError, NewerFormat, NotFound
from semgen_platform.lake.lake import Lake, open_lake
from semgen_platform.networks.unet3d import UNet3D

WEIGHTS, CONFIG, CARD = "weights.safetensors", "config.json", "card.md"
LATEST = "latest"


@dataclass(frozen=True)
class Draft:
    """A network about to be published: everything but its name, version and digests."""

    tensors: Mapping[str, torch.Tensor]
    architecture: Architecture
    preprocessing: Preprocessing
    lineage: Lineage


def publish(lake: Lake, run_id: str, name: str) -> BackboneConfig:
    """Publish a finished pretraining run (or `latest`) under a name; the same run and name are the same version.

    Raises NotFound if there is no such finished run, ConfigError for a name that cannot be one, Damage if the run's
    files differ from their digests.
    """
    run = read_finished_run(lake, run_id)
    return publish_draft(lake, name, Draft(run.tensors, run.architecture, run.preprocessing, run.lineage))


def publish_draft(lake: Lake, name: str, draft: Draft) -> BackboneConfig:
    """Write the next version of `name` and its row; an equal one that is there already is returned instead."""
    network = new_network(draft.architecture)
    load_strictly(network, draft.tensors, f"of run {draft.lineage.run}")
    weights = tensors_to_bytes(draft.tensors)
    lake = lake.refresh()
    present = _rows(lake, name)
    for row in present:
        config = _parse(row["config"], f"model {name}:{row['version']}")
        if config.lineage.run == draft.lineage.run and config.files[WEIGHTS].blake3 == _digest(weights):
            return config
    for version in count(1 + max((row["version"] for row in present), default=0)):
        written = _write(lake, _config(name, version, draft, network, weights), network, weights)
        if written is not None:  # else another publisher took that number, or died with it
            _insert(lake, written)
            return written
    raise AssertionError("numbers do not end")


def load_backbone(ref: str | Path, *, lake: Lake | str | None = None) -> Backbone:
    """The backbone of a REF (`name[:version|alias]`) in a lake, or of a folder when no lake is given; on the CPU.

    Raises NotFound, Damage (a file differs from its digest, or the golden embedding from today's), InputError (weights
    that do not fit), NewerFormat.
    """
    if lake is None:
        return _load_folder(Path(ref), None)
    opened = open_lake(lake) if isinstance(lake, str) else lake
    row = resolve(opened, str(ref))
    folder = opened.artefact_dir("models", row["name"], str(row["version"]))
    return _load_folder(folder, json.loads(row["digests"])[CONFIG])


def resolve(lake: Lake, ref: str) -> dict[str, Any]:
    """The row in `models` that a REF names. Raises NotFound with what there is."""
    name, _, wanted = ref.partition(":")
    rows = {row["version"]: row for row in _rows(lake, name)}
    if not rows:
        known = sorted({row["name"] for row in lake.table("models", columns=["name"]).to_pylist()})
        raise NotFound(
            f"there is no model {name} in {lake.uri}; there are {', '.join(known) or 'none: publish a run first'}"
        )
    version = int(wanted) if wanted.isdigit() else max(rows) if wanted in ("", LATEST) else _alias(lake, name, wanted)
    if version not in rows:
        raise NotFound(f"model {name} has no version {wanted}; it has {', '.join(map(str, sorted(rows)))}")
    return rows[version]


def models(lake: Lake) -> list[dict[str, Any]]:
    """All rows of `models`, by name and version."""
    rows: list[dict[str, Any]] = lake.table("models").to_pylist()
    return sorted(rows, key=lambda row: (row["name"], row["version"]))


def _rows(lake: Lake, name: str) -> list[dict[str, Any]]:
    return [row for row in models(lake) if row["name"] == name]


def _alias(lake: Lake, name: str, alias: str) -> int:
    moves = [r for r in lake.table("aliases").to_pylist() if r["name"] == name and r["alias"] == alias]
    if not moves:
        raise NotFound(f"model {name} has no alias {alias}; use a version number or {LATEST}")
    return int(max(moves, key=lambda row: row["move"])["version"])


def _digest(data: bytes) -> str:
    from blake3 import blake3

    return str(blake3(data).hexdigest())


def _config(name: str, version: int, draft: Draft, network: UNet3D, weights: bytes) -> BackboneConfig:
    try:
        return BackboneConfig(
            name=name,
            version=version,
            architecture=draft.architecture,
            preprocessing=draft.preprocessing,
            parameters=sum(p.numel() for p in network.parameters()),
            lineage=draft.lineage,
            files={WEIGHTS: File(blake3=_digest(weights), bytes=len(weights))},
            software={"torch": torch.__version__},
        )
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"{fault['loc'][0]} {fault['input']!r} cannot be published: {fault['msg']}") from None


def _write(lake: Lake, config: BackboneConfig, network: UNet3D, weights: bytes) -> BackboneConfig | None:
    """Write the folder of a version; None if the number belongs to another publication.

    config.json is created conditionally, so exactly one of two publishers gets the number. A folder that a killed
    publisher left with the same config.json is adopted.
    """
    crops = golden.golden_crops(config.preprocessing)
    golden_bytes = golden.golden_file(crops, Backbone(config, network).embed(crops))
    files = {**config.files, golden.FILE: File(blake3=_digest(golden_bytes), bytes=len(golden_bytes))}
    config = config.model_copy(update={"files": files})
    text = _json(config)
    prefix = f"models/{config.name}/{config.version}"
    if not lake.storage.create(f"{prefix}/{CONFIG}", text) and lake.storage.get(f"{prefix}/{CONFIG}") != text:
        return None
    for file, data in {WEIGHTS: weights, golden.FILE: golden_bytes, CARD: card(config).encode()}.items():
        lake.storage.put(f"{prefix}/{file}", data)
    return config


def _json(config: BackboneConfig) -> bytes:
    return (json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def _insert(lake: Lake, config: BackboneConfig) -> None:
    lineage = config.lineage
    digests = {CONFIG: _digest(_json(config)), **{name: file.blake3 for name, file in config.files.items()}}
    command_id = ids.artefact_id(
        "publish", recipe={"name": config.name}, revision=FORMAT, parents=[lineage.run], selection=digests[CONFIG]
    )
    row = {
        "name": config.name,
        "version": config.version,
        "model_id": "m" + ids.digest_of(digests),
        "config": config.model_dump(mode="json"),
        "digests": digests,
        "licence": config.licence,
        "lineage": lineage.model_dump(mode="json"),
        "parents": [parent for parent in (lineage.run, lineage.discovery, lineage.encoder) if parent],
        "lake_version": lineage.lake_version,
        "files": {name: file.bytes for name, file in config.files.items()},
        "run_id": command_id,
    }
    lake.insert("models", [row])
    lake.commit("publish", command_id)


def _load_folder(folder: Path, config_digest: str | None) -> Backbone:
    config = read_config(folder, config_digest)
    for name, file in config.files.items():
        path = folder / name
        if not path.is_file() or ids.file_digest(path) != file.blake3:
            raise Damage(
                f"{name} of backbone {config.ref} is missing or differs from its digest; fetch or publish it again"
            )
    network = new_network(config.architecture)
    load_strictly(network, read_tensors(folder / WEIGHTS), f"of backbone {config.ref}")
    backbone = Backbone(config, network)
    golden.check_golden(backbone, folder / golden.FILE)
    return backbone


def read_config(folder: Path, digest: str | None = None) -> BackboneConfig:
    """config.json of a backbone's folder. Raises NotFound, Damage if it is not what the lake recorded, NewerFormat."""
    path = folder / CONFIG
    if not path.is_file():
        raise NotFound(f"{folder} holds no {CONFIG}; give the folder of a published backbone, or a REF with --lake")
    data = path.read_bytes()
    if digest is not None and _digest(data) != digest:
        raise Damage(f"{CONFIG} in {folder} differs from the lake's digest; fetch or publish the backbone again")
    return _parse(data, str(folder))


def _parse(text: str | bytes, origin: str) -> BackboneConfig:
    try:
        found = json.loads(text)
        if int(found["format"]) > FORMAT:
            raise NewerFormat(
                f"backbone {origin} has format {found['format']} and this version reads up to {FORMAT}; upgrade"
            )
        return BackboneConfig.model_validate(found)
    except (ValueError, KeyError, TypeError) as error:  # pydantic's ValidationError is a ValueError
        raise InputError(f"{CONFIG} of backbone {origin} cannot be read ({str(error).splitlines()[0]})") from error
