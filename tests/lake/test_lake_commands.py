"""`lake init|ls|show|stats|rejects|history` as a person or a script meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from semgen_cli.main import run
from semgen_platform.lake.lake import Lake, open_lake

Row = Callable[..., dict[str, Any]]


@pytest.fixture
def filled(lake: Lake, scan_row: Row, source_row: Row) -> Lake:
    """Two scans, one with thick slices, and three refusals for two reasons."""
    lake.insert("sources", [source_row("s1"), source_row("s2", collection="siteB", flags=["oblique"])])
    lake.insert("scans", [scan_row("s1"), scan_row("s2", spacing_z_mm=5.0, flags=["thick_slices"])])
    refused = [("x1", "uneven_spacing", "one"), ("x2", "uneven_spacing", "two"), ("x3", "pdf", "a PDF")]
    rows = [
        {"source_id": source, "state": "first", "reasons": [reason], "sentence": sentence, "collection": "siteA"}
        for source, reason, sentence in refused
    ]
    lake.insert("rejects", rows)
    lake.insert("embeddings", [{"encoder_id": "e1", "scan_id": "s1"}])
    lake.insert("encoders", [{"encoder_id": "e1", "recipe_name": "tiny"}])
    lake.commit("ingest", "run1")
    return lake.refresh()


@pytest.fixture
def document(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json and give its document, the only thing on stdout."""

    def call(*arguments: str) -> Any:
        assert run([*arguments, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def test_init_makes_a_lake_under_the_users_key(tmp_path: Path, document: Callable[..., Any]) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(48)))
    made = document("lake", "init", "--lake", str(tmp_path / "lake"), "--key-file", str(key))
    lake = open_lake(str(tmp_path / "lake"))
    assert (made["lake_id"], made["version"]) == (lake.lake_id, 0)
    again = document("lake", "init", "--lake", str(tmp_path / "lake"), "--key-file", str(key))
    assert again == made
    assert bytes(range(48)) not in b"".join(p.read_bytes() for p in lake.root.glob("*.json"))


def test_a_lake_that_others_can_reach_needs_a_key_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lake", "init", "--lake", "s3://bucket/lake"]) == 3
    said = capsys.readouterr().err
    assert "needs a pseudonym key of its own; give --key-file or SEMGEN_LAKE_KEY_FILE" in said


def test_init_with_another_key_ends_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, code in ((1, 0), (2, 3)):
        key = tmp_path / f"key{number}"
        key.write_bytes(bytes(range(number, number + 48)))
        assert run(["lake", "init", "--lake", str(tmp_path / "lake"), "--key-file", str(key)]) == code
    assert "another key" in capsys.readouterr().err


def test_ls_narrows_by_condition_collection_and_profile(filled: Lake, document: Callable[..., Any]) -> None:
    def listed(*options: str) -> list[str]:
        return [row["scan_id"] for row in document("lake", "ls", "--lake", filled.uri, *options)["scans"]]

    assert listed() == ["s1", "s2"]
    assert listed("--where", "spacing_z_mm < 3") == ["s1"]
    assert listed("--collection", "siteB") == ["s2"]
    assert listed("--profile", "default") == ["s1", "s2"]


def test_ls_shows_the_columns_asked_for(filled: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lake", "ls", "--lake", filled.uri, "--columns", "scan_id,spacing_z_mm,flags"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["scan_id", "spacing_z_mm", "flags"],
        ["s1", "2"],
        ["s2", "5", "oblique,thick_slices"],
        ["2", "scans", "at", "version", "1"],
    ]


def test_an_old_version_is_listed_by_its_number(filled: Lake, document: Callable[..., Any]) -> None:
    assert document("lake", "ls", "--lake", f"{filled.uri}@0") == {"scans": [], "version": 0}


def test_show_tells_a_scan_with_its_sources_and_what_was_made_of_it(filled: Lake, document: Callable[..., Any]) -> None:
    found = document("lake", "show", "s1", "--lake", filled.uri)
    assert (found["kind"], found["rows"][0]["scan_id"], found["sources"][0]["patient_id"]) == ("scan", "s1", "ps1")
    assert found["encoders"] == ["e1"]
    encoder = document("lake", "show", "e1", "--lake", filled.uri)
    assert (encoder["kind"], encoder["rows"][0]["recipe_name"], encoder["embeddings"]) == ("encoder", "tiny", 1)


def test_stats_count_scans_patients_flags_and_refusals(filled: Lake, document: Callable[..., Any]) -> None:
    found = document("lake", "stats", "--lake", filled.uri)
    assert (found["scans"], found["patients"], found["voxels"]) == (2, 2, 2 * 40 * 50 * 60)
    assert [(row["collection"], row["scans"]) for row in found["collections"]] == [("siteA", 1), ("siteB", 1)]
    assert found["flags"] == {"oblique": 1, "thick_slices": 1}
    assert found["rejects"] == {"uneven_spacing": 2, "pdf": 1}
    assert found["rows"]["embeddings"] == 1


def test_rejects_are_grouped_by_reason_with_a_sentence(filled: Lake, document: Callable[..., Any]) -> None:
    found = document("lake", "rejects", "--lake", filled.uri)
    assert [(row["reason"], row["sources"]) for row in found["reasons"]] == [("uneven_spacing", 2), ("pdf", 1)]
    assert found["reasons"][1]["sentence"] == "a PDF"
    assert [row["source_id"] for row in found["rejects"]] == ["x3", "x1", "x2"]
    assert document("lake", "rejects", "--lake", filled.uri, "--collection", "siteB")["rejects"] == []


def test_a_source_that_was_taken_later_is_no_longer_among_the_rejects(
    filled: Lake, source_row: Row, document: Callable[..., Any]
) -> None:
    filled.insert("sources", [source_row("s1", source_id="x3", state="repaired")])
    filled.commit("ingest", "run2")
    assert [row["reason"] for row in document("lake", "rejects", "--lake", filled.uri)["reasons"]] == ["uneven_spacing"]


def test_history_lists_every_version(filled: Lake, document: Callable[..., Any]) -> None:
    versions = document("lake", "history", "--lake", filled.uri)["versions"]
    assert [(v["number"], v["command"], v["rows"]["scans"]) for v in versions] == [
        (0, "lake init", 0),
        (1, "ingest", 2),
    ]


@pytest.mark.parametrize("command", ["stats", "rejects", "history", "ls"])
def test_every_view_prints_lines_for_a_person(filled: Lake, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lake", command, "--lake", filled.uri]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["show", "s11"], 3, "nothing in lake .* is called s11; did you mean s1"),
        (["ls", "--where", "spacing < 3"], 2, "did you mean spacing_"),
        (["ls", "--columns", "scan_idd"], 2, "did you mean scan_id"),
        (["ls", "--collection", "siteX"], 3, "no collection siteX"),
        (["ls", "--profile", "strict"], 2, "no profile strict"),
    ],
)
def test_what_is_not_there_is_one_sentence_and_a_code(
    filled: Lake, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert run(["lake", *arguments, "--lake", filled.uri]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.search(words, captured.err)
    assert len(captured.err.splitlines()) == 1


def test_what_is_no_lake_ends_with_3(tmp_path: Path, lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lake", "ls", "--lake", str(tmp_path / "none")]) == 3
    path = lake.root / "lake.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    assert run(["lake", "ls", "--lake", lake.uri]) == 3
    assert "upgrade semgen-platform" in capsys.readouterr().err
