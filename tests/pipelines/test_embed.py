"""`embed`, `build-index` and nearest scans: vectors depend on their scan alone, and indexes prove themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

from semgen_pipelines.embed import EmbedScans, embed, run_id_of
from semgen_pipelines.index import IndexConfig, build_index
from semgen_platform.discovery.embedder import (
    INPUT_LEVEL_MM,
    EncoderConfig,
    encoder_row,
    load_encoder,
    network_for,
    save_encoder,
)
from semgen_platform.discovery.neighbours import coarse_level, load_scan_index, vectors_of
from semgen_platform.errors import Damage, InputError, NotFound
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake
from semgen_platform.volume import Volume


@pytest.fixture
def lake(embedded_lake_at: Callable[[Path], Lake], tmp_path: Path) -> Lake:
    return embedded_lake_at(tmp_path / "lake")


@pytest.fixture
def bare(encoder_lake_at: Callable[[Path], Lake], tmp_path: Path) -> Lake:
    """The lake before anything was embedded."""
    return encoder_lake_at(tmp_path / "bare")


def vectors(lake: Lake) -> Any:
    """The table of vectors, but for when and by which command they were made."""
    return lake.table("embeddings", columns=["encoder_id", "scan_id", "vector", "level"])


def test_every_scan_has_the_vector_that_its_coarse_level_alone_gives(lake: Lake) -> None:
    embedder, scans = load_encoder(lake), lake.select_scans()
    reader = CropReader(lake.root, scans)
    stored = vectors_of(lake, embedder.encoder_id, scans, embedder.dimension)
    for scan, vector in zip(scans, stored, strict=True):
        level = reader.level(scan.scan_id, INPUT_LEVEL_MM)
        assert np.array_equal(embedder.embed(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu), vector)


def test_vectors_do_not_depend_on_the_batch_or_the_number_of_workers(bare: Lake, lake: Lake) -> None:
    scans = bare.select_scans()
    embed(bare, scans[3:6], workers=1, quiet=True)
    made = embed(bare.refresh(), scans, workers=2, quiet=True)
    assert (made.scans, made.embedded, made.already) == (8, 5, 3)
    assert vectors(bare.refresh()).equals(vectors(lake))


def test_running_it_again_embeds_nothing_and_makes_no_version(lake: Lake) -> None:
    again = embed(lake, lake.select_scans(), quiet=True)
    assert (again.embedded, again.already, again.lake_version) == (0, 8, lake.version)


def test_what_a_killed_command_left_pending_is_taken_up(bare: Lake, lake: Lake) -> None:
    scans, encoder_id = bare.select_scans(), encoder_row(bare)["encoder_id"]
    EmbedScans(bare.uri, bare.version, encoder_id, run_id_of(encoder_id, scans))({"scan": scans[:3]})
    assert embed(bare, scans, workers=1, quiet=True).embedded == 5
    assert vectors(bare.refresh()).equals(vectors(lake))
    assert not list(bare.root.glob("runs/*/*/pending/*.json"))


def test_without_scans_or_encoder_one_sentence_says_so(lake: Lake) -> None:
    with pytest.raises(InputError, match="no scan is selected"):
        embed(lake, [])
    with pytest.raises(NotFound, match="no encoder other"):
        embed(lake, lake.select_scans(), "other")


@pytest.mark.parametrize("kind", ["exact", "faiss"])
def test_an_index_is_made_once_and_answers_like_a_search_by_hand(lake: Lake, kind: str) -> None:
    if kind == "faiss":
        pytest.importorskip("faiss", reason="FAISS is not installed")
    config = IndexConfig.model_validate({"kind": kind})
    made = build_index(lake, lake.select_scans(), "latest", config, recipe_name=kind)
    assert (made.found, made.vectors, made.dimension, made.recall) == (False, 8, 2, 1.0)
    assert build_index(lake.refresh(), lake.select_scans(), "latest", config, recipe_name=kind).found

    loaded = load_scan_index(lake.refresh(), made.index_id)
    scans = lake.select_scans()
    white = loaded.whitening.transform(vectors_of(lake, made.encoder_id, scans, 32)).astype(np.float64)
    cosine = white @ white.T
    for n, scan in enumerate(scans):
        near = loaded.near_scan(scan.scan_id, 7)
        order = sorted(
            (m for m in range(8) if m != n), key=lambda m: (-round(float(cosine[n, m]), 6), scans[m].scan_id)
        )
        assert [neighbour.scan_id for neighbour in near] == [scans[m].scan_id for m in order]
        np.testing.assert_allclose([x.similarity for x in near], [cosine[n, m] for m in order], atol=2e-6)


def test_a_volume_finds_the_neighbours_of_its_own_scan_without_itself(lake: Lake) -> None:
    made = build_index(lake, lake.select_scans(), "latest", IndexConfig(), recipe_name="exact")
    loaded = load_scan_index(lake.refresh(), made.index_id)
    scan = lake.select_scans()[2]
    voxels = CropReader(lake.root, [scan]).level(scan.scan_id, 0.0).voxels_ZYX
    volume = Volume(voxels, scan.ijk_to_lps_mm, modality="CT", padding_hu=scan.padding_hu)
    near = loaded.near_volume(volume, 5)
    assert near == loaded.near_scan(scan.scan_id, 5)
    assert scan.scan_id not in {neighbour.scan_id for neighbour in near}
    changed = Volume(voxels + np.int16(1), scan.ijk_to_lps_mm, modality="CT")
    assert loaded.near_volume(changed, 1)[0].scan_id == scan.scan_id  # another scan, so its twin is a neighbour


@pytest.mark.parametrize("spacing_xyz_mm", [(0.8, 0.8, 0.8), (1.0, 1.0, 3.0), (0.7, 0.7, 5.0), (5.0, 5.0, 5.0)])
def test_a_volume_is_coarsened_as_the_lake_stores_it(
    trunk_lake_at: Callable[[Path], Lake], tmp_path: Path, spacing_xyz_mm: tuple[float, float, float]
) -> None:
    from semgen_platform.geometry import affine_from
    from semgen_platform.lake.volumes import write_volume

    lake = trunk_lake_at(tmp_path / "lake")
    voxels = np.random.default_rng(1).integers(-1000, 1000, (70, 90, 131)).astype(np.int16)
    volume = Volume(voxels, affine_from(spacing_xyz_mm, (1, 2, 3)), modality="CT")
    row = write_volume(lake.root, volume, "test")
    lake.insert("scans", [row])
    lake.insert("sources", [{"source_id": "one", "state": "0", "scan_id": row["scan_id"], "collection": "one"}])
    lake.commit("ingest", "test")
    scan = lake.refresh().select_scans(collections=["one"], profile="all")[0]
    stored = CropReader(lake.root, [scan]).level(scan.scan_id, INPUT_LEVEL_MM)
    coarse, affine = coarse_level(volume, INPUT_LEVEL_MM)
    assert np.array_equal(coarse, stored.voxels_ZYX)
    np.testing.assert_allclose(affine, stored.zyx_to_lps_mm)


def test_scans_without_vectors_cannot_be_indexed(bare: Lake) -> None:
    with pytest.raises(
        InputError, match=r"8 of 8 selected scans have no vector of encoder e\w+; run: semgen-platform embed"
    ):
        build_index(bare, bare.select_scans(), "latest", IndexConfig(), recipe_name="exact")


def test_an_index_with_altered_files_is_damage_and_a_missing_one_is_named(lake: Lake) -> None:
    with pytest.raises(NotFound, match="no index latest"):
        load_scan_index(lake)
    build_index(lake, lake.select_scans(), "latest", IndexConfig(), recipe_name="exact")
    folder = next(lake.root.glob("indexes/*/0"))
    for name in ("whitening.npz", "vectors.npy", "ids.json", "scans.json", "index.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        with pytest.raises(Damage):
            load_scan_index(lake.refresh())
        (folder / name).write_bytes(whole)
    load_scan_index(lake.refresh())


def test_an_index_is_refused_beside_an_encoder_of_its_name_with_other_weights(
    lake: Lake, trunk_lake_at: Callable[[Path], Lake], trunk_encoder: EncoderConfig, tmp_path: Path
) -> None:
    build_index(lake, lake.select_scans(), "latest", IndexConfig(), recipe_name="exact")
    rows = {t: lake.refresh().table(t).drop(["created_at"]).to_pylist()[0] for t in ("encoders", "indexes")}
    other = trunk_lake_at(tmp_path / "other")
    copytree(lake.root / "indexes", other.root / "indexes")
    folder = other.artefact_dir("encoders", rows["encoders"]["encoder_id"], "0")
    digest = save_encoder(network_for(trunk_encoder), trunk_encoder, [], folder)  # untrained, of equal shape
    other.insert("encoders", [{**rows["encoders"], "digest": digest}])
    other.insert("indexes", [rows["indexes"]])
    other.commit("test", "test")
    with pytest.raises(InputError, match="made with other weights of encoder"):
        load_scan_index(other.refresh())


@pytest.mark.slow
def test_kill_9_of_embed_and_the_same_command_completes_to_the_same_rows(bare: Lake, lake: Lake) -> None:
    command = [sys.executable, "-m", "semgen_cli.main", "embed", "--lake", bare.uri, "--workers", "1", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 180
    while not list(bare.root.glob("runs/*/*/pending/*.json")):
        assert victim.poll() is None, victim.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.kill()
    victim.communicate()
    assert bare.refresh().counts()["embeddings"] == 0  # nothing is visible yet
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["scans"] == 8
    assert vectors(bare.refresh()).equals(vectors(lake))


def test_a_nifti_of_a_scan_gives_the_vector_of_the_lake(lake: Lake, tmp_path: Path) -> None:
    from semgen_platform.formats.reader import read_source
    from semgen_platform.formats.sniff import list_sources

    scan, embedder = lake.select_scans()[0], load_encoder(lake)
    voxels = CropReader(lake.root, [scan]).level(scan.scan_id, 0.0).voxels_ZYX
    write_nifti(Volume(voxels, scan.ijk_to_lps_mm, modality="CT"), tmp_path / "one.nii.gz")
    volume = read_source(next(iter(list_sources(tmp_path / "one.nii.gz"))))
    assert isinstance(volume, Volume)
    coarse, affine = coarse_level(volume, INPUT_LEVEL_MM)
    vector = embedder.embed(coarse, affine, volume.padding_hu)
    assert np.array_equal(vector, vectors_of(lake, embedder.encoder_id, [scan], embedder.dimension)[0])
