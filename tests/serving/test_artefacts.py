"""What a lake holds is what a server answers from: every version asked for, and the index with its own encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch

from semgen_pipelines.index import IndexConfig, build_index
from semgen_platform import geometry
from semgen_platform.discovery import embedder
from semgen_platform.discovery.embedder import EncoderConfig
from semgen_platform.errors import NotFound
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.serving.artefacts import served_index, served_models
from semgen_platform.volume import Volume

SCANS = 6


def _volume(number: int) -> Volume:
    """Noisy bodies of one shape and ever denser tissue: each is most like the next ones in number."""
    shape = (24, 40, 40)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = (z / 2) ** 2 + y**2 + x**2 < 0.8
    hu = np.where(inside, -100.0 + 60 * number, -1000.0) + np.random.default_rng(number).normal(0, 12, shape)
    return Volume(np.rint(hu).astype(np.int16), geometry.affine_from((3, 3, 5), (-60, -60, 0)), modality="CT")


@pytest.fixture(scope="module")
def searchable(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with six scans, a random encoder, its vectors and an index."""
    lake = create_lake(str(tmp_path_factory.mktemp("lake")), key_fingerprint="test")
    rows = [write_volume(lake.root, _volume(number), "r") for number in range(SCANS)]
    lake.insert(
        "sources", [{"source_id": r["scan_id"], "state": "1", "scan_id": r["scan_id"], "collection": "c"} for r in rows]
    )
    lake.insert("scans", rows)
    config = EncoderConfig(width=2, grid_shape_zyx=(16, 16, 16), spacing_mm=8)
    torch.manual_seed(0)
    network = embedder.network_for(config)
    for _ in range(30):
        network(torch.rand(6, 1, 1, 1, 1) * 0.5 + torch.rand(6, 1, 16, 16, 16) * 0.5)
    digest = embedder.save_encoder(network.eval(), config, [], lake.artefact_dir("encoders", "e-one", "0"))
    lake.insert("encoders", [{"encoder_id": "e-one", "attempt": "0", "digest": digest, "recipe_name": "t"}])
    lake.commit("test", "r")
    lake = lake.refresh()
    scans, encoder = lake.select_scans(), embedder.load_encoder(lake)
    reader = CropReader(lake.root, scans)
    vectors = []
    for scan in scans:
        level = reader.level(scan.scan_id, embedder.INPUT_LEVEL_MM)
        vector = encoder.embed(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu)
        vectors.append({"encoder_id": "e-one", "scan_id": scan.scan_id, "vector": vector})
    lake.insert("embeddings", vectors)
    lake.commit("test", "r")
    build_index(lake.refresh(), scans, "e-one", IndexConfig(), recipe_name="exact")
    return lake.refresh()


def test_the_nearest_scans_of_one_sent_are_its_likes_without_itself(searchable: Lake, tmp_path: Path) -> None:
    names = {write_volume(searchable.root, _volume(number), "r")["scan_id"]: number for number in range(SCANS)}
    index = served_index(searchable)
    assert index is not None
    found = [names[neighbour.scan_id] for neighbour in index.near(_volume(0), 3)]
    assert 0 not in found
    assert found[0] == 1
    moved = Volume(_volume(0).voxels, geometry.affine_from((3, 3, 5), (0, 0, 99)), modality="CT")
    assert 0 not in [names[n.scan_id] for n in index.near(moved, SCANS)], (
        "the same anatomy elsewhere is the scan itself"
    )


def test_every_model_is_served_by_version_and_by_the_ref_asked_for(lake: Lake) -> None:
    assert set(served_models(lake, [])) == {"small", "small:1"}
    assert set(served_models(lake, ["small:latest"])) == {"small:latest", "small:1"}
    assert served_models(lake, ["small"])["small"].ref == "small:1"
    with pytest.raises(NotFound, match="no model large"):
        served_models(lake, ["small", "large"])


def test_a_lake_without_models_or_index_says_so(searchable: Lake, lake: Lake) -> None:
    with pytest.raises(NotFound, match="publish a run first"):
        served_models(searchable, [])
    assert served_index(lake) is None
