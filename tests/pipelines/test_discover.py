"""`discover`: the same rows whoever does the work, made once, taken up after a kill, and audited against the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_pipelines.audit import audit_discovery
from semgen_pipelines.discover import DiscoverConfig, DiscoverySummary, discover, summary_of
from semgen_pipelines.kept_poses import keeping_poses, kept_poses
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.spreading import LakeFrames, ray_spread
from semgen_platform.config import load_config, recipe_names
from semgen_platform.discovery import aligned
from semgen_platform.discovery.atlas import in_one_process
from semgen_platform.discovery.embedder import load_encoder
from semgen_platform.discovery.neighbours import vectors_of
from semgen_platform.errors import ConfigError, InputError, NotFound
from semgen_platform.lake.lake import Lake
from semgen_platform.search import whitening

ALIGNED: dict[str, Any] = {
    "aligned": {
        "atlas": {"rounds": 1},
        "pose": {"points": 2000, "smoothing_mm": [16.0, 0.0], "steps": [6, 4]},
        "anchors": {"patterns": 9, "largest_iou": 0.1},
        "members": {"members": 6, "validation_members": 2, "validation_share": 0.25},
    }
}
PUBLISHED: dict[str, Any] = {
    "published": {
        "patterns": 9,
        "members": 6,
        "validation_members": 2,
        "validation_share": 0.25,
        "scale_xy": 0.175,
        "scale_z": 0.375,
        "most_tissue": 1.0,
        "patterns_per_reference": 3,
    }
}


@pytest.fixture(scope="module")
def lake(embedded_lake_at: Callable[[Path], Lake], tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return embedded_lake_at(tmp_path_factory.mktemp("discover") / "lake")


def run(lake: Lake, recipe: Mapping[str, Any] = ALIGNED, *, workers: int = 1) -> DiscoverySummary:
    config = DiscoverConfig.model_validate(recipe)
    scans = lake.select_scans(collections=["trunks"])
    return discover(lake, scans, "latest", config, recipe_name="test", workers=workers, quiet=True)


@pytest.fixture(scope="module")
def made(lake: Lake) -> DiscoverySummary:
    return run(lake)


@pytest.fixture(scope="module")
def expected(lake: Lake) -> aligned.Found:
    """The recipe in one process, without Ray."""
    scans, encoder = lake.select_scans(), load_encoder(lake)
    config = DiscoverConfig.model_validate(ALIGNED).aligned
    assert config is not None
    raw = vectors_of(lake, encoder.encoder_id, scans, encoder.dimension)
    white = dict(zip([s.scan_id for s in scans], whitening.fit(raw).transform(raw), strict=True))
    frames = LakeFrames(lake.root, scans, config.body)
    return aligned.discover("x", scans, white, frames, in_one_process, config)


def without_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {k: v for k, v in row.items() if k not in ("discovery_id", "created_at", "run_id", "details")} for row in rows
    ]


def rows_of(lake: Lake, table: str, discovery_id: str) -> list[dict[str, Any]]:
    return without_id(lake.refresh().table(table, where=f"discovery_id = '{discovery_id}'").to_pylist())


@pytest.mark.slow
def test_the_rows_of_the_lake_are_those_of_the_recipe_in_one_process(
    lake: Lake, made: DiscoverySummary, expected: aligned.Found
) -> None:
    assert (made.found, made.scans, made.patterns) == (False, 8, len(expected.patterns))
    assert rows_of(lake, "poses", made.discovery_id) == without_id(expected.poses)
    assert rows_of(lake, "patterns", made.discovery_id) == without_id(expected.patterns)
    assert rows_of(lake, "members", made.discovery_id) == without_id(expected.members)


@pytest.mark.slow
def test_two_workers_find_the_same_rows_as_one(
    made: DiscoverySummary, embedded_lake_at: Callable[[Path], Lake], tmp_path: Path
) -> None:
    again = run(embedded_lake_at(tmp_path / "lake"), workers=2)
    assert not again.found
    assert (again.discovery_id, again.digest) == (made.discovery_id, made.digest)


@pytest.mark.slow
def test_a_discovery_is_made_once_and_its_report_and_atlas_lie_in_the_lake(lake: Lake, made: DiscoverySummary) -> None:
    found = run(lake.refresh())
    assert found.found
    assert (found.discovery_id, found.digest, found.lake_version) == (made.discovery_id, made.digest, made.lake_version)
    assert summary_of(lake.refresh(), "latest").discovery_id == made.discovery_id
    folder = Path(made.report).parent
    assert Path(made.report).read_text(encoding="utf-8").startswith("<!doctype html>")
    with np.load(folder / "atlas-0.npz") as atlas:
        details = json.loads(lake.refresh().table("discoveries").to_pylist()[0]["details"])
        assert str(atlas["digest"]) == details["atlases"][0]["digest"]
    assert not (folder / "poses").exists()


@pytest.mark.slow
def test_no_scan_outside_the_selection_is_touched(lake: Lake, made: DiscoverySummary) -> None:
    seven = [s for s in lake.select_scans() if s.patient_id != "p7"]
    config = DiscoverConfig.model_validate(ALIGNED)
    smaller = discover(lake, seven, "latest", config, recipe_name="test", workers=1, quiet=True)
    assert smaller.discovery_id != made.discovery_id
    left_out = next(s.scan_id for s in lake.select_scans() if s.patient_id == "p7")
    for table in ("poses", "members"):
        assert left_out not in {row["scan_id"] for row in rows_of(lake, table, smaller.discovery_id)}


@pytest.mark.slow
def test_poses_that_a_killed_run_kept_come_back_exactly_and_only_for_their_atlas(
    lake: Lake, expected: aligned.Found, tmp_path: Path
) -> None:
    scans = lake.select_scans()
    config = DiscoverConfig.model_validate(ALIGNED).aligned
    assert config is not None
    raw = vectors_of(lake, load_encoder(lake).encoder_id, scans, 32)
    white = dict(zip([s.scan_id for s in scans], whitening.fit(raw).transform(raw), strict=True))
    frames = LakeFrames(lake.root, scans, config.body)
    regions = aligned.make_regions(scans, white, frames, in_one_process, config)
    keeping = keeping_poses(in_one_process, tmp_path, "these atlases")
    placed = aligned.place_scans(scans[:5], regions, frames, keeping, config)
    kept = kept_poses(tmp_path, "these atlases")
    assert sorted(kept) == sorted(s.scan_id for s in scans[:5])
    for scan_id, pose in placed.items():
        assert np.array_equal(kept[scan_id].pose.matrix, pose.pose.matrix)
        assert np.array_equal(kept[scan_id].shows_A, pose.shows_A)
        assert kept[scan_id].region == pose.region
        numbers = ("ncc", "overlap", "common", "log_scale_zyx", "refused")
        assert all(getattr(kept[scan_id].pose, n) == getattr(pose.pose, n) for n in numbers)
    assert kept_poses(tmp_path, "other atlases") == {}


@pytest.mark.slow
def test_the_published_recipe_writes_patterns_and_members_without_poses(lake: Lake) -> None:
    found = run(lake, PUBLISHED)
    assert found.patterns == 9
    assert found.members == len(rows_of(lake, "members", found.discovery_id))
    assert rows_of(lake, "poses", found.discovery_id) == []


@pytest.mark.slow
def test_scans_without_vectors_are_named(trunk_lake_at: Callable[[Path], Lake], lake: Lake, tmp_path: Path) -> None:
    bare = trunk_lake_at(tmp_path / "lake")
    with pytest.raises(NotFound, match="no encoder latest"):
        run(bare)
    with pytest.raises(InputError, match="no scan is selected"):
        discover(lake, [], "latest", DiscoverConfig.model_validate(ALIGNED), recipe_name="test")


def test_a_recipe_is_one_of_the_two() -> None:
    with pytest.raises(ConfigError, match="give either aligned or published"):
        load_config(DiscoverConfig, settings=["aligned={}", "published={}"])
    with pytest.raises(ConfigError, match="give either aligned or published"):
        load_config(DiscoverConfig)


@pytest.mark.parametrize("recipe", recipe_names("discovery"))
def test_packaged_recipes_are_valid(recipe: str) -> None:
    config, _ = load_config(DiscoverConfig, stage="discovery", recipe=recipe)
    assert (config.aligned is None) == recipe.startswith("published")


def _process(scan_ids: list[str]) -> dict[str, int]:
    return {scan_id: os.getpid() for scan_id in scan_ids}


def _fails(scan_ids: list[str]) -> None:
    raise InputError(f"scan {scan_ids[0]} cannot be used")


def test_a_scan_stays_with_its_actor_and_an_error_of_ours_comes_out_as_itself() -> None:
    names = [f"s{n:02d}" for n in range(11)]
    with ray_session(None, needs={"test": 2}) as ray, ray_spread(ray, 2, names, "test", quiet=True) as spread:
        first = {k: v for part in spread("one", _process, names) for k, v in part.items()}
        second = {k: v for part in spread("two", _process, names[3:8]) for k, v in part.items()}
        assert sorted(first) == names
        assert len(set(first.values())) == 2
        assert os.getpid() not in first.values()
        assert all(first[name] == process for name, process in second.items())
        with pytest.raises(InputError, match="scan s00 cannot be used") as raised:
            spread("three", _fails, names[:1])
        assert type(raised.value) is InputError


def _canonical_lattice(
    trunk: Any, zyx_to_lps_mm: NDArray[np.float64], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    world_xyz = index @ zyx_to_lps_mm[:3, :3].T + zyx_to_lps_mm[:3, 3]
    return np.asarray(trunk.to_canonical(world_xyz[..., ::-1])[..., ::-1], dtype=np.float32)


@pytest.fixture(scope="module")
def truth(lake: Lake, trunks: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    scans = {s.patient_id: s for s in lake.select_scans()}
    for trunk in trunks:
        scan = scans[trunk.patient]
        lattice = scan.zyx_to_lps_mm.copy()
        lattice[:3, :3] *= 2
        np.savez(
            folder / f"{trunk.patient}.npz",
            labels_ZYX=trunk.labels(),
            zyx_to_lps_mm=scan.zyx_to_lps_mm,
            body_xyz_mm=_canonical_lattice(trunk, lattice, (42, 32, 42)),
            lattice_zyx_to_lps_mm=lattice,
        )
    return folder


@pytest.mark.slow
def test_the_audit_finds_aligned_patterns_at_the_same_place_and_random_centres_anywhere(
    lake: Lake, made: DiscoverySummary, truth: Path
) -> None:
    document = audit_discovery(lake.refresh(), made.discovery_id, truth)
    found, random = document["patterns"], document["random"]
    assert found["patterns"] == made.patterns
    assert found["centre_error_median_mm"] < 10 < 40 < random["centre_error_median_mm"]
    assert found["purity"] > 0.8 > 0.3 > random["purity"]
    assert document["poses"]["wrong_accepted"] == 0


@pytest.mark.slow
def test_an_audit_without_truth_says_what_to_give(lake: Lake, made: DiscoverySummary, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no truth in .*; ingest phantoms with their --manifest"):
        audit_discovery(lake.refresh(), made.discovery_id, tmp_path)


@pytest.mark.slow
def test_kill_9_of_discover_and_the_same_command_completes_to_the_same_rows(
    lake: Lake, made: DiscoverySummary, embedded_lake_at: Callable[[Path], Lake], tmp_path: Path
) -> None:
    killed = embedded_lake_at(tmp_path / "lake")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(ALIGNED))
    arguments = ["discover", "--lake", killed.uri, "--recipe", str(recipe), "--workers", "1", "--json"]
    command, environment = [sys.executable, "-m", "semgen_cli.main", *arguments], {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not list(killed.root.glob("discoveries/*/0/poses/*.json")):
        assert victim.poll() is None, victim.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.communicate()
    assert killed.refresh().counts()["discoveries"] == 0
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert (result["discovery_id"], result["digest"]) == (made.discovery_id, made.digest)
    for table in ("poses", "patterns", "members"):
        assert rows_of(killed, table, made.discovery_id) == rows_of(lake, table, made.discovery_id)
