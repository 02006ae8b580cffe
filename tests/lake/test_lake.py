"""Making, opening, filling and versioning a lake."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_platform.errors import ConfigError, InputError, NewerFormat, NotALake, NotFound, StorageError, WrongKey
from semgen_platform.lake import lake as lake_module
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.tables import SCHEMAS
from semgen_platform.lake.versions import LakeVersion, create_version, read_version
from semgen_platform.storage import Storage

Row = Callable[..., dict[str, Any]]


def test_a_new_lake_is_empty_and_at_version_0(lake: Lake) -> None:
    assert lake.version == 0
    assert all(len(lake.table(name)) == 0 for name in SCHEMAS)
    assert lake.select_scans() == []
    assert [v["command"] for v in lake.history()] == ["lake init"]


def test_making_a_lake_again_opens_it(lake: Lake) -> None:
    again = create_lake(lake.uri, key_fingerprint=lake.key_fingerprint)
    assert (again.lake_id, again.version) == (lake.lake_id, 0)


def test_making_it_again_with_another_key_is_refused(lake: Lake) -> None:
    with pytest.raises(WrongKey, match="another key"):
        create_lake(lake.uri, key_fingerprint="g" * 24)


def test_a_folder_with_other_things_is_not_made_a_lake_of(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds thesis\.txt"):
        create_lake(str(tmp_path), key_fingerprint="f")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("blocked", ["file", "lake/tables"])
def test_a_lake_that_has_no_room_because_a_file_is_in_the_way_is_one_sentence(tmp_path: Path, blocked: str) -> None:
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("x")
    place = tmp_path / ("file/lake" if blocked == "file" else "lake")
    with pytest.raises(StorageError, match=rf"^{place} cannot be read or written \(.*\); mend that"):
        create_lake(str(place), key_fingerprint="f")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / blocked]


def test_a_lake_whose_making_was_interrupted_is_made_by_the_next_start(lake: Lake) -> None:
    shutil.rmtree(lake.root / "tables" / "runs")
    (lake.root / "lake.json").unlink()
    with pytest.raises(NotALake):
        open_lake(lake.uri)
    again = create_lake(lake.uri, key_fingerprint="f" * 24)
    assert len(again.table("runs")) == 0


@pytest.mark.parametrize("name", ["with space, and ünicode", "at@home"])
def test_a_lake_works_under_any_usual_name(tmp_path: Path, name: str, scan_row: Row) -> None:
    lake = create_lake(str(tmp_path / name), key_fingerprint="f")
    lake.insert("scans", [scan_row("s1")])
    lake.commit("test", "r")
    assert open_lake(lake.uri).table("scans")["scan_id"].to_pylist() == ["s1"]


def test_a_percent_sign_in_the_path_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'%'"):
        create_lake(str(tmp_path / "100%20"), key_fingerprint="f")
    assert not list(tmp_path.iterdir())


def test_a_missing_path_is_no_lake_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotALake, match=r"no lake.*lake init"):
        open_lake(str(tmp_path / "nothing"))
    assert not list(tmp_path.iterdir())


def test_a_newer_format_is_refused_with_both_numbers(lake: Lake) -> None:
    path = lake.root / "lake.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 7}))
    with pytest.raises(NewerFormat, match="format 7 and this version reads up to 1"):
        open_lake(lake.uri)


def test_a_broken_lake_file_is_no_lake(lake: Lake) -> None:
    (lake.root / "lake.json").write_text('{"format": ')
    with pytest.raises(NotALake, match=r"lake\.json cannot be read"):
        open_lake(lake.uri)


def test_an_address_that_names_no_place_is_one_sentence() -> None:
    with pytest.raises(InputError, match="unknown scheme gs"):
        open_lake("gs://bucket/lake")


def test_rows_are_seen_once_a_version_names_them(lake: Lake, scan_row: Row) -> None:
    assert lake.insert("scans", [scan_row("s1"), scan_row("s2")]) == 2
    assert len(lake.table("scans")) == 0
    assert lake.head_keys("scans") == {("s1",), ("s2",)}
    assert lake.commit("ingest", "r1") == 1
    assert len(lake.table("scans")) == 0, "an open lake stays at its version"
    assert lake.refresh().table("scans")["scan_id"].to_pylist() == ["s1", "s2"]


def test_an_old_version_reads_the_old_rows_of_every_table(lake: Lake, scan_row: Row, source_row: Row) -> None:
    for number in (1, 2):
        lake.insert("sources", [source_row(f"s{number}")])
        lake.insert("scans", [scan_row(f"s{number}")])
        assert lake.commit("ingest", f"r{number}") == number
    for uri, scans in ((lake.uri, 2), (f"{lake.uri}@2", 2), (f"{lake.uri}@1", 1), (f"{lake.uri}@0", 0)):
        opened = open_lake(uri)
        assert len(opened.table("scans")) == len(opened.table("sources")) == len(opened.select_scans()) == scans
    assert open_lake(lake.uri, version=1).version == 1


def test_a_version_that_is_not_there_is_named_with_the_last_one(lake: Lake) -> None:
    with pytest.raises(NotFound, match="no version 41; its versions end at 0"):
        open_lake(f"{lake.uri}@41")


def test_inserting_again_adds_nothing_and_makes_no_version(lake: Lake, scan_row: Row) -> None:
    lake.insert("scans", [scan_row("s1")])
    version = lake.commit("ingest", "r1")
    assert lake.insert("scans", [scan_row("s1", attempt="another"), scan_row("s1")]) == 0
    assert lake.commit("ingest", "r2") == version
    assert lake.refresh().table("scans")["attempt"].to_pylist() == ["a"]


def test_of_rows_with_one_key_in_one_call_the_first_is_inserted(lake: Lake, scan_row: Row) -> None:
    assert lake.insert("scans", [scan_row("s1", attempt="x"), scan_row("s1", attempt="y")]) == 1
    lake.commit("ingest", "r")
    assert lake.refresh().table("scans")["attempt"].to_pylist() == ["x"]


def test_a_key_of_several_columns_counts_as_a_whole(lake: Lake) -> None:
    member = {"discovery_id": "d", "pattern": 1, "scan_id": "s", "scale": 1.0, "jitter": 0}
    others = [{**member, "jitter": 1}, {**member, "scale": 1.1}, {**member, "pattern": 2}]
    assert lake.insert("members", [member]) == 1
    assert lake.insert("members", [member, *others]) == 3


def test_a_version_names_its_parent_its_maker_and_what_it_holds(lake: Lake, scan_row: Row, source_row: Row) -> None:
    lake.insert("sources", [source_row("s1")])
    lake.insert("scans", [scan_row("s1")])
    lake.commit("ingest", "r1")
    first, second = lake.refresh().history()
    assert (second["number"], second["parent"], second["command"], second["run_id"]) == (1, 0, "ingest", "r1")
    assert second["rows"]["scans"] == second["rows"]["sources"] == 1
    assert second["selection"] != first["selection"]
    assert datetime.fromisoformat(second["created_at"]).tzinfo == UTC


def test_the_digest_of_the_scan_set_does_not_depend_on_the_order_of_ingest(
    tmp_path: Path, scan_row: Row, source_row: Row
) -> None:
    digests = set()
    for name, order in (("a", ("s1", "s2")), ("b", ("s2", "s1"))):
        lake = create_lake(str(tmp_path / name), key_fingerprint="f")
        for scan in order:
            lake.insert("sources", [source_row(scan)])
            lake.insert("scans", [scan_row(scan)])
        lake.commit("ingest", name)
        digests.add(lake.refresh().history()[-1]["selection"])
    assert len(digests) == 1


def test_values_come_back_as_they_went_in(lake: Lake, scan_row: Row, source_row: Row) -> None:
    source = source_row("s1", labels={"sex": "F"}, attributes={"kvp": 120}, flags=["oblique"], slice_thickness_mm=1.25)
    lake.insert("sources", [source])
    lake.insert("embeddings", [{"encoder_id": "e", "scan_id": "s1", "vector": np.array([0.1, 2], np.float32)}])
    lake.insert("rejects", [{"source_id": "x", "state": "y", "reasons": ["pdf"], "evidence": {"pages": 3}}])
    lake.commit("ingest", "r")
    now = lake.refresh()
    row = now.table("sources").to_pylist()[0]
    assert (dict(row["labels"]), row["flags"], row["slice_thickness_mm"]) == ({"sex": "F"}, ["oblique"], 1.25)
    assert json.loads(row["attributes"]) == {"kvp": 120}
    assert now.table("embeddings")["vector"].to_pylist()[0] == [np.float32(0.1), 2.0]
    assert now.table("rejects", columns=["reasons", "evidence"], where="evidence ->> '$.pages' = '3'").num_rows == 1


def test_a_condition_and_columns_narrow_a_table(lake: Lake, scan_row: Row) -> None:
    lake.insert("scans", [scan_row("s1"), scan_row("s2", spacing_z_mm=5.0)])
    lake.commit("ingest", "r")
    rows = lake.refresh().table("scans", columns=["scan_id", "spacing_z_mm"], where="spacing_z_mm > 3")
    assert rows.to_pylist() == [{"scan_id": "s2", "spacing_z_mm": 5.0}]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("spacng_z_mm < 3", "spacng_z_mm, which is no column; did you mean spacing_z_mm"),
        ("1 = 1; DROP TABLE scans", "no SQL condition"),
        ("scan_id IN (SELECT column0 FROM read_csv('/etc/hostname'))", "no SQL condition"),
    ],
)
def test_a_wrong_condition_is_one_sentence(lake: Lake, scan_row: Row, condition: str, words: str) -> None:
    lake.insert("scans", [scan_row("s1")])
    lake.commit("ingest", "r")
    with pytest.raises(ConfigError, match=words):
        lake.refresh().table("scans", where=condition)


def test_a_wrong_column_names_the_nearest(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="no column patient; did you mean patient_id"):
        lake.table("sources", columns=["patient"])


def test_an_artefact_has_a_folder_of_its_own_and_no_name_leads_elsewhere(lake: Lake) -> None:
    assert lake.artefact_dir("runs", "r1", "a1") == lake.root / "runs" / "r1" / "a1"
    for name in ("../x", "a/b", "", ".hidden"):
        with pytest.raises(ConfigError, match="is no name"):
            lake.artefact_dir("models", name)


INSERT_ONE_BY_ONE = """
import sys, time
from pathlib import Path
from semgen_platform.lake.lake import open_lake

lake, first = open_lake(sys.argv[1]), int(sys.argv[2])
lake.head_keys("embeddings")  # so that imports are over when the race begins
print("ready", flush=True)
sys.stdin.readline()
rows = [{"encoder_id": "e", "scan_id": f"s{n}", "level": first} for n in range(first, first + 10)]
print(sum(lake.insert("embeddings", [row]) for row in rows), flush=True)
lake.commit("test", f"r{first}")
"""


def test_two_processes_that_insert_at_once_lose_and_double_nothing(
    lake: Lake, start: Callable[..., subprocess.Popen[str]]
) -> None:
    writers = [start(INSERT_ONE_BY_ONE, lake.uri, first) for first in (0, 2)]  # eight keys are in both
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    outputs = [writer.communicate(timeout=120) for writer in writers]
    assert all(writer.returncode == 0 for writer in writers), outputs
    now = lake.refresh()
    assert sorted(now.table("embeddings")["scan_id"].to_pylist()) == sorted(f"s{n}" for n in range(12))
    assert sum(int(out) for out, _ in outputs) == 12
    numbers = [version["number"] for version in now.history()]
    assert numbers == list(range(len(numbers)))


def test_of_many_that_make_a_version_of_one_number_exactly_one_does(lake: Lake) -> None:
    present = read_version(lake.storage, 0)
    together = threading.Barrier(8)

    def make(maker: int) -> bool:
        together.wait()
        return create_version(lake.storage, replace(present, number=1, parent=0, run_id=f"r{maker}"))

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(make, range(8)))
    assert sum(won) == 1
    assert read_version(lake.storage, 1).run_id == f"r{won.index(True)}"


def test_a_version_made_by_another_in_between_is_followed_by_the_next_number(
    lake: Lake, scan_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake.insert("scans", [scan_row("s1")])
    real, others = create_version, iter(["another"])

    def slower(storage: Storage, version: LakeVersion) -> bool:
        for name in others:  # once: another command makes the number first
            real(storage, replace(read_version(storage, 0), number=version.number, parent=0, run_id=name))
        return real(storage, version)

    monkeypatch.setattr(lake_module, "create_version", slower)
    assert lake.commit("ingest", "mine") == 2
    assert [v["run_id"] for v in lake.refresh().history()] == ["", "another", "mine"]
    assert len(lake.refresh().table("scans")) == 1


def test_the_tables_are_read_by_duckdb_and_polars_from_the_log_alone(lake: Lake, scan_row: Row) -> None:
    import duckdb
    import polars

    for scan in ("s1", "s2", "s3"):
        lake.insert("scans", [scan_row(scan)])
    folder = lake.root / "tables" / "scans"
    live: set[str] = set()  # the protocol by hand: replay add and remove
    for entry in sorted((folder / "_delta_log").glob("*.json")):
        for action in map(json.loads, entry.read_text().splitlines()):
            live |= {action["add"]["path"]} if "add" in action else set()
            live -= {action["remove"]["path"]} if "remove" in action else set()
    files = [str(folder / path) for path in live]
    sql = "SELECT scan_id, levels[1].shape_zyx[2] FROM read_parquet($files) ORDER BY 1"
    assert duckdb.execute(sql, {"files": files}).fetchall() == [("s1", 50), ("s2", 50), ("s3", 50)]
    frame = polars.read_delta(str(folder)).sort("scan_id")
    assert frame["scan_id"].to_list() == ["s1", "s2", "s3"]
    assert frame["ijk_to_lps_mm"][0].to_list()[::5] == [0.7, 0.8, 2.0, 1.0]


def test_no_pseudonym_stands_in_a_log(lake: Lake, source_row: Row) -> None:
    lake.insert("sources", [source_row("s1", patient_id="pseudonym-of-somebody")])
    logs = [path.read_bytes() for path in (lake.root / "tables").glob("*/_delta_log/*")]
    assert logs
    assert any(b"created_at" in log and b"minValues" in log for log in logs), "statistics are written at all"
    assert not any(b"pseudonym-of-somebody" in log for log in logs)
