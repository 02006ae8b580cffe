"""A loaded backbone: crops in Hounsfield units go in, one vector per crop comes out, and wrong input is refused.

Plain torch, no lake: what reads scans is `scan.py`, what finds and checks files is `registry.py`. Shapes: N crops,
D values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from semgen_platform.backbones.contract import Architecture, BackboneConfig, Preprocessing
from semgen_platform.errors import InputError
from semgen_platform.networks.unet3d import UNet3D

BATCH = 16
LAYOUT = torch.channels_last_3d  # with it an encoder of width 8 takes half the time of the default on a CPU
SCALED_LIMIT = 5.0
"""HU. CT holds air, fat or at least noise beyond it; values that are all smaller were scaled or normalised already."""


@dataclass(frozen=True, eq=False)
class Backbone:
    """A published network with its contract.

    config : what config.json says.
    network : in evaluation mode, on the CPU until moved; its norm lets no answer depend on the rest of the batch.
    """

    config: BackboneConfig
    network: UNet3D

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.network.parameters()).device

    def preprocess(self, crops_hu_NZYX: NDArray[np.generic]) -> torch.Tensor:
        """(N, 1, z, y, x) float32 in [0, 1] from crops in HU; see `preprocess` for what is refused."""
        return preprocess(crops_hu_NZYX, self.config.preprocessing)

    def embed(self, crops_hu_NZYX: NDArray[np.generic]) -> NDArray[np.float32]:
        """One vector per crop, (N, D) float32: the bottleneck averaged over space. Raises InputError for a breach."""
        inputs = self.preprocess(crops_hu_NZYX)
        return embed(self.network, inputs)


def new_network(architecture: Architecture) -> UNet3D:
    """The network before its weights are loaded, drawn from torch's random state, in the layout that is fast here."""
    network = UNet3D(architecture.width, architecture.norm)
    network.to(memory_format=LAYOUT)  # type: ignore[call-overload]  # which torch's stubs do not know
    return network.eval()


def preprocess(crops_hu_NZYX: NDArray[np.generic], contract: Preprocessing) -> torch.Tensor:
    """(N, 1, z, y, x) float32 in [0, 1] from crops in HU.

    Raises InputError, with what was found and what is wanted, for another shape, values that are not finite, or values
    that were scaled already.
    """
    crops = np.asarray(crops_hu_NZYX)
    if crops.ndim != 4 or crops.shape[1:] != contract.crop_shape_zyx:
        raise InputError(
            f"crops have shape {crops.shape}; this backbone takes (N, z, y, x) with (z, y, x) = "
            f"{contract.crop_shape_zyx} at {contract.spacing_zyx_mm} mm"
        )
    hu = torch.from_numpy(np.ascontiguousarray(crops, dtype=np.float32))
    if not bool(torch.isfinite(hu).all()):
        raise InputError("crops contain values that are not finite; give Hounsfield units")
    if len(hu) and float(hu.abs().max()) <= SCALED_LIMIT:
        raise InputError(
            f"no value of the crops lies beyond {SCALED_LIMIT:g}, so they look scaled already; give Hounsfield units, "
            "the window is applied here"
        )
    low, high = contract.window_hu
    return ((hu.clamp(low, high) - low) / (high - low)).unsqueeze(1)


def embed(network: UNet3D, inputs_N1ZYX: torch.Tensor) -> NDArray[np.float32]:
    """(N, D) float32: bottleneck averaged over space, computed in batches that do not show in the result."""
    device = next(network.parameters()).device
    with torch.inference_mode():
        parts = [network.embed(batch).float().cpu().numpy() for batch in _batches(inputs_N1ZYX, device)]
    return np.concatenate(parts) if parts else np.zeros((0, 16 * network.width), np.float32)


def _batches(inputs: torch.Tensor, device: torch.device) -> Iterator[torch.Tensor]:
    for start in range(0, len(inputs), BATCH):
        yield inputs[start : start + BATCH].to(device, memory_format=LAYOUT)
