"""Pretraining: what a discovery offers, a run that is made once and found, and kills that leave no trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from semgen_cli import main
from semgen_pipelines.member_crops import find_discovery, training_data
from semgen_pipelines.pretrain import PretrainSummary, pretrain
from semgen_pipelines.pretrain_config import CropSettings, PretrainConfig
from semgen_platform.backbones.finished_run import read_finished_run
from semgen_platform.config import load_config, recipe_names
from semgen_platform.discovery.rows import BASE_BOX_ZYX_MM, box_matrix, member_row
from semgen_platform.errors import Busy, ConfigError, InputError, NotFound
from semgen_platform.geometry import affine_from
from semgen_platform.ids import uniform_stream
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.volumes import write_volume
from semgen_platform.training.metrics import read_metrics
from semgen_platform.training.state import FitConfig
from semgen_platform.volume import Volume

SHAPE, SPACING = (34, 76, 76), (3.0, 1.4, 1.4)  # 102 x 106 x 106 mm
PLACES_ZYX_MM = ((26.0, 30.0, 30.0), (26.0, 75.0, 75.0), (75.0, 30.0, 75.0), (75.0, 75.0, 30.0))
DISCOVERY = "dtest"
SMALL: dict[str, dict[str, Any]] = {
    "network": {"width": 2, "norm": "running"},
    "crops": {"shape_zyx": [16, 16, 16], "validation_crops": 6},
    "perturbation": {"elastic_sigma_voxels": 2, "elastic_alpha": 20},
    "training": {
        "classification_epochs": 1,
        "epochs": 2,
        "batch_size": 4,
        "checkpoint_every_steps": 3,
        "report_every_steps": 1,
    },
}


def phantom_scan(patient: int) -> Volume:
    """Soft tissue with a ball of another density at each of the four places."""
    z, y, x = (np.arange(n).reshape([-1 if a == axis else 1 for a in range(3)]) * s
               for axis, (n, s) in enumerate(zip(SHAPE, SPACING, strict=True)))  # fmt: skip
    hu = np.full(SHAPE, 40.0)
    for number, (cz, cy, cx) in enumerate(PLACES_ZYX_MM):
        hu[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < (9 + 3 * number) ** 2] = -700 + 400 * number
    hu += uniform_stream("pretrain phantom", patient).normal(0, 15, SHAPE)
    return Volume(np.rint(hu).astype(np.int16), affine_from(SPACING[::-1], (0, 0, 0)), modality="CT")


def member_rows(scan_ids: list[str]) -> list[dict[str, Any]]:
    """Four patterns in eight patients, two of whom validate; two scales; one dropped member, one pattern not kept."""
    rows = []
    for pattern, place in enumerate(PLACES_ZYX_MM):
        for patient, scan_id in enumerate(scan_ids):
            for jitter, scale in ((0, 1.0), (1, 1.25)) if patient % 2 else ((0, 1.0),):
                dropped = pattern == 3 or (pattern == 0 and patient == 0)
                split = "val" if patient >= 6 else "train"
                rows.append(
                    member_row(
                        DISCOVERY, pattern, scan_id, f"p{patient}", split, box_matrix(np.eye(4), place, scale),
                        scale=scale, jitter=jitter, score=0.9, reason="far" if dropped and pattern == 0 else "",
                    )
                )  # fmt: skip
    return rows


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Eight patients and a discovery of four patterns, of which one is not kept."""
    lake = create_lake(str(tmp_path_factory.mktemp("pretrain") / "lake"), key_fingerprint="f" * 24)
    scans = [write_volume(lake.root, phantom_scan(patient), "itest") for patient in range(8)]
    ids = [row["scan_id"] for row in scans]
    sources = [{"source_id": f"q{n}", "state": "a", "scan_id": s, "collection": "c", "patient_id": f"p{n}", "flags": []}
               for n, s in enumerate(ids)]  # fmt: skip
    lake.insert("sources", sources)
    lake.insert("scans", scans)
    lake.insert("members", member_rows(ids))
    patterns = [{"discovery_id": DISCOVERY, "pattern": n, "box_zyx_mm": BASE_BOX_ZYX_MM, "kept": n != 3}
                for n in range(4)]  # fmt: skip
    lake.insert("patterns", patterns)
    made = {"discovery_id": DISCOVERY, "encoder_id": "etest", "recipe_name": "test", "selection": "sel", "seed": 0}
    lake.insert("discoveries", [made])
    lake.commit("discover", DISCOVERY)
    return lake.refresh()


def config(**training: Any) -> PretrainConfig:
    return PretrainConfig.model_validate({**SMALL, "training": {**SMALL["training"], **training}})


def run(lake: Lake, **options: Any) -> PretrainSummary:
    settings = options.pop("config", None) or config()
    return pretrain(lake, settings, recipe_name="small", quiet=True, **options)


def test_only_kept_members_of_kept_patterns_train_and_unseen_patients_validate(lake: Lake) -> None:
    data = training_data(lake, DISCOVERY, CropSettings())
    assert data.patterns == (0, 1, 2)
    # six patients, three of them with two scales: nine crops a pattern, less the one that was dropped
    assert np.bincount(data.train.labels).tolist() == [8, 9, 9]
    assert np.bincount(data.validation.labels).tolist() == [2, 2, 2]  # two patients, scale 1 only
    assert not set(data.train.scan_ids) & set(data.validation.scan_ids)
    assert data.spacing_zyx_mm == (1.5, 0.7, 0.7)


def test_a_crop_shows_its_place_in_millimetres_at_any_number_of_voxels(lake: Lake) -> None:
    """The ball of each pattern is in the middle of its crop, and the crop is 48 mm long at any shape."""
    for shape in ((16, 16, 16), (32, 64, 64), (16, 32, 32)):
        data = training_data(lake, DISCOVERY, CropSettings(shape_zyx=shape))
        crops = data.train.crops(data.reader(lake.root), shape)
        first = np.unique(crops.labels, return_index=True)[1]
        middle = crops.read(first)[:, shape[0] // 2, shape[1] // 2, shape[2] // 2]
        np.testing.assert_allclose(middle, [-700, -300, 100], atol=60)  # noise of 15 HU
        corners = data.train.zyx_to_lps_mm[first[0]] @ np.array([[0, 0, 0, 1], [*np.array(shape) - 1, 1]]).T
        extent_xyz = (corners[:3, 1] - corners[:3, 0]) * np.array(shape[::-1]) / (np.array(shape[::-1]) - 1)
        scale = 1.25 if extent_xyz[2] > 50 else 1.0
        np.testing.assert_allclose(extent_xyz, np.array(BASE_BOX_ZYX_MM[::-1]) * scale)


def test_validation_is_limited_and_drawn_alike_each_time(lake: Lake) -> None:
    drawn = [training_data(lake, DISCOVERY, CropSettings(validation_crops=4)).validation for _ in range(2)]
    assert [len(places) for places in drawn] == [4, 4]
    assert drawn[0].scan_ids.tolist() == drawn[1].scan_ids.tolist()
    assert len(training_data(lake, DISCOVERY, CropSettings(validation_crops=0)).validation) == 0


def test_a_discovery_that_is_not_there_is_named_with_those_that_are(lake: Lake) -> None:
    assert find_discovery(lake, "latest")["discovery_id"] == DISCOVERY
    with pytest.raises(NotFound, match=f"no discovery dother; there are {DISCOVERY}"):
        find_discovery(lake, "dother")
    with pytest.raises(InputError, match="0 training crops of 0 patterns"):
        training_data(lake, "dother", CropSettings())


def test_packaged_recipes_are_read_and_the_published_one_is_the_loop_s_default() -> None:
    assert recipe_names("pretrain") == ["semantic-genesis", "tiny"]
    published, _ = load_config(PretrainConfig, stage="pretrain", recipe="semantic-genesis")
    assert published == PretrainConfig()
    assert published.fit_config() == FitConfig()


def test_tiny_recipe_warps_by_the_same_millimetres_at_twice_the_spacing() -> None:
    tiny, _ = load_config(PretrainConfig, stage="pretrain", recipe="tiny")
    published = PretrainConfig()
    assert [2 * n for n in tiny.crops.shape_zyx] == list(published.crops.shape_zyx)

    def sd_voxels(settings: PretrainConfig) -> float:  # METHOD.md section 4.3
        change = settings.perturbation
        return change.elastic_alpha / np.sqrt(3) * (2 * np.sqrt(np.pi) * change.elastic_sigma_voxels) ** -1.5

    assert 2 * sd_voxels(tiny) == pytest.approx(sd_voxels(published), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crops": {"shape_zyx": [16, 32, 20]}}, "multiples of 8"),
        ({"crops": {"shape_zyx": [8, 32, 32]}}, "at least 16"),
        ({"crops": {"window_hu": [400, -200]}}, "below the second"),
        ({"perturbation": {"shuffling": 0.5}}, "add up to 1.25"),
        ({"network": {"width": 5}}, "multiple of 2"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    recipe = tmp_path / "wrong.yaml"
    recipe.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message):
        load_config(PretrainConfig, stage="pretrain", recipe=str(recipe))


def test_batches_that_workers_cannot_share_are_refused_before_ray_does_anything(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="batch_size 4 cannot be dealt to 3 workers"):
        run(lake, workers=3)


def test_a_run_that_a_live_process_trains_is_left_alone(lake: Lake) -> None:
    name = run_id_of(lake, config())
    with hold(lake.storage, name), pytest.raises(Busy):
        run(lake)


def run_id_of(lake: Lake, settings: PretrainConfig) -> str:
    from semgen_pipelines.pretrain import _name

    return _name(find_discovery(lake, "latest"), settings, "small").run_id


@pytest.fixture(scope="module")
def made(lake: Lake) -> PretrainSummary:
    """A small run by two workers."""
    return run(lake)


def test_a_run_is_made_once_and_found_again(lake: Lake, made: PretrainSummary) -> None:
    assert not made.found
    assert (made.patterns, made.training_crops, made.validation_crops) == (3, 26, 6)
    assert made.steps == 3 * 7  # 26 crops in batches of 4: the seventh is filled up
    assert made.run_id == run_id_of(lake, config())
    folder = Path(made.report).parent
    assert made.report.endswith("report.html")
    assert Path(made.report).stat().st_size > 10_000
    assert len(read_metrics(folder, "train")) == made.steps
    assert not (folder / "ray").exists()

    found = run(lake.refresh(), workers=1)  # workers are no part of the name
    assert found.found
    assert (found.run_id, found.weights_digest) == (made.run_id, made.weights_digest)
    row = next(r for r in lake.refresh().table("runs").to_pylist() if r["run_id"] == made.run_id)
    assert (row["kind"], row["state"], row["digest"]) == ("pretrain", "done", made.weights_digest)


def test_a_finished_run_can_be_read_as_a_backbone_without_its_head(lake: Lake, made: PretrainSummary) -> None:
    backbone = read_finished_run(lake.refresh(), made.run_id)
    assert (backbone.architecture.width, backbone.architecture.norm) == (2, "running")
    assert backbone.preprocessing.crop_shape_zyx == (16, 16, 16)
    assert backbone.preprocessing.spacing_zyx_mm == pytest.approx((3.0, 2.8, 2.8))
    assert not any(name.startswith("clc_out") for name in backbone.tensors)


def test_runs_are_listed_shown_and_their_report_copied(
    lake: Lake, made: PretrainSummary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["runs", "ls", "--lake", lake.uri, "--kind", "pretrain", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["runs"]
    assert [(r["run_id"], r["state"], r["steps"]) for r in listed if r["run_id"] == made.run_id] == [
        (made.run_id, "done", made.steps)
    ]
    assert main.run(["runs", "show", made.run_id, "--lake", lake.uri, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["digest"], shown["recipe"]["network"]["width"]) == (made.weights_digest, 2)
    copy = tmp_path / "report.html"
    assert main.run(["runs", "report", made.run_id, "--lake", lake.uri, "--out", str(copy)]) == 0
    assert copy.read_bytes() == Path(made.report).read_bytes()
    assert main.run(["runs", "show", "pother", "--lake", lake.uri]) == 3
    assert f"no ended run pother; there are {made.run_id}" in capsys.readouterr().err


CLI = [sys.executable, "-m", "semgen_cli.main", "pretrain"]


class Driver:
    """`semgen-platform pretrain` as a process with a Ray of its own, on the test's lake."""

    def __init__(self, lake: Lake, folder: Path, seed: int, *more: str) -> None:
        recipe = folder / f"seed{seed}.yaml"
        settings = {**SMALL, "training": {**SMALL["training"], "seed": seed, "epochs": 12}}
        recipe.write_text(json.dumps(settings))
        self.run_id = run_id_of(lake, PretrainConfig.model_validate(settings))
        attempts = len(list(lake.artefact_dir("runs", self.run_id).glob("*")))
        self.folder = lake.artefact_dir("runs", self.run_id, str(attempts if "no" in more else max(0, attempts - 1)))
        arguments = ["--lake", lake.uri, "--recipe", str(recipe), "--json", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [*CLI, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def step(self) -> int:
        """The last step that this attempt has recorded."""
        return max((row["step"] for row in read_metrics(self.folder, "train")), default=0)

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 300
        while self.step() < step:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "the run did not come so far"
            time.sleep(0.05)

    def result(self) -> dict[str, Any]:
        out, log = self.process.communicate(timeout=600)
        assert self.process.returncode == 0, log
        return json.loads(out)

    def ranks(self) -> list[psutil.Process]:
        """The processes that train: Ray's workers below this driver."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in below if "RayTrainWorker" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def start(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Driver]]:
    """Starts the run of seed 5; what a failed test leaves running is ended."""
    drivers: list[Driver] = []

    def begin(*more: str) -> Driver:
        drivers.append(Driver(lake, tmp_path_factory.mktemp("recipe"), 5, *more))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.process.kill()


@pytest.fixture(scope="module")
def uninterrupted(start: Callable[..., Driver]) -> dict[str, Any]:
    """The run without a kill, at attempt 0."""
    return start().result()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_of_the_driver_half_way_and_the_same_command_ends_with_the_same_weights(
    start: Callable[..., Driver], uninterrupted: dict[str, Any]
) -> None:
    victim = start("--resume", "no")
    victim.wait_for_step(40)
    victim.process.kill()
    victim.process.communicate()
    result = start().result()
    assert result["attempt"] == victim.folder.name
    assert result["resumed_step"] >= 39
    assert result["steps"] == uninterrupted["steps"]
    assert result["weights_digest"] == uninterrupted["weights_digest"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_of_a_worker_half_way_and_the_command_itself_ends_with_the_same_weights(
    start: Callable[..., Driver], uninterrupted: dict[str, Any]
) -> None:
    driver = start("--resume", "no")
    driver.wait_for_step(40)
    driver.ranks()[-1].kill()
    result = driver.result()
    assert result["resumed_step"] >= 39
    assert result["weights_digest"] == uninterrupted["weights_digest"]
    folder = Path(result["report"]).parent
    assert [row["step"] for row in read_metrics(folder, "start")][-1] == result["resumed_step"]
    assert [row["step"] for row in read_metrics(folder, "train")] == list(range(1, result["steps"] + 1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigterm_saves_at_the_next_step_exits_75_and_the_same_command_goes_on(
    start: Callable[..., Driver], uninterrupted: dict[str, Any]
) -> None:
    driver = start("--resume", "no")
    driver.wait_for_step(20)
    before = driver.step()
    driver.process.send_signal(signal.SIGTERM)
    _, log = driver.process.communicate(timeout=300)
    assert driver.process.returncode == 75, log
    assert "SIGTERM: the run is saved at step" in log
    result = start().result()
    assert result["resumed_step"] >= before
    assert result["weights_digest"] == uninterrupted["weights_digest"]
