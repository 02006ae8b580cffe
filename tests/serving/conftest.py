"""A real server over real HTTP: uvicorn on a free port, a small backbone and a small index, all from plain torch."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn

from semgen_platform import geometry
from semgen_platform.backbones.contract import Architecture, Lineage, Preprocessing
from semgen_platform.backbones.registry import Draft, publish_draft
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.networks.unet3d import UNet3D
from semgen_platform.serving.application import Limits, application
from semgen_platform.serving.artefacts import served_index, served_models
from semgen_platform.serving.client import Client
from semgen_platform.volume import Volume

Start = Callable[..., Client]


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with one model, `small:1`, and no index."""
    lake = create_lake(str(tmp_path_factory.mktemp("lake")), key_fingerprint="test")
    torch.manual_seed(7)
    network = UNet3D(4, "instance")
    draft = Draft(
        tensors=network.state_dict(),
        architecture=Architecture(width=4, norm="instance", trained_norm="instance"),
        preprocessing=Preprocessing(window_hu=(-1000, 1000), spacing_zyx_mm=(4, 2, 2), crop_shape_zyx=(8, 16, 16)),
        lineage=Lineage(lake_id="l1", lake_version=0, run="r-one", attempt="0", recipe="tiny"),
    )
    publish_draft(lake, "small", draft)
    return lake.refresh()


@pytest.fixture(scope="session")
def volume() -> Volume:
    """Noisy water in air, 120 mm wide."""
    shape = (24, 40, 40)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where((z / 2) ** 2 + y**2 + x**2 < 0.8, 30.0, -1000.0) + np.random.default_rng(3).normal(0, 12, shape)
    return Volume(np.rint(hu).astype(np.int16), geometry.affine_from((3, 3, 5), (-60, -60, 0)))


@pytest.fixture(scope="session")
def scan(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "scan.nii.gz"
    write_nifti(volume, path)
    return path


@contextmanager
def served(lake: Lake, token: str | None, limits: Limits) -> Iterator[str]:
    """The address of a running server."""
    app = application(served_models(lake, []), served_index(lake), token=token, limits=limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=10)


@pytest.fixture
def start(lake: Lake) -> Iterator[Start]:
    """Start a server with a token and limits of one's own; it ends with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def started(token: str | None = None, limits: Limits | None = None, show: str | None = None) -> Client:
            client = Client(stack.enter_context(served(lake, token, limits or Limits())), show)
            client.wait(10)
            return client

        yield started


@pytest.fixture(scope="session")
def url(lake: Lake) -> Iterator[str]:
    """One open server for the tests that only ask."""
    with served(lake, None, Limits()) as address:
        Client(address).wait(10)
        yield address


@pytest.fixture
def client(url: str) -> Client:
    return Client(url)
