"""A version is written once, loaded strictly, and found damaged when it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from semgen_platform.backbones import registry
from semgen_platform.backbones.contract import Preprocessing
from semgen_platform.backbones.registry import Draft, load_backbone, models, publish_draft, resolve
from semgen_platform.errors import ConfigError, Damage, InputError, NewerFormat, NotFound
from semgen_platform.lake.lake import Lake
from semgen_platform.networks.unet3d import UNet3D


def _folder(lake: Lake, version: int = 1) -> Path:
    return lake.artefact_dir("models", "small", str(version))


def _changed(draft: Draft, run: str = "r-two") -> Draft:
    tensors = {name: tensor + 1 if name.endswith("conv1.bias") else tensor for name, tensor in draft.tensors.items()}
    return replace(draft, tensors=tensors, lineage=draft.lineage.model_copy(update={"run": run}))


def test_a_published_network_is_loaded_with_the_very_weights(lake: Lake, draft: Draft, network: UNet3D) -> None:
    config = publish_draft(lake, "small", draft)
    loaded = load_backbone("small", lake=lake.refresh())
    assert config.ref == "small:1"
    assert loaded.config == config
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, loaded.network.state_dict()[name]), name
    assert not loaded.network.training


def test_a_copied_folder_needs_no_lake(lake: Lake, draft: Draft, tmp_path: Path) -> None:
    publish_draft(lake, "small", draft)
    shutil.copytree(_folder(lake), tmp_path / "copy")
    crops = np.random.default_rng(0).integers(-1000, 1000, (2, 8, 16, 16), dtype=np.int16)
    by_lake = load_backbone("small:1", lake=lake.refresh()).embed(crops)
    np.testing.assert_array_equal(load_backbone(tmp_path / "copy").embed(crops), by_lake)


def test_the_block_of_the_readme_runs(lake: Lake, draft: Draft, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "README.md"
    block = readme.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    publish_draft(lake, "demo", draft)
    shutil.copytree(lake.root, lake.root.parent / "demo" / "lake")
    monkeypatch.chdir(lake.root.parent)
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["vectors_ND"].shape == (2, 16 * draft.architecture.width)


def test_the_same_run_under_the_same_name_is_the_same_version(lake: Lake, draft: Draft) -> None:
    first = publish_draft(lake, "small", draft)
    assert publish_draft(lake, "small", draft) == first
    assert lake.refresh().counts()["models"] == 1
    assert publish_draft(lake, "small", _changed(draft)).version == 2
    assert publish_draft(lake, "other", draft).ref == "other:1"


def test_a_publisher_killed_before_the_row_is_adopted(
    lake: Lake, draft: Draft, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(lake: Lake, config: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_insert", killed)
        with pytest.raises(KeyboardInterrupt):
            publish_draft(lake, "small", draft)
    (_folder(lake) / "weights.safetensors").write_bytes(b"torn")
    assert publish_draft(lake, "small", draft).version == 1
    load_backbone("small", lake=lake.refresh())


def test_a_number_taken_by_another_publisher_is_left_alone(lake: Lake, draft: Draft) -> None:
    _folder(lake).mkdir(parents=True)
    (_folder(lake) / "config.json").write_text("another's")
    assert publish_draft(lake, "small", draft).version == 2
    assert (_folder(lake) / "config.json").read_text() == "another's"


def test_refs_name_versions_latest_and_aliases(lake: Lake, draft: Draft) -> None:
    publish_draft(lake, "small", draft)
    publish_draft(lake, "small", _changed(draft))
    rows = [{"name": "small", "alias": "good", "move": n, "version": v} for n, v in ((0, 2), (1, 1))]
    lake.insert("aliases", rows)
    lake.commit("test", "x")
    view = lake.refresh()
    assert [resolve(view, ref)["version"] for ref in ("small", "small:latest", "small:1", "small:good")] == [2, 2, 1, 1]
    assert [row["version"] for row in models(view)] == [1, 2]


@pytest.mark.parametrize(
    ("ref", "said"), [("smal", "there are small"), ("small:7", "has no version 7"), ("small:best", "no alias best")]
)
def test_an_unknown_ref_says_what_there_is(ref: str, said: str, lake: Lake, draft: Draft) -> None:
    publish_draft(lake, "small", draft)
    with pytest.raises(NotFound, match=said):
        load_backbone(ref, lake=lake.refresh())


@pytest.mark.parametrize("name", ["", "Small", "../up", "a b", "a:b"])
def test_a_name_that_cannot_be_one_is_refused_before_anything_is_written(name: str, lake: Lake, draft: Draft) -> None:
    with pytest.raises(ConfigError, match="name"):
        publish_draft(lake, name, draft)
    assert not (lake.root / "models").exists()


def test_weights_of_another_prefix_are_named_missing_and_unexpected(lake: Lake, draft: Draft) -> None:
    prefixed = replace(draft, tensors={f"module.{name}": tensor for name, tensor in draft.tensors.items()})
    with pytest.raises(
        InputError, match=r"missing .*down_tr128.*; \d+ unexpected .*module\.down_tr128.*; 0 of \d+ names match"
    ):
        publish_draft(lake, "small", prefixed)


def test_weights_of_another_width_are_named_by_shape(lake: Lake, draft: Draft) -> None:
    wide = draft.architecture.model_copy(update={"width": 8})
    with pytest.raises(InputError, match=r"of another shape .*\(8,\) for \(16,\)"):
        publish_draft(lake, "small", replace(draft, architecture=wide))


@pytest.mark.parametrize("name", ["weights.safetensors", "golden.safetensors", "config.json"])
def test_a_flipped_bit_in_any_file_is_damage(name: str, lake: Lake, draft: Draft) -> None:
    publish_draft(lake, "small", draft)
    path = _folder(lake) / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(Damage, match=name):
        load_backbone("small", lake=lake.refresh())


def test_a_network_that_computes_something_else_fails_its_golden_vector(lake: Lake, draft: Draft) -> None:
    """The digests are made right again after the change, so only the golden embedding can tell."""
    publish_draft(lake, "small", draft)
    folder = _folder(lake)
    tensors = load_file(folder / "weights.safetensors")
    tensors["down_tr512.ops.1.bn1.running_var"] *= 1.1
    save_file(tensors, folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["files"]["weights.safetensors"]["blake3"] = registry._digest((folder / "weights.safetensors").read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(Damage, match="golden"):
        load_backbone(folder)


def test_a_later_format_is_refused_with_the_remedy(lake: Lake, draft: Draft) -> None:
    publish_draft(lake, "small", draft)
    path = _folder(lake) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99, "unheard_of": 1}))
    with pytest.raises(NewerFormat, match="upgrade"):
        load_backbone(_folder(lake))


def test_the_config_alone_tells_a_stranger_how_to_prepare_a_scan(
    lake: Lake, draft: Draft, preprocessing: Preprocessing
) -> None:
    publish_draft(lake, "small", draft)
    config = json.loads((_folder(lake) / "config.json").read_text())
    assert config["preprocessing"] == {
        "modality": "CT",
        "window_hu": [-1000, 1000],
        "spacing_zyx_mm": [3.0, 1.4, 1.4],
        "crop_shape_zyx": [8, 16, 16],
        "axis_order": "N, channel, z, y, x",
        "orientation": "LPS",
        "outside_hu": -1000,
    }
    assert config["architecture"]["norm"] == "running"
    assert config["lineage"]["run"] == "r-one"
    assert "Haghighi et al. 2020" in config["method"]
    card = (_folder(lake) / "card.md").read_text()
    assert all(text in card for text in ("8 x 16 x 16", "-1000 to 1000 HU", "r-one", "d-one", "Patents", "Apache-2.0"))
