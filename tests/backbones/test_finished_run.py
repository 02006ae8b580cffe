"""What a pretraining leaves becomes a backbone: head left behind, norm made fit for use, damage found."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from semgen_platform.backbones.finished_run import read_finished_run
from semgen_platform.backbones.registry import load_backbone, publish
from semgen_platform.errors import Damage, InputError, NotFound
from semgen_platform.ids import file_digest
from semgen_platform.lake.lake import Lake
from semgen_platform.networks.norm import NormMode
from semgen_platform.networks.unet3d import SemanticGenesisNet

CROPS = {"shape_zyx": [8, 16, 16], "spacing_zyx_mm": [3.0, 1.4, 1.4], "window_hu": [-1000.0, 1000.0]}


def _finish(lake: Lake, run_id: str = "p-one", norm: NormMode = "running", **changes: Any) -> Path:
    """A finished run as the pretrain stage leaves it."""
    torch.manual_seed(0)
    folder = lake.artefact_dir("runs", run_id, "0")
    folder.mkdir(parents=True)
    network = SemanticGenesisNet(5, 4, norm)
    save_file(network.state_dict(), folder / "weights.safetensors")
    record = {
        "recipe_name": "tiny",
        "network": {"width": 4, "norm": norm, "classes": 5},
        "crops": CROPS,
        "discovery_id": "d-one",
        "encoder_id": None,
        "lake_version": 4,
        "files": {"weights.safetensors": file_digest(folder / "weights.safetensors")},
    }
    (folder / "run.json").write_text(json.dumps({**record, **changes}))
    lake.insert("runs", [{"run_id": run_id, "attempt": "0", "kind": "pretrain", "state": "done"}])
    lake.commit("pretrain", run_id)
    return folder


def test_a_run_is_published_with_its_lineage_and_without_its_pattern_head(lake: Lake) -> None:
    folder = _finish(lake)
    config = publish(lake.refresh(), "p-one", "demo")
    assert config.ref == "demo:1"
    assert (config.lineage.run, config.lineage.discovery, config.lineage.encoder) == ("p-one", "d-one", None)
    assert config.preprocessing.crop_shape_zyx == (8, 16, 16)
    loaded = load_backbone("demo", lake=lake.refresh()).network.state_dict()
    assert not [name for name in loaded if name.startswith("clc_out")]
    trained = read_finished_run(lake.refresh(), "p-one").tensors
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.items())
    assert (folder / "weights.safetensors").is_file()


def test_latest_is_the_newest_finished_pretraining(lake: Lake) -> None:
    _finish(lake, "p-one")
    _finish(lake, "p-two")
    lake.insert("runs", [{"run_id": "e-x", "attempt": "0", "kind": "embed", "state": "done"}])
    lake.commit("embed", "e-x")
    assert publish(lake.refresh(), "latest", "demo").lineage.run == "p-two"


def test_batch_statistics_are_used_as_those_of_a_batch_of_one(lake: Lake) -> None:
    _finish(lake, norm="batch")
    config = publish(lake.refresh(), "p-one", "demo")
    assert (config.architecture.trained_norm, config.architecture.norm) == ("batch", "instance")
    trained = SemanticGenesisNet(5, 4, "batch")
    tensors = read_finished_run(lake.refresh(), "p-one").tensors
    trained.load_state_dict({**trained.state_dict(), **tensors})
    crop = torch.rand(1, 1, 8, 16, 16)
    published = load_backbone("demo", lake=lake.refresh()).network
    with torch.no_grad():
        torch.testing.assert_close(published.encode(crop), trained.encode(crop), rtol=1e-4, atol=1e-5)


def test_a_run_that_is_not_finished_or_not_there_is_named_beside_those_that_are(lake: Lake) -> None:
    _finish(lake)
    with pytest.raises(NotFound, match="no finished pretraining run p-two; there are p-one"):
        publish(lake.refresh(), "p-two", "demo")


def test_changed_weights_are_damage(lake: Lake) -> None:
    folder = _finish(lake)
    data = bytearray((folder / "weights.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(bytes(data))
    with pytest.raises(Damage, match="differs from its digest"):
        publish(lake.refresh(), "p-one", "demo")


def test_a_record_without_what_is_needed_is_refused(lake: Lake) -> None:
    _finish(lake, network={"width": 4})
    with pytest.raises(InputError, match="norm"):
        publish(lake.refresh(), "p-one", "demo")
