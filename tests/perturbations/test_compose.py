"""The composition of METHOD.md section 4.1, keyed draws, and what never changes: the argument."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from semgen_platform.errors import ConfigError
from semgen_platform.perturbations.compose import PerturbationConfig, draw_perturbation, perturb
from semgen_platform.perturbations.elastic import ElasticConfig

SHAPE = (16, 32, 32)
SMALL = PerturbationConfig(elastic=ElasticConfig(sigma_voxels=4, alpha=175))
KEYS = [(7, 0, index) for index in range(12)]  # all four changes occur among these


@pytest.fixture
def crops_NZYX() -> torch.Tensor:
    return torch.rand(len(KEYS), *SHAPE, generator=torch.Generator().manual_seed(0))


def test_each_of_the_four_changes_has_a_quarter() -> None:
    rng = np.random.default_rng(1)
    counts = Counter(type(draw_perturbation(rng, SHAPE, SMALL).change).__name__ for _ in range(2000))
    assert sorted(counts) == ["InPaint", "IntensityMap", "OutPaint", "Shuffle"]
    # the sd of a share of 0.25 in 2000 draws is 0.0097
    assert all(count / 2000 == pytest.approx(0.25, abs=0.03) for count in counts.values())


def test_every_crop_is_warped_and_changed_once() -> None:
    rng = np.random.default_rng(2)
    assert all(draw_perturbation(rng, SHAPE, SMALL).elastic_noise is not None for _ in range(50))
    unwarped = PerturbationConfig(elastic=ElasticConfig(alpha=0))
    assert draw_perturbation(rng, SHAPE, unwarped).elastic_noise is None


def test_a_crop_is_perturbed_by_its_key_alone(crops_NZYX: torch.Tensor) -> None:
    together = perturb(crops_NZYX, KEYS, SMALL)
    backwards = perturb(crops_NZYX.flip(0), KEYS[::-1], SMALL).flip(0)
    assert torch.equal(together, backwards)
    assert torch.equal(perturb(crops_NZYX[3:4], KEYS[3:4], SMALL), together[3:4])


def test_another_epoch_another_seed_and_another_index_draw_anew(crops_NZYX: torch.Tensor) -> None:
    one = crops_NZYX[:1].expand(4, -1, -1, -1)
    drawn = perturb(one, [(7, 0, 0), (7, 1, 0), (8, 0, 0), (7, 0, 1)], SMALL)
    assert len({bytes(crop.numpy().tobytes()) for crop in drawn}) == 4


def test_global_generators_are_neither_read_nor_moved(crops_NZYX: torch.Tensor) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)
    one = perturb(crops_NZYX, KEYS, SMALL)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert str(np.random.get_state(legacy=False)) == str(before[1])
    torch.manual_seed(99)
    assert torch.equal(perturb(crops_NZYX, KEYS, SMALL), one)


def test_argument_is_never_written_to(crops_NZYX: torch.Tensor) -> None:
    kept = crops_NZYX.clone()
    for config in (SMALL, PerturbationConfig(elastic=ElasticConfig(alpha=0))):
        changed = perturb(crops_NZYX, KEYS, config)
        assert torch.equal(crops_NZYX, kept)
        assert changed.data_ptr() != crops_NZYX.data_ptr()


def test_values_stay_in_the_unit_interval_and_shapes_stay(crops_NZYX: torch.Tensor) -> None:
    changed = perturb(crops_NZYX, KEYS, SMALL)
    assert changed.shape == crops_NZYX.shape
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_shares_that_do_not_add_up_and_crops_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        PerturbationConfig(shuffling=0.5)
    with pytest.raises(ConfigError, match=r"\(8, 32, 32\).*at least 16"):
        draw_perturbation(np.random.default_rng(0), (8, 32, 32), SMALL)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device at hand")
def test_gpu_draws_and_applies_what_the_cpu_does(crops_NZYX: torch.Tensor) -> None:
    # draws are the CPU's; products of float32 matrices differ in order, moving voxels by up to 1e-4 of their spacing
    on_gpu = perturb(crops_NZYX.cuda(), KEYS, SMALL).cpu()
    torch.testing.assert_close(on_gpu, perturb(crops_NZYX, KEYS, SMALL), atol=1e-3, rtol=0)
