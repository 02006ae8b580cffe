"""Features of crops: a backbone's vectors, those of the same network with random weights, and the histogram of HU.

Shapes: N crops, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from semgen_platform.backbones.backbone import BATCH, Backbone, embed, new_network, preprocess
from semgen_platform.backbones.contract import BackboneConfig, Preprocessing
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.networks.unet3d import UNet3D

Crops = NDArray[np.float32]
Feature = Callable[[Crops], NDArray[np.float32]]
"""Features (N, D) of crops (N, z, y, x) in HU."""

PRETRAINED, RANDOM, HISTOGRAM = "pretrained", "random", "histogram"
CALIBRATION_CROPS = 256


def histogram_feature(contract: Preprocessing, bins: int) -> Feature:
    """Shares of a crop's voxels in equal bins of the backbone's window; what lies outside counts at its ends."""
    low, high = contract.window_hu

    def histogram(crops_hu_NZYX: Crops) -> NDArray[np.float32]:
        scaled = np.clip((crops_hu_NZYX.reshape(len(crops_hu_NZYX), -1) - low) / (high - low), 0, 1)
        places = np.minimum((scaled * bins).astype(np.int64), bins - 1)
        counts = [np.bincount(row, minlength=bins) for row in places]
        return np.asarray(np.stack(counts) / places.shape[1], np.float32)

    return histogram


def random_network(config: BackboneConfig, seed: int, crops_hu_NZYX: Crops) -> UNet3D:
    """The backbone's network with the weights it starts training from.

    Running averages are set from crops of the scans themselves, without labels: those of a new network (0 and 1) would
    let its features vanish, and a backbone better than that has shown nothing.
    """
    architecture = config.architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = new_network(architecture)
    if architecture.norm == "running":
        _set_running_averages(network, preprocess(crops_hu_NZYX, config.preprocessing))
    return network.eval()


def _set_running_averages(network: UNet3D, inputs_N1ZYX: torch.Tensor) -> None:
    """Plain means over batches of the statistics that the encoder's norms see."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d)]
    momentum = [norm.momentum for norm in norms]
    network.train()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a cumulative mean
    with torch.no_grad():
        for start in range(0, len(inputs_N1ZYX), BATCH):
            network.encode(inputs_N1ZYX[start : start + BATCH])
    for norm, former in zip(norms, momentum, strict=True):
        norm.momentum = former


def probe_features(
    backbone: Backbone, calibration_hu_NZYX: Crops, *, initialisations: int, bins: int, seed: int
) -> dict[str, list[Feature]]:
    """By name: the backbone, as many random networks as `initialisations`, and the histogram."""
    contract = backbone.config.preprocessing

    def of(network: UNet3D) -> Feature:
        return lambda crops: embed(network, preprocess(crops, contract))

    networks = [random_network(backbone.config, seed + n, calibration_hu_NZYX) for n in range(initialisations)]
    return {
        PRETRAINED: [backbone.embed],
        RANDOM: [of(network) for network in networks],
        HISTOGRAM: [histogram_feature(contract, bins)],
    }


def compute(
    features: Mapping[str, Sequence[Feature]],
    reader: CropReader,
    requests: Sequence[CropRequest],
    advance: Callable[[int], None],
) -> dict[str, list[NDArray[np.float32]]]:
    """Matrices (N, D) of every feature; each crop is read once and `advance` hears of every batch."""
    parts: dict[str, list[list[NDArray[np.float32]]]] = {name: [[] for _ in group] for name, group in features.items()}
    for start in range(0, len(requests), BATCH):
        crops = reader.read(requests[start : start + BATCH])
        for name, group in features.items():
            for collected, feature in zip(parts[name], group, strict=True):
                collected.append(feature(crops))
        advance(len(crops))
    return {name: [np.concatenate(p) for p in group] for name, group in parts.items()}
