"""Ray Serve hosts the application: real scans in, the lake's own answers out, and a clean end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semgen_pipelines.serve import serving
from semgen_platform import geometry
from semgen_platform.backbones.contract import Architecture, Lineage, Preprocessing
from semgen_platform.backbones.registry import Draft, load_backbone, publish_draft
from semgen_platform.backbones.scan import embed_volume
from semgen_platform.errors import InputError, NotFound
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.networks.unet3d import UNet3D
from semgen_platform.serving.application import Limits
from semgen_platform.serving.client import Client
from semgen_platform.volume import Volume


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    lake = create_lake(str(tmp_path_factory.mktemp("lake")), key_fingerprint="test")
    torch.manual_seed(7)
    draft = Draft(
        tensors=UNet3D(4, "instance").state_dict(),
        architecture=Architecture(width=4, norm="instance", trained_norm="instance"),
        preprocessing=Preprocessing(window_hu=(-1000, 1000), spacing_zyx_mm=(4, 2, 2), crop_shape_zyx=(8, 16, 16)),
        lineage=Lineage(lake_id="l1", lake_version=0, run="r-one", attempt="0", recipe="tiny"),
    )
    publish_draft(lake, "small", draft)
    return lake.refresh()


@pytest.fixture
def volume() -> Volume:
    shape = (24, 40, 40)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where((z / 2) ** 2 + y**2 + x**2 < 0.8, 30.0, -1000.0) + np.random.default_rng(3).normal(0, 12, shape)
    return Volume(np.rint(hu).astype(np.int16), geometry.affine_from((3, 3, 5), (-60, -60, 0)))


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _options(**changes: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "token_file": None, "limits": Limits(), "address": None, **changes}


def test_a_scan_sent_to_ray_serve_has_the_vector_of_plain_torch(
    lake: Lake, volume: Volume, port: int, tmp_path: Path
) -> None:
    write_nifti(volume, tmp_path / "scan.nii.gz")
    (tmp_path / "token").write_text("0123456789abcdef")
    limits = Limits(upload_bytes=(tmp_path / "scan.nii.gz").stat().st_size)
    with serving(lake, ["small"], port=port, **_options(token_file=tmp_path / "token", limits=limits)) as served:
        assert (served.models, served.index_id, served.token_needed) == (("small:1",), None, True)
        client = Client(served.url, "0123456789abcdef")
        answer = client.embed("small", tmp_path / "scan.nii.gz")
        expected = embed_volume(load_backbone("small", lake=lake), volume)
        np.testing.assert_allclose(answer["vector"], expected, atol=1e-5)
        with pytest.raises(InputError, match="answered 401"):
            Client(served.url).models()
        with pytest.raises(InputError, match=r"answered 404.*no index"):
            client.similar(tmp_path / "scan.nii.gz")
        write_nifti(volume, tmp_path / "plain.nii")
        with pytest.raises(InputError, match="answered 413"):
            client.embed("small", tmp_path / "plain.nii")
    with pytest.raises(InputError, match="does not answer"):
        Client(served.url).models()


def test_what_is_wrong_is_said_before_anything_starts(lake: Lake, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with (
            pytest.raises(InputError, match=f"port {port} on 127.0.0.1 cannot be used"),
            serving(lake, [], port=port, **_options()),
        ):
            pass
    with pytest.raises(InputError, match="--token-file"), serving(lake, [], port=port, **_options(host="0.0.0.0")):
        pass
    with pytest.raises(NotFound, match="no model large"), serving(lake, ["large"], port=port, **_options()):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.slow
def test_the_command_says_where_it_serves_and_ends_cleanly_on_a_signal(number: int, lake: Lake, port: int) -> None:
    command = [sys.executable, "-m", "semgen_cli.main", "serve", "--lake", lake.uri, "--port", str(port), "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        assert document["models"] == ["small:1"]
        Client(document["url"]).wait(10)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        watchdog.cancel()
    assert (process.returncode, out, err) == (0, b"", b"")
    with pytest.raises(InputError, match="does not answer"):
        Client(document["url"]).models()
