"""What travels with a network's weights: architecture, preprocessing, lineage, digests. The form of `config.json`.

A user who holds the folder alone can tell from it how a scan becomes an input and which values come back; nothing here
computes. Source: USERS.md 33, 34 and 40.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from semgen_platform.config import Config

FORMAT = 1
METHOD = (
    "Self-supervised by anatomical patterns, after Haghighi et al. 2020 (Semantic Genesis) and 2021 (TransVW), "
    "re-implemented from facts; no code or weights of theirs. Patents on the method exist; clear commercial use "
    "yourself. No medical device."
)
LICENCE = "Apache-2.0"

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]


class Architecture(Config):
    """How the network is built before its weights are loaded."""

    network: Literal["unet3d"] = "unet3d"
    """The U-Net of METHOD.md section 2: encoder and decoder, without the pattern head."""
    width: int = Field(ge=2)
    """Channels of the first unit; the embedding has 16 times as many values."""
    norm: Literal["running", "instance"]
    """Statistics of the norm layers at use. Neither lets an answer depend on the other crops of a batch."""
    trained_norm: Literal["batch", "running", "instance"]
    """Statistics in training. `batch` is used as `instance`, which is the same function of a batch of one."""

    @property
    def dimensions(self) -> int:
        """Length of an embedding."""
        return 16 * self.width


class Preprocessing(Config):
    """How a scan becomes an input of the network."""

    modality: Literal["CT"] = "CT"
    window_hu: tuple[float, float]
    """HU below the first are 0 and above the second 1, linear between."""
    spacing_zyx_mm: Vector
    """Distance between voxels of a crop."""
    crop_shape_zyx: Shape
    """Voxels of a crop; each divisible by eight."""
    axis_order: Literal["N, channel, z, y, x"] = "N, channel, z, y, x"
    orientation: Literal["LPS"] = "LPS"
    """x runs to the patient's left, y to posterior, z to superior."""
    outside_hu: float = -1000.0
    """Value where a crop reaches beyond the scan."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu {self.window_hu} has no extent; give (low, high)")
        if min(self.spacing_zyx_mm) <= 0:
            raise ValueError(f"spacing_zyx_mm {self.spacing_zyx_mm} is not positive")
        if any(size < 8 or size % 8 for size in self.crop_shape_zyx):
            raise ValueError(f"crop_shape_zyx {self.crop_shape_zyx} is not divisible by 8")
        return self

    @property
    def extent_zyx_mm(self) -> Vector:
        """Size of a crop in millimetres."""
        z, y, x = (n * mm for n, mm in zip(self.crop_shape_zyx, self.spacing_zyx_mm, strict=True))
        return z, y, x


class Lineage(Config):
    """Where the weights come from, as ids of the lake that they were made in."""

    lake_id: str
    lake_version: int
    run: str
    attempt: str
    recipe: str
    discovery: str | None = None
    encoder: str | None = None


class File(Config):
    """A file beside config.json."""

    blake3: str
    bytes: int


class BackboneConfig(Config):
    """The whole of config.json."""

    format: int = FORMAT
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Lower case letters, digits, dots, dashes and underscores."""
    version: int = Field(ge=1)
    architecture: Architecture
    preprocessing: Preprocessing
    parameters: int
    lineage: Lineage
    files: dict[str, File]
    licence: str = LICENCE
    non_commercial: bool = False
    method: str = METHOD
    software: dict[str, str]
    """Versions of the libraries that wrote the golden embedding."""

    @property
    def ref(self) -> str:
        """`name:version`."""
        return f"{self.name}:{self.version}"
