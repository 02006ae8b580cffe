"""The encoder of whole scans: its configuration, its files in the lake, and the vector of one scan.

Training it is semgen_pipelines.encoder. A vector never depends on other scans: they go through the network one at a
time, and its norm uses running averages. Source: METHOD.md 5b step 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from semgen_platform.config import Config
from semgen_platform.discovery.body_frame import FRAME_SPACING_MM, encoder_input
from semgen_platform.discovery.resampling import Shape
from semgen_platform.errors import Damage, NotFound
from semgen_platform.ids import digest_of, file_digest
from semgen_platform.lake.lake import Lake
from semgen_platform.networks.autoencoder import AutoEncoder
from semgen_platform.networks.norm import NormMode
from semgen_platform.networks.unet3d import SHRINK

REVISION = 1
"""Raised whenever the same scans and configuration would give another encoder."""

NORM: NormMode = "running"
AIR_LOGIT = -1.5
"""First bias of the output, a sigmoid of 0.18: most cells are air. After one epoch of 26 phantoms the training error is
0.030 instead of 0.111, and the variance of the input is 0.044."""

INPUT_LEVEL_MM = FRAME_SPACING_MM  # the body is found at this spacing, so no coarser level is read
DESCRIPTION, WEIGHTS = "config.json", "weights.safetensors"


class EncoderConfig(Config):
    """How the auto-encoder is built and trained."""

    width: int = Field(default=32, ge=2)
    """Channels of the first block are twice this; a vector has 16 times as many values."""

    grid_shape_zyx: Shape = (128, 96, 112)
    """Cells of the fixed grid round the body; each axis divisible by 8."""

    spacing_mm: float = Field(default=4.0, gt=0)
    """Size of a cell; never stretched."""

    seed: int = 0
    epochs: int = Field(default=100, ge=1)
    """At most so many passes over the training scans."""

    batch_size: int = Field(default=8, ge=1)
    """Scans a step, over all workers."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Of Adam."""

    patience: int = Field(default=5, ge=1)
    """Training stops after so many epochs without a better validation error."""

    validation_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the patients (split groups) that only validate; at least one."""

    @field_validator("grid_shape_zyx")
    @classmethod
    def _divisible(cls, shape: Shape) -> Shape:
        if any(n < SHRINK or n % SHRINK for n in shape):
            raise ValueError(f"each axis must be a multiple of {SHRINK}")
        return shape


def network_for(config: EncoderConfig) -> AutoEncoder:
    """A network with fresh weights drawn from the configuration's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = AutoEncoder(config.width, NORM)
    assert network.final_conv.bias is not None
    torch.nn.init.constant_(network.final_conv.bias, AIR_LOGIT)
    return network


def channels_last(network: AutoEncoder) -> AutoEncoder:
    """The network in the layout that is 1.4 times as fast as the default one on a CPU (width 8, one core of Zen 5)."""
    moved: Any = network
    moved.to(memory_format=torch.channels_last_3d)  # torch's stubs know this overload for tensors only
    return network


def input_of(voxels_ZYX: NDArray[Any], zyx_to_lps_mm: Any, padding_hu: float | None, config: EncoderConfig) -> Any:
    """(z, y, x) float32 in [0, 1] of a scan's level at INPUT_LEVEL_MM or finer, as this encoder sees it."""
    return encoder_input(voxels_ZYX, zyx_to_lps_mm, padding_hu, config.grid_shape_zyx, config.spacing_mm)


@dataclass(frozen=True, eq=False)
class Embedder:
    """A trained encoder; made by `load_encoder`.

    digest : of its files, so that vectors and indexes can say by which weights they were made.
    """

    encoder_id: str
    digest: str
    config: EncoderConfig
    network: AutoEncoder

    @property
    def dimension(self) -> int:
        return 16 * self.config.width

    def embed(self, voxels_ZYX: NDArray[Any], zyx_to_lps_mm: Any, padding_hu: float | None) -> NDArray[np.float32]:
        """Vector (16 width,) float32 of one scan, read at INPUT_LEVEL_MM (lake.crops.CropReader.level)."""
        scan = input_of(voxels_ZYX, zyx_to_lps_mm, padding_hu, self.config)
        batch = torch.from_numpy(scan)[None, None].contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            vector: NDArray[np.float32] = self.network.embed(batch)[0].float().numpy()
        return vector


def save_encoder(network: AutoEncoder, config: EncoderConfig, history: list[dict[str, Any]], folder: Path) -> str:
    """Write weights.safetensors and, last, config.json, which makes them whole; returns the digest that names both."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    description = {
        "revision": REVISION,
        "norm": NORM,
        "config": config.model_dump(mode="json"),
        "history": history,
        "weights": file_digest(folder / WEIGHTS),
    }
    aside = folder / f".{DESCRIPTION}"
    aside.write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")
    aside.replace(folder / DESCRIPTION)
    return digest_of(description)


def saved_encoder(folder: Path) -> tuple[dict[str, Any], str] | None:
    """(config.json, digest) of an encoder that was written whole, or None."""
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        whole = file_digest(folder / WEIGHTS) == description["weights"]
    except (OSError, ValueError, KeyError):
        return None
    return (description, digest_of(description)) if whole else None


def load_encoder(lake: Lake, reference: str = "latest") -> Embedder:
    """The encoder with this id, or the newest one.

    Raises NotFound if there is none, Damage if its files are not what was written.
    """
    from safetensors.torch import load_file

    row = encoder_row(lake, reference)
    folder = lake.artefact_dir("encoders", row["encoder_id"], row["attempt"])
    saved = saved_encoder(folder)
    if saved is None or saved[1] != row["digest"]:
        raise Damage(
            f"encoder {row['encoder_id']} is missing or differs from its digest; restore {folder} or train another"
        )
    config = EncoderConfig.model_validate(saved[0]["config"])
    network = AutoEncoder(config.width, NORM)
    network.load_state_dict(load_file(folder / WEIGHTS))
    return Embedder(row["encoder_id"], row["digest"], config, channels_last(network.eval()))


def encoder_row(lake: Lake, reference: str = "latest") -> dict[str, Any]:
    """Row of `encoders` of an id or of the newest encoder at the lake's version. Raises NotFound."""
    rows = lake.table("encoders").to_pylist()
    found = [r for r in rows if reference in ("latest", r["encoder_id"])]
    if not found:
        known = ", ".join(r["encoder_id"] for r in rows) or "none"
        raise NotFound(
            f"the lake has no encoder {reference} (it has {known}); make one with: semgen-platform train-encoder"
        )
    return max(found, key=lambda r: (r["created_at"], r["encoder_id"]))
