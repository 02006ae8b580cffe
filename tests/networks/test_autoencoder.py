"""The auto-encoder without skips (METHOD.md section 5b, step 0)."""

from __future__ import annotations

import torch

from semgen_platform.networks.autoencoder import AutoEncoder
from semgen_platform.networks.unet3d import UNet3D


def test_down_path_is_that_of_the_unet_by_name_and_shape() -> None:
    with torch.device("meta"):
        unet, auto = UNet3D(8).state_dict(), AutoEncoder(8).state_dict()
    down = {name: tensor.shape for name, tensor in unet.items() if name.startswith("down_")}
    assert {name: tensor.shape for name, tensor in auto.items() if name.startswith("down_")} == down


def test_restores_the_demo_grid_and_embeds_it_to_sixteen_widths() -> None:
    torch.manual_seed(0)
    network = AutoEncoder(width=4).eval()
    scan = torch.rand(2, 1, 64, 48, 56)
    with torch.no_grad():
        restored, vectors = network(scan), network.embed(scan)
    assert restored.shape == scan.shape
    assert restored.min() > 0
    assert restored.max() < 1
    assert vectors.shape == (2, 64)
    assert (vectors >= 0).all()  # the mean of a ReLU


def test_nothing_but_the_bottleneck_reaches_the_decoder() -> None:
    """With the bottleneck silenced, two different scans are restored alike: no skip carries detail around it."""
    torch.manual_seed(0)
    network = AutoEncoder(width=4).eval()
    with torch.no_grad():
        for name, weights in network.down_tr512.named_parameters():
            if ".bn1." in name:
                weights.zero_()
        one, other = network(torch.rand(2, 1, 16, 16, 16))
    assert torch.equal(one, other)


def test_a_few_steps_on_one_scan_lower_the_restoration_error() -> None:
    torch.manual_seed(0)
    network = AutoEncoder(width=4)
    scan = torch.nn.functional.interpolate(torch.rand(2, 1, 2, 2, 2), size=(16, 16, 16), mode="trilinear")
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    errors = []
    for _ in range(15):
        loss = torch.nn.functional.mse_loss(network(scan), scan)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < 0.5 * errors[0]
