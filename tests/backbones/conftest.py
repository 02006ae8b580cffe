"""A small lake and a small network with weights that no initialisation gives."""

from pathlib import Path

import pytest
import torch

from semgen_platform.backbones.contract import Architecture, Lineage, Preprocessing
from semgen_platform.backbones.registry import Draft
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.networks.unet3d import UNet3D

WIDTH = 4


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return create_lake(str(tmp_path / "lake"), key_fingerprint="test")


@pytest.fixture(scope="session")
def preprocessing() -> Preprocessing:
    return Preprocessing(window_hu=(-1000, 1000), spacing_zyx_mm=(3.0, 1.4, 1.4), crop_shape_zyx=(8, 16, 16))


@pytest.fixture(scope="session")
def network() -> UNet3D:
    torch.manual_seed(7)
    network = UNet3D(WIDTH, "running")
    for _ in range(40):  # running averages as after training
        network(torch.rand(6, 1, 1, 1, 1) * 0.6 + torch.rand(6, 1, 8, 16, 16) * 0.4)
    return network.eval()


@pytest.fixture(scope="session")
def draft(network: UNet3D, preprocessing: Preprocessing) -> Draft:
    return Draft(
        tensors=network.state_dict(),
        architecture=Architecture(width=WIDTH, norm="running", trained_norm="running"),
        preprocessing=preprocessing,
        lineage=Lineage(
            lake_id="l1", lake_version=3, run="r-one", attempt="0", recipe="tiny", discovery="d-one", encoder="e-one"
        ),
    )
