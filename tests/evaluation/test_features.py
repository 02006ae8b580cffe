"""Baselines are fair: the same network, its averages set from the data, and a histogram that is one."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semgen_platform.backbones.backbone import embed, preprocess
from semgen_platform.backbones.contract import Architecture, BackboneConfig, Lineage, Preprocessing
from semgen_platform.evaluation.features import histogram_feature, random_network
from semgen_platform.networks.norm import NormMode

CONTRACT = Preprocessing(window_hu=(-1000, 1000), spacing_zyx_mm=(3, 1.4, 1.4), crop_shape_zyx=(8, 16, 16))


def _crops(count: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    return (rng.uniform(-800, 800, (count, 1, 1, 1)) + rng.normal(0, 200, (count, 8, 16, 16))).astype(np.float32)


def _config(norm: NormMode) -> BackboneConfig:
    return BackboneConfig(
        name="small",
        version=1,
        architecture=Architecture.model_validate({"width": 4, "norm": norm, "trained_norm": norm}),
        preprocessing=CONTRACT,
        parameters=1,
        lineage=Lineage(lake_id="l", lake_version=0, run="r", attempt="0", recipe="tiny"),
        files={},
        software={},
    )


def test_the_histogram_is_numpys_with_the_ends_folded_in() -> None:
    crops = _crops(5) * 2
    expected = [np.histogram(np.clip(c, -1000, 1000), bins=16, range=(-1000, 1000))[0] / c.size for c in crops]
    np.testing.assert_allclose(histogram_feature(CONTRACT, 16)(crops), expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["running", "instance"])
def test_a_random_network_is_that_of_its_seed_and_its_features_live(norm: NormMode) -> None:
    crops = _crops(48)
    networks = [random_network(_config(norm), seed, crops) for seed in (0, 0, 1)]
    first, same, other = (embed(n, preprocess(crops, CONTRACT)) for n in networks)
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0.05
    assert not networks[0].training
    torch.manual_seed(123)
    before = torch.rand(1)
    torch.manual_seed(123)
    random_network(_config(norm), 5, crops)
    assert torch.equal(torch.rand(1), before), "the caller's random state is left alone"


def test_running_averages_of_a_random_network_are_those_of_the_crops() -> None:
    """After the first norm each channel has mean 0 and deviation 1 over the crops, up to its ReLU."""
    crops = _crops(64)
    network = random_network(_config("running"), 0, crops)
    unit: Any = network.down_tr64.ops[0]
    with torch.no_grad():
        normed = unit.bn1(unit.conv1(preprocess(crops, CONTRACT)))
    assert normed.mean(dim=(0, 2, 3, 4)).abs().max() < 0.05
    assert (normed.std(dim=(0, 2, 3, 4)) - 1).abs().max() < 0.05
