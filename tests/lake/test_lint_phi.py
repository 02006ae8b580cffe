"""`lake lint-phi`: a control planted in each kind of place of a real lake is found, and an untouched lake is clean."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from semgen_cli.main import run
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.lint_phi import Found, lint, read_canaries
from semgen_platform.lake.pending import write_pending
from semgen_platform.lake.shards import write_level
from semgen_platform.lake.volumes import write_volume
from semgen_platform.privacy.canaries import Canaries
from semgen_platform.volume import Volume

CANARY = "Farrowgate^Corisande"
OTHERS = ["Nobody^Nowhere", "19331231", "MRN-90-817-263"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with a volume, rows in several tables at two versions, and pending rows."""
    lake = create_lake(str(tmp_path_factory.mktemp("lint") / "lake"), key_fingerprint="f" * 24)
    voxels = np.random.default_rng(0).normal(0, 300, (40, 40, 50)).astype(np.int16)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    scan = write_volume(lake.root, Volume(voxels, affine, "CT"), "i1")
    source = {
        "source_id": "q1",
        "state": "a",
        "scan_id": scan["scan_id"],
        "collection": "c",
        "patient_id": "p1",
        "flags": [],
    }
    lake.insert("sources", [source])
    lake.insert("scans", [scan])
    lake.commit("ingest", "i1")
    lake.insert("embeddings", [{"encoder_id": "e1", "scan_id": scan["scan_id"], "vector": np.arange(512.0)}])
    lake.commit("embed", "e1")
    write_pending(lake.root, "i2", "0", {"rejects": [{"source_id": "q2", "state": "b", "reasons": ["pdf"]}]})
    return lake.root


@pytest.fixture
def lake(pristine: Path, tmp_path: Path) -> Lake:
    shutil.copytree(pristine, tmp_path / "lake")
    return open_lake(str(tmp_path / "lake"))


def found(lake: Lake, *paths: Path, canary: str = CANARY) -> list[Found]:
    result = lint(lake.root, paths, Canaries([*OTHERS, canary]), quiet=True)
    assert not result.unread
    assert all(item.line == len(OTHERS) + 1 for item in result.found)
    assert all(word not in item.where for item in result.found for word in CANARY.split("^"))
    return list(result.found)


def places(lake: Lake, *paths: Path, canary: str = CANARY) -> str:
    """All places in which the canary was found, as one text."""
    return "\n".join(item.where for item in found(lake, *paths, canary=canary))


def the_file(root: Path, pattern: str) -> Path:
    return next(iter(sorted(root.glob(pattern))))


def test_an_untouched_lake_is_clean(lake: Lake) -> None:
    assert found(lake) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kernel", "of Corisande Farrowgate"),
        ("flags", ["oblique", CANARY]),
        ("attributes", {"note": [CANARY.upper()]}),
        ("labels", {"ward": CANARY}),
        ("labels", {CANARY: "x"}),
        ("patient_id", base64.b64encode(b"id " + CANARY.encode()).decode()),
    ],
)
def test_a_name_in_a_column_is_found_in_that_column(lake: Lake, column: str, value: Any) -> None:
    lake.insert("sources", [{"source_id": "q9", "state": "a", column: value}])
    assert f"column {column}" in places(lake)


def test_a_name_in_a_nested_column_with_escapes_is_found(lake: Lake) -> None:
    lake.insert("rejects", [{"source_id": "q9", "state": "a", "evidence": {"said": "Müller^Jürgen"}}])
    assert "tables/rejects" in places(lake, canary="Müller^Jürgen")


def test_a_row_that_only_an_old_version_has_is_found(lake: Lake) -> None:
    from deltalake import DeltaTable

    lake.insert("sources", [{"source_id": "q9", "state": "a", "kernel": CANARY}])
    DeltaTable(str(lake.root / "tables/sources")).delete("source_id = 'q9'")
    assert "q9" not in lake.table("sources")["source_id"].to_pylist()
    assert "tables/sources" in places(lake)


def test_a_number_in_a_column_of_numbers_is_found(lake: Lake) -> None:
    lake.insert("sources", [{"source_id": "q9", "state": "a", "kvp": 90817263.0}])
    result = lint(lake.root, [], Canaries(OTHERS), quiet=True)
    assert {(item.line, item.form) for item in result.found} == {(3, "digits alone")}


def plant_in_json(root: Path, pattern: str) -> None:
    path = the_file(root, pattern)
    path.write_text(json.dumps({**json.loads(path.read_text()), "note": CANARY}))


@pytest.mark.parametrize(
    "pattern",
    ["lake.json", "versions/1.json", "volumes/*/*/*/zarr.json", "volumes/*/*/*/0/zarr.json",
     "volumes/*/*/*/complete.json", "runs/i2/0/pending/*.json", "tables/scans/_delta_log/*0.json"],
)  # fmt: skip
def test_a_name_in_a_document_of_the_lake_is_found(lake: Lake, pattern: str) -> None:
    plant_in_json(lake.root, pattern) if "_delta_log" not in pattern else the_file(lake.root, pattern).open("a").write(
        json.dumps({"commitInfo": {"user": CANARY}}) + "\n"
    )
    assert the_file(lake.root, pattern).relative_to(lake.root).as_posix() in places(lake)


def test_a_name_in_a_checkpoint_of_the_delta_log_is_found(lake: Lake) -> None:
    table = pa.table({"add": [{"path": "part-0", "tags": [("name", CANARY)]}]}, schema=pa.schema(
        [("add", pa.struct([("path", pa.string()), ("tags", pa.map_(pa.string(), pa.string()))]))]
    ))  # fmt: skip
    pq.write_table(table, lake.root / "tables/scans/_delta_log/00000000000000000009.checkpoint.parquet")
    assert "checkpoint.parquet column add" in places(lake)


def test_a_name_in_the_voxels_is_found_though_they_are_compressed(lake: Lake) -> None:
    voxels = np.full((40, 40, 64), -1000, np.int16)
    row = voxels[33, 11].view(np.uint8)
    row[5 : 5 + len(CANARY)] = np.frombuffer(CANARY.encode(), np.uint8)
    folder = the_file(lake.root, "volumes/*/*/*") / "7"
    write_level(folder, voxels)
    assert not any(CANARY.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert "7/zarr.json (voxels)" in places(lake)


def test_a_name_in_a_thumbnail_or_its_name_is_found(lake: Lake) -> None:
    folder = lake.root / "thumbnails/ab"
    folder.mkdir(parents=True)
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", f"scan of {CANARY}", zip=True)
    Image.new("L", (8, 8)).save(folder / "sabc.png", pnginfo=text)
    assert "thumbnails/ab/sabc.png" in places(lake)
    (folder / "sabc.png").unlink()
    Image.new("L", (8, 8)).save(folder / "farrowgate_corisande.png")
    assert places(lake) == "thumbnails/ab/<canary> (its name)"


def test_a_folder_named_after_somebody_is_told_once_and_masked(lake: Lake) -> None:
    (lake.root / "runs" / "Corisande Farrowgate").mkdir()
    (lake.root / "runs" / "Corisande Farrowgate" / "metrics.json").write_text("{}")
    assert places(lake) == "runs/<canary> (its name)"


def test_a_link_is_not_followed_and_its_target_is_searched(lake: Lake, tmp_path: Path) -> None:
    target = tmp_path / "Farrowgate-Corisande.txt"
    target.write_text(CANARY)
    (lake.root / "link").symlink_to(target)
    assert places(lake) == "link (its target)"


def test_logs_reports_and_session_folders_are_searched_too(lake: Lake, tmp_path: Path) -> None:
    session = tmp_path / "session"
    (session / "logs").mkdir(parents=True)
    (session / "logs" / "worker.out").write_text(f"Task(name='read {CANARY}')")
    with gzip.open(session / "logs" / "old.log.gz", "wb") as file:
        file.write(CANARY.lower().encode())
    with zipfile.ZipFile(session / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/report.html", f"<p>{CANARY}</p>")
    (tmp_path / "report.csv").write_text("source,status\n/data/Corisande%20Farrowgate/scan,ingested\n")
    os.mkfifo(session / "pipe")  # it is not opened
    shown = places(lake, session, tmp_path / "report.csv")
    expected = ("session/logs/worker.out", "session/logs/old.log.gz", "session/all.zip", "report.csv")
    assert [name for name in expected if name not in shown] == []


def test_the_command_ends_with_5_and_never_prints_the_canary(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["", *OTHERS, CANARY]))
    arguments = ["lake", "lint-phi", "--lake", lake.uri, "--canaries", str(names)]
    assert run(arguments) == 0
    plant_in_json(lake.root, "versions/1.json")
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 5
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["found"] == [{"where": "versions/1.json", "line": 5, "form": "as written"}]
    assert document["canaries"] == 4
    assert run(arguments) == 5
    printed_lines = capsys.readouterr()
    for text in (printed.out, printed.err, printed_lines.out, printed_lines.err):
        assert "farrowgate" not in text.lower()
    assert "1 of 4 canaries" in printed_lines.err


def test_what_cannot_be_searched_is_said_and_ends_with_4(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text(CANARY)
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"abc" * 999)[:-9])
    arguments = ["lake", "lint-phi", str(tmp_path / "cut.gz"), "--lake", lake.uri, "--canaries", str(names)]
    assert run(arguments) == 4
    assert "not searched through: cut.gz" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read"), ("", "holds no canary"), ("long enough\nabc\n", "line 2 .* fewer than 4")],
)
def test_canaries_that_cannot_be_used_are_one_sentence_and_3(
    content: str | None, says: str, lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    names = tmp_path / "names.txt"
    if content is not None:
        names.write_text(content)
    assert run(["lake", "lint-phi", "--lake", lake.uri, "--canaries", str(names)]) == 3
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert len(error.splitlines()) == 1


def test_a_path_that_is_not_there_ends_with_3(lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "names.txt").write_text(CANARY)
    canaries = ["--canaries", str(tmp_path / "names.txt")]
    assert run(["lake", "lint-phi", str(tmp_path / "none"), "--lake", lake.uri, *canaries]) == 3
    assert "does not exist" in capsys.readouterr().err


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffFirst^Name\r\n\r\n  Third^Name  \r\n".encode())
    search: Callable[..., Any] = read_canaries(tmp_path / "names.txt").find
    assert {hit.line for hit in search(b"third^name")} == {3}
