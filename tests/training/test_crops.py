"""Crops on their way into a batch: window, perturbation by key, reading ahead."""

from __future__ import annotations

import threading
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semgen_platform.perturbations.compose import PerturbationConfig
from semgen_platform.perturbations.elastic import ElasticConfig
from semgen_platform.training.crops import BatchMaker, Crops, read_ahead, scaled


@pytest.fixture
def make_batch() -> BatchMaker:
    perturbation = PerturbationConfig(elastic=ElasticConfig(sigma_voxels=2, alpha=20))
    return BatchMaker(3, (-1000.0, 1000.0), perturbation, torch.device("cpu"))


def test_the_window_maps_hu_to_the_unit_interval_and_clips() -> None:
    hu = torch.tensor([-2000.0, -1000.0, 0.0, 500.0, 1000.0, 3000.0])
    assert scaled(hu, (-1000, 1000)).tolist() == [0, 0, 0.5, 0.75, 1, 1]


def test_targets_are_untouched_crops_and_inputs_are_drawn_anew_each_epoch_and_split(
    program: ModuleType, make_batch: BatchMaker
) -> None:
    crops, indices = program.phantom_crops(6, seed=1), np.array([4, 1])
    read = crops.read(indices)
    first = make_batch(crops, indices, read, "train", 0)
    assert first.perturbed.shape == first.target.shape == (2, 1, *program.SHAPE)
    torch.testing.assert_close(first.target[:, 0], ((torch.from_numpy(read) + 1000) / 2000).clamp(0, 1))
    assert first.labels.tolist() == [0, 1]
    others = [make_batch(crops, indices, read, *when) for when in (("train", 1), ("val", 0))]
    assert all(not torch.equal(other.perturbed, first.perturbed) for other in others)
    again = make_batch(crops, indices[::-1].copy(), read[::-1].copy(), "train", 0)
    assert torch.equal(again.perturbed.flip(0), first.perturbed)


def test_crops_come_in_order_and_the_next_ones_are_read_meanwhile() -> None:
    begun: list[int] = []
    second_begun = threading.Event()

    def read(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        begun.append(int(indices[0]))
        if len(begun) == 2:
            second_begun.set()
        return indices.astype(np.float32)

    shares = [np.array([n]) for n in (5, 3, 9)]
    ahead = read_ahead(Crops(np.zeros(10, np.int64), read), shares)
    _, first = next(ahead)
    assert second_begun.wait(timeout=10)  # while the caller still has the first in hand
    rest = [float(crops[0]) for _, crops in ahead]
    assert [float(first[0]), *rest] == [5, 3, 9]
    assert begun == [5, 3, 9]
    assert list(read_ahead(Crops(np.zeros(1, np.int64), read), [])) == []
