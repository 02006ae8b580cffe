"""Crops as the loop sees them: labels and a reader, read ahead, scaled and perturbed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semgen_platform.perturbations.compose import Key, PerturbationConfig, perturb
from semgen_platform.training.losses import Batch
from semgen_platform.training.sampling import Indices


@dataclass(frozen=True)
class Crops:
    """Crops to train on or to validate with.

    labels : (N,) int64, the pattern of each crop
    read : crops (n, z, y, x) float32 in HU for n indices into `labels`; called from one thread at a time
    """

    labels: NDArray[np.int64]
    read: Callable[[Indices], NDArray[np.float32]]


def scaled(crops_hu: Tensor, window_hu: tuple[float, float]) -> Tensor:
    """HU as [0, 1]: the window's lower end and below become 0, its upper end and above 1."""
    low, high = window_hu
    return ((crops_hu - low) / (high - low)).clamp(0, 1)


def read_ahead(crops: Crops, shares: Sequence[Indices]) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
    """Each share with its crops in HU; the next share is read while the caller works on this one."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = [reader.submit(crops.read, share) for share in shares[:1]]
        for number, share in enumerate(shares):
            ahead += [reader.submit(crops.read, following) for following in shares[number + 1 : number + 2]]
            yield share, ahead.pop(0).result()


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches of crops that were read; a crop's perturbation is keyed by (seed, split, epoch, index)."""

    seed: int
    window_hu: tuple[float, float]
    perturbation: PerturbationConfig
    device: torch.device

    def __call__(self, crops: Crops, indices: Indices, crops_hu: NDArray[np.float32], split: str, epoch: int) -> Batch:
        """The batch of the crops (n, z, y, x) that were read for `indices`."""
        target = scaled(torch.from_numpy(crops_hu).to(self.device), self.window_hu)
        keys: list[Key] = [(self.seed, split, epoch, int(index)) for index in indices]
        perturbed = perturb(target, keys, self.perturbation)
        labels = torch.from_numpy(crops.labels[indices]).to(self.device)
        return Batch(_channels_last(perturbed), _channels_last(target), labels)


def _channels_last(crops_NZYX: Tensor) -> Tensor:
    """(N, 1, z, y, x) in the memory order of the network's weights."""
    return crops_NZYX[:, None].contiguous(memory_format=torch.channels_last_3d)
