"""`train-encoder`: patients apart, a loss that falls, and runs that go on where they were stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semgen_pipelines.artefacts import made
from semgen_pipelines.encoder import Inputs, fit, split_by_patient, train_encoder
from semgen_platform.config import load_config, recipe_names
from semgen_platform.discovery import embedder
from semgen_platform.discovery.embedder import EncoderConfig, load_encoder, saved_encoder
from semgen_platform.errors import Busy, ConfigError, Damage, InputError, NotFound
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold

CPU = torch.device("cpu")


@pytest.fixture
def lake(trunk_lake_at: Callable[[Path], Lake], tmp_path: Path) -> Lake:
    return trunk_lake_at(tmp_path / "lake")


def never() -> bool:
    return False


def test_split_groups_are_on_one_side_and_both_sides_have_one(lake: Lake) -> None:
    scans = [replace(s, split_group="joined") if s.patient_id in ("p0", "p3", "p5") else s for s in lake.select_scans()]
    for seed in range(20):
        split = split_by_patient(scans, EncoderConfig(seed=seed, validation_share=0.3))
        groups = [{scans[n].split_group for n in side} for side in (split.training, split.validation)]
        assert not groups[0] & groups[1]
        assert sorted(split.training + split.validation) == list(range(8))
        assert len(groups[1]) == 2  # of six groups


def test_scans_of_one_patient_are_too_few(lake: Lake, trunk_encoder: EncoderConfig) -> None:
    with pytest.raises(InputError, match="1 scans of 1 patients are selected"):
        train_encoder(lake, lake.select_scans()[:1], trunk_encoder, recipe_name="test")
    with pytest.raises(InputError, match="no scan is selected"):
        train_encoder(lake, [], trunk_encoder, recipe_name="test")


def test_training_restores_unseen_patients_better_than_their_mean_does(lake: Lake, tmp_path: Path) -> None:
    config = EncoderConfig(width=2, grid_shape_zyx=(16, 16, 16), spacing_mm=24, epochs=25, batch_size=2, patience=25)
    scans = lake.select_scans()
    inputs, split = Inputs(lake.root, scans, config), split_by_patient(scans, config)
    fit(config, split, inputs, tmp_path, CPU, never)
    saved = saved_encoder(tmp_path)
    assert saved is not None
    best = min(row["validation_mse"] for row in saved[0]["history"])
    unseen = torch.stack([inputs(n) for n in split.validation])
    assert best < 0.7 * float(unseen.var())


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    lake: Lake, trunk_encoder: EncoderConfig, tmp_path: Path
) -> None:
    config = trunk_encoder.model_copy(update={"epochs": 3, "patience": 3})
    scans = lake.select_scans()
    inputs, split = Inputs(lake.root, scans, config), split_by_patient(scans, config)
    fit(config, split, inputs, tmp_path / "whole", CPU, never)
    fit(config, split, inputs, tmp_path / "stopped", CPU, lambda: True)
    assert saved_encoder(tmp_path / "stopped") is None
    fit(config, split, inputs, tmp_path / "stopped", CPU, never)
    whole, resumed = saved_encoder(tmp_path / "whole"), saved_encoder(tmp_path / "stopped")
    assert whole is not None
    assert whole == resumed


def test_two_ranks_train_once_and_the_encoder_is_found_afterwards(lake: Lake, trunk_encoder: EncoderConfig) -> None:
    trained = train_encoder(lake, lake.select_scans(), trunk_encoder, recipe_name="test", workers=2, quiet=True)
    assert (trained.found, trained.scans, trained.epochs) == (False, 8, 2)
    again = lake.refresh()
    found = train_encoder(again, again.select_scans(), trunk_encoder, recipe_name="test", workers=1, quiet=True)
    assert found.found
    assert found.encoder_id == trained.encoder_id  # workers are no part of it
    assert found.lake_version == trained.lake_version
    folder = lake.artefact_dir("encoders", trained.encoder_id, "0")
    assert not (folder / "ray").exists()
    loaded = load_encoder(again)
    scan = again.select_scans()[0]
    level = CropReader(again.root, [scan]).level(scan.scan_id, embedder.INPUT_LEVEL_MM)
    vector = loaded.embed(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu)
    assert vector.shape == (32,)
    assert np.isfinite(vector).all()
    assert vector.std() > 0


def test_another_selection_or_configuration_is_another_encoder(lake: Lake, trunk_encoder: EncoderConfig) -> None:
    scans, other = lake.select_scans(), trunk_encoder.model_copy(update={"seed": 1})
    named = [
        made("encoder", config, chosen, recipe_name="test", revision=embedder.REVISION).artefact_id
        for chosen, config in ((scans, trunk_encoder), (scans[:7], trunk_encoder), (scans, other))
    ]
    assert len(set(named)) == 3
    with hold(lake.storage, named[0]), pytest.raises(Busy):
        train_encoder(lake, scans, trunk_encoder, recipe_name="test")


def test_altered_or_missing_weights_are_damage(embedded_lake_at: Callable[[Path], Lake], tmp_path: Path) -> None:
    lake = embedded_lake_at(tmp_path / "copy")
    weights = next(lake.root.glob("encoders/*/0/weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Damage, match="differs from its digest"):
        load_encoder(lake)
    weights.unlink()
    with pytest.raises(Damage):
        load_encoder(lake)


def test_an_encoder_that_is_not_there_is_named(lake: Lake) -> None:
    with pytest.raises(NotFound, match=r"no encoder e123 \(it has none\); make one with"):
        load_encoder(lake, "e123")


@pytest.mark.parametrize("recipe", recipe_names("encoder"))
def test_packaged_recipes_are_valid(recipe: str) -> None:
    config, _ = load_config(EncoderConfig, stage="encoder", recipe=recipe)
    assert (config.width, config.spacing_mm) in ((8, 8.0), (32, 4.0))


def test_a_grid_that_cannot_be_pooled_three_times_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"grid_shape_zyx.*multiple of 8"):
        load_config(EncoderConfig, settings=["grid_shape_zyx=[60, 48, 56]"])
