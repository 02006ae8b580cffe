"""Checkpoints that are whole or absent: written aside, flushed, digested, renamed into place.

A checkpoint is a folder `step-<number>/` with `state.pt` (tensors and plain values, read back without running pickled
code) and `manifest.json`, written last, which holds the digest. One whose digest differs is passed over with a warning,
and the one before it serves (USERS.md item 18). Random state is no part of one: every draw is keyed by seed, epoch and
index, so the position says it all.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semgen_platform.errors import ConfigError
from semgen_platform.ids import digest_of

log = logging.getLogger(__name__)

FORMAT = 1
STATE, MANIFEST = "state.pt", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    step: int
    state: dict[str, Any]


def save_checkpoint(folder: Path, state: Mapping[str, Any], *, step: int, config_digest: str, keep: int) -> Path:
    """Write `folder/step-<step>/` and remove all but the newest `keep`; a kill at any moment leaves what was there.

    state : tensors, numbers, strings, lists and dicts of them. A checkpoint of the same step is replaced.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    manifest = {
        "format": FORMAT,
        "step": step,
        "config_digest": config_digest,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    place = folder / f"step-{step:08d}"
    aside = folder / f".{place.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _write_flushed(aside / STATE, data)
    _write_flushed(aside / MANIFEST, json.dumps(manifest).encode())
    if (
        place.exists()
    ):  # an earlier start of the same run got here; both are whole, so a kill between the lines costs one
        shutil.rmtree(place)
    aside.rename(place)
    _flush_folder(folder)
    _remove_all_but_newest(folder, keep)
    return place


def newest_checkpoint(folder: Path, *, config_digest: str) -> Checkpoint | None:
    """The newest whole checkpoint below `folder`, or None. Raises ConfigError if another configuration made it."""
    for place in reversed(_places(folder)):
        found = _read(place)
        if found is None:
            log.warning("checkpoint %s is damaged and passed over; the one before it serves", place.name)
            continue
        manifest, state = found
        if manifest["config_digest"] != config_digest:
            raise ConfigError(
                f"checkpoint {place.name} was made with another configuration; give --resume no to start anew"
            )
        return Checkpoint(manifest["step"], state)
    return None


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """24 characters over names, types, shapes and bytes of a state dict, in the order of the names."""
    digests = {
        name: [str(tensor.dtype), list(tensor.shape), hashlib.sha256(_bytes_of(tensor)).hexdigest()]
        for name, tensor in state.items()
    }
    return digest_of(digests)


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _read(place: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    try:
        manifest = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        data = (place / STATE).read_bytes()
    except (OSError, ValueError):
        return None
    if manifest.get("format") != FORMAT or manifest.get("sha256") != hashlib.sha256(data).hexdigest():
        return None
    return manifest, torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def _places(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def _remove_all_but_newest(folder: Path, keep: int) -> None:
    for old in _places(folder)[:-keep]:
        shutil.rmtree(old)
    for aside in _asides(folder):
        shutil.rmtree(aside, ignore_errors=True)


def _asides(folder: Path) -> Iterator[Path]:
    """What writers that died left behind."""
    return folder.glob(".step-*")


def _write_flushed(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
