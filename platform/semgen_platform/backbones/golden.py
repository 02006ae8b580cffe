"""A golden input and its embedding travel with the weights and are compared whenever they are loaded.

Digests prove that the files are those that were published; this proves that today's code makes the same function of
them (USERS.md 33 and 34). The input is stored, not described, so that any program can repeat the check.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from semgen_platform.backbones.backbone import Backbone
from semgen_platform.backbones.contract import Preprocessing
from semgen_platform.backbones.weights import read_tensors, tensors_to_bytes
from semgen_platform.errors import Damage
from semgen_platform.ids import uniform_stream

FILE = "golden.safetensors"
CROPS = 2
TOLERANCE = 0.01
"""Largest difference in relation to the golden vector's length; it implies a cosine above 0.9999."""


def golden_crops(contract: Preprocessing) -> NDArray[np.int16]:
    """(2, z, y, x) HU that reach beyond the window on both sides: a ramp along each axis, and noise on it."""
    low, high = contract.window_hu
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in contract.crop_shape_zyx), indexing="ij")
    middle, half = (low + high) / 2, (high - low) / 2
    noise = uniform_stream("golden", *contract.crop_shape_zyx).uniform(-0.3, 0.3, (CROPS, *contract.crop_shape_zyx))
    shapes = np.stack([0.5 * z + 0.4 * y + 0.3 * x, np.sin(3 * z) * np.cos(4 * y) + 0.5 * x])
    return np.rint(middle + half * (shapes + noise)).clip(-32768, 32767).astype(np.int16)


def golden_file(crops_hu_NZYX: NDArray[np.int16], embedding_ND: NDArray[np.float32]) -> bytes:
    """The safetensors file that holds both."""
    tensors = {"crops_hu_NZYX": torch.from_numpy(crops_hu_NZYX), "embedding_ND": torch.from_numpy(embedding_ND)}
    return tensors_to_bytes(tensors)


def check_golden(backbone: Backbone, path: Path) -> float:
    """The largest relative difference between the golden embedding and today's. Raises Damage above TOLERANCE."""
    tensors = read_tensors(path)
    golden = tensors["embedding_ND"].numpy()
    found = backbone.embed(tensors["crops_hu_NZYX"].numpy())
    if found.shape != golden.shape:
        raise Damage(
            f"backbone {backbone.config.ref} gives vectors of {found.shape[1]} values, its golden one has "
            f"{golden.shape[1]}"
        )
    difference = float((np.linalg.norm(found - golden, axis=1) / np.linalg.norm(golden, axis=1)).max())
    if not difference <= TOLERANCE:
        raise Damage(
            f"backbone {backbone.config.ref} differs from its golden embedding by {difference:.2g} (limit "
            f"{TOLERANCE:g}); "
            f"it was written with {', '.join(f'{k} {v}' for k, v in backbone.config.software.items())}"
        )
    return difference
