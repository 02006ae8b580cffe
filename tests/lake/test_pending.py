"""Rows between the worker that did the work and the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semgen_platform.errors import ConfigError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.pending import commit_pending, write_pending

Row = Callable[..., dict[str, Any]]


def test_pending_rows_of_all_attempts_are_inserted_once_and_their_files_removed(
    lake: Lake, scan_row: Row, source_row: Row
) -> None:
    for attempt, scan in (("a1", "s1"), ("a2", "s2"), ("a2", "s1")):
        write_pending(lake.root, "run", attempt, {"scans": [scan_row(scan)], "sources": [source_row(scan)]})
    assert commit_pending(lake, "run") == {"sources": 2, "scans": 2}
    assert not list(lake.root.glob("runs/run/*/pending/*"))
    assert commit_pending(lake, "run") == {}
    lake.commit("ingest", "run")
    assert [scan.scan_id for scan in lake.refresh().select_scans()] == ["s1", "s2"]


def test_a_crash_before_the_files_are_removed_doubles_nothing(
    lake: Lake, scan_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lake.root / write_pending(lake.root, "run", "a1", {"scans": [scan_row("s1")]})
    left = path.read_bytes()
    commit_pending(lake, "run")
    path.write_bytes(left)
    assert commit_pending(lake, "run") == {"scans": 0}
    assert lake.head_keys("scans") == {("s1",)}


def test_a_crash_while_a_file_is_written_leaves_nothing_to_read(lake: Lake, scan_row: Row) -> None:
    path = lake.root / write_pending(lake.root, "run", "a1", {"scans": [scan_row("s1")]})
    path.rename(path.with_suffix(".partial"))
    path.with_suffix(".partial").write_text('{"scans": [{"scan_')
    assert commit_pending(lake, "run") == {}


def test_other_runs_are_left_alone(lake: Lake, scan_row: Row) -> None:
    write_pending(lake.root, "other", "a1", {"scans": [scan_row("s1")]})
    assert commit_pending(lake, "run") == {}
    assert len(list(lake.root.glob("runs/other/a1/pending/*.json"))) == 1


def test_arrays_and_what_is_not_finite_survive_the_file(lake: Lake) -> None:
    vector = np.array([0.1, 1e-30, 3], np.float32)
    rows: dict[str, list[dict[str, Any]]] = {
        "embeddings": [{"encoder_id": "e", "scan_id": "s", "vector": vector}],
        "poses": [{"discovery_id": "d", "scan_id": "s", "ncc": float("nan"), "matrix": np.eye(4)}],
    }
    write_pending(lake.root, "run", "a1", rows)
    commit_pending(lake, "run")
    lake.commit("embed", "run")
    now = lake.refresh()
    np.testing.assert_array_equal(np.array(now.table("embeddings")["vector"].to_pylist()[0], np.float32), vector)
    pose = now.table("poses").to_pylist()[0]
    assert (pose["ncc"], pose["matrix"]) == (None, np.eye(4).ravel().tolist())


def test_a_table_that_does_not_exist_is_named_before_a_file_is_left(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="no table scan;"):
        write_pending(lake.root, "run", "a1", {"scan": [{}]})
    assert not (lake.root / "runs").exists()
