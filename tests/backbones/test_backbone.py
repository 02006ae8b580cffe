"""Crops in Hounsfield units go in; answers do not depend on the batch; wrong input is refused."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semgen_platform.backbones.backbone import Backbone, embed, preprocess
from semgen_platform.backbones.contract import Preprocessing
from semgen_platform.backbones.registry import Draft, load_backbone, publish_draft
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.networks.unet3d import UNet3D


@pytest.fixture
def backbone(lake: Lake, draft: Draft) -> Backbone:
    publish_draft(lake, "small", draft)
    return load_backbone("small", lake=lake.refresh())


def crops(count: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    base_hu, noise_hu = rng.uniform(-800, 800, (count, 1, 1, 1)), rng.uniform(-700, 700, (count, 8, 16, 16))
    return (base_hu + noise_hu).astype(np.float32)


def test_the_window_maps_its_ends_to_zero_and_one_and_clips_beyond(preprocessing: Preprocessing) -> None:
    hu = np.full((1, 8, 16, 16), -1000, np.int16)
    hu[0, 0, 0, :5] = [-2000, 0, 500, 1000, 3000]
    made = preprocess(hu, preprocessing)
    assert made.shape == (1, 1, 8, 16, 16)
    assert made.dtype == torch.float32
    assert made[0, 0, 0, 0, :6].tolist() == [0.0, 0.5, 0.75, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (crops(2) / 1500, "scaled already"),
        ((crops(2) + 1500) / 3000, "scaled already"),
        (crops(2)[:, :, :, :8], "shape"),
        (crops(2)[0], "shape"),
        (np.where(crops(1) > 0, np.nan, crops(1)), "not finite"),
    ],
)
def test_input_that_breaks_the_contract_is_refused(
    given: NDArray[np.float32], complaint: str, preprocessing: Preprocessing
) -> None:
    with pytest.raises(InputError, match=complaint):
        preprocess(given, preprocessing)


@pytest.mark.parametrize("norm", ["running", "instance"])
def test_no_embedding_depends_on_the_other_crops_of_its_batch(
    norm: str, draft: Draft, preprocessing: Preprocessing
) -> None:
    network = UNet3D(4, norm).eval()  # type: ignore[arg-type]
    network.load_state_dict(dict(draft.tensors))
    inputs = preprocess(crops(40), preprocessing)
    together = embed(network, inputs)
    alone = np.concatenate([embed(network, inputs[n : n + 1]) for n in range(len(inputs))])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)  # oneDNN rounds differently by batch size
    assert together.std(axis=0).max() > 1e-3, "the crops differ, so their vectors must"


def test_batch_statistics_would_have_depended_on_the_batch(draft: Draft, preprocessing: Preprocessing) -> None:
    network = UNet3D(4, "batch").eval()
    network.load_state_dict(dict(draft.tensors))
    inputs = preprocess(crops(8), preprocessing)
    assert np.abs(embed(network, inputs)[0] - embed(network, inputs[:1])[0]).max() > 1e-3


def test_embedding_leaves_the_weights_and_running_averages_as_they_are(backbone: Backbone) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.network.state_dict().items()}
    backbone.embed(crops(3))
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.network.state_dict().items())


def test_a_vector_is_the_mean_of_the_bottleneck(backbone: Backbone) -> None:
    given = crops(2)
    with torch.no_grad():
        scaled = torch.from_numpy((np.clip(given, -1000, 1000) + 1000) / 2000)[:, None]
        bottleneck = backbone.network.encode(scaled)
    assert bottleneck.shape == (2, 64, 1, 2, 2)
    np.testing.assert_allclose(backbone.embed(given), bottleneck.numpy().mean(axis=(2, 3, 4)), rtol=1e-5, atol=1e-7)


def test_no_crops_give_no_vectors(backbone: Backbone) -> None:
    assert backbone.embed(crops(0)).shape == (0, 64)
