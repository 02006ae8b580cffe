"""`evaluate probe` on small labelled scans: rows and report, nothing done twice, and no patient judged who was seen."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from semgen_cli.main import run
from semgen_pipelines.evaluate import evaluate_probe
from semgen_platform import geometry
from semgen_platform.backbones.contract import Architecture, Lineage, Preprocessing
from semgen_platform.backbones.registry import Draft, publish_draft
from semgen_platform.errors import InputError
from semgen_platform.evaluation.probe import ProbeConfig
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.networks.unet3d import UNet3D
from semgen_platform.volume import Volume

PATIENTS = 6
CONFIG = ProbeConfig(region_mm=10, per_label=3, splits=2, initialisations=2, penalties=(1e-2,), ignored_labels=(0,))


def _patient(number: int) -> tuple[Volume, NDArray[np.uint8]]:
    """A body of four quarters with a mean and a grain of their own."""
    rng = np.random.default_rng(number)
    shape = (24, 36, 36)
    labels = np.zeros(shape, np.uint8)
    labels[:, 4:18, 4:18], labels[:, 4:18, 18:32], labels[:, 18:32, 4:18], labels[:, 18:32, 18:32] = 1, 2, 3, 4
    mean, grain = np.array([-1000, 40, 40, -700, 300])[labels], np.array([5, 20, 120, 60, 20])[labels]
    voxels = np.rint(mean + grain * rng.normal(size=shape)).astype(np.int16)
    return Volume(voxels, geometry.affine_from((3, 3, 4), (10.0 * number, 0, 0)), modality="CT"), labels


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    for number in range(PATIENTS):
        volume, labels = _patient(number)
        affine = geometry.reverse_index_axes(volume.ijk_to_lps_mm)
        np.savez_compressed(folder / f"anything-{number}.npz", labels_ZYX=labels, zyx_to_lps_mm=affine)
    return folder


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = create_lake(str(tmp_path / "lake"), key_fingerprint="test")
    rows = [write_volume(lake.root, _patient(number)[0], "r") for number in range(PATIENTS)]
    sources = [
        {"source_id": f"s{n}", "state": "1", "scan_id": row["scan_id"], "patient_id": f"p{n}", "collection": "held-out"}
        for n, row in enumerate(rows)
    ]
    lake.insert("sources", sources)
    lake.insert("scans", rows)
    lake.commit("ingest", "r")
    torch.manual_seed(0)
    draft = Draft(
        tensors=UNet3D(4, "instance").state_dict(),
        architecture=Architecture(width=4, norm="instance", trained_norm="instance"),
        preprocessing=Preprocessing(window_hu=(-1000, 1000), spacing_zyx_mm=(4, 3, 3), crop_shape_zyx=(8, 16, 16)),
        lineage=Lineage(lake_id="l", lake_version=1, run="r", attempt="0", recipe="tiny", discovery="d-one"),
    )
    publish_draft(lake.refresh(), "small", draft)
    return lake.refresh()


def test_every_feature_is_scored_and_the_rows_hold_baseline_and_spread(lake: Lake, truth: Path) -> None:
    summary = evaluate_probe(lake, "small", lake.select_scans(), truth, CONFIG, quiet=True)
    assert (summary.model, summary.patients, summary.classes, summary.places) == ("small:1", 6, 4, 72)
    scores = {(s["feature"], s["probe"]): s for s in summary.scores}
    assert scores["histogram", "linear"]["mean"] > 0.9, "the quarters differ in their HU"
    assert len(scores["random", "knn"]["by_split"][0]) == 2
    rows = lake.refresh().table("evaluations").to_pylist()
    assert {(r["metric"], r["baseline_name"]) for r in rows} == {
        (f"{probe}_balanced_accuracy", baseline) for probe in ("linear", "knn") for baseline in ("random", "histogram")
    }
    row = next(r for r in rows if r["metric"].startswith("linear") and r["baseline_name"] == "histogram")
    assert row["baseline"] == scores["histogram", "linear"]["mean"]
    assert row["interval"] == [scores["pretrained", "linear"]["low"], scores["pretrained", "linear"]["high"]]
    report = Path(summary.report).read_text()
    assert "not a spread over pretrainings" in report
    assert "small:1" in report


def test_the_same_evaluation_is_found_and_another_is_not(lake: Lake, truth: Path) -> None:
    scans = lake.select_scans()
    first = evaluate_probe(lake, "small", scans, truth, CONFIG, quiet=True)
    again = evaluate_probe(lake.refresh(), "small:1", scans, truth, CONFIG, quiet=True)
    assert (first.found, again.found) == (False, True)
    assert again.scores == json.loads(json.dumps(first.scores))
    other = evaluate_probe(lake.refresh(), "small", scans, truth, CONFIG.model_copy(update={"seed": 1}), quiet=True)
    assert not other.found
    assert lake.refresh().counts()["evaluations"] == 8


def test_a_patient_whom_the_discovery_has_seen_is_not_judged(lake: Lake, truth: Path) -> None:
    seen = lake.select_scans()[2]
    lake.insert("poses", [{"discovery_id": "d-one", "scan_id": seen.scan_id, "patient_id": seen.patient_id}])
    lake.commit("discover", "d-one")
    with pytest.raises(InputError, match=r"1 of the 6 selected patients were in discovery d-one"):
        evaluate_probe(lake.refresh(), "small", lake.select_scans(), truth, CONFIG, quiet=True)
    others = [scan for scan in lake.select_scans() if scan.scan_id != seen.scan_id]
    summary = evaluate_probe(lake.refresh(), "small", others, truth, CONFIG, quiet=True)
    assert (summary.patients, summary.training_patients) == (5, 1)


def test_no_scan_or_too_few_patients_are_one_sentence(lake: Lake, truth: Path) -> None:
    with pytest.raises(InputError, match="--collection"):
        evaluate_probe(lake, "small", [], truth, CONFIG, quiet=True)
    with pytest.raises(InputError, match="at least four"):
        evaluate_probe(lake, "small", lake.select_scans()[:3], truth, CONFIG, quiet=True)


def test_the_commands_print_one_document(lake: Lake, truth: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*arguments: str) -> Any:
        assert run([*arguments, "--lake", lake.uri, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    settings = [
        f"--set={key}={value}" for key, value in (("splits", 1), ("initialisations", 1), ("ignored_labels", "[0]"))
    ]
    scores = asked(
        "evaluate", "probe", "--model", "small", "--truth", str(truth), "--collection", "held-out", *settings
    )["scores"]
    assert len(scores) == 6
    shown = asked("models", "show", "small:1")
    assert shown["preprocessing"]["window_hu"] == [-1000, 1000]
    assert len(shown["evaluations"]) == 4
    assert [m["model"] for m in asked("models", "ls")["models"]] == ["small:1"]
    assert run(["models", "show", "absent", "--lake", lake.uri]) == 3
    assert run(["publish", "absent", "--name", "x", "--lake", lake.uri]) == 3
