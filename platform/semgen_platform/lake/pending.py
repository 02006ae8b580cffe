"""Rows of finished work on their way into the tables: written as files by workers, inserted in batches by the driver.

A worker that has written a volume (or any other data) leaves its rows as one file under runs/<id>/<attempt>/pending/.
The driver inserts them and removes the files, and a driver that starts again begins with what is pending, whichever
attempt left it. A crash between the two inserts nothing twice, since insert skips keys that are there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from semgen_platform.lake.lake import Lake
from semgen_platform.lake.tables import SCHEMAS, Row, plain_row

FILES_AT_ONCE = 2000  # a MERGE costs its time per call rather than per row, and memory per row

Rows = Mapping[str, Sequence[Row]]


def write_pending(lake_root: Path, run_id: str, attempt: str, rows_by_table: Rows) -> Path:
    """Leave rows for the driver: {table: rows}. They appear as a whole file or not at all.

    Raises ConfigError for a table or column that does not exist.
    """
    document = {name: [plain_row(name, row) for row in rows] for name, rows in rows_by_table.items()}
    folder = lake_root / "runs" / run_id / attempt / "pending"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{uuid.uuid4().hex}.json"
    with path.with_suffix(".partial").open("w", encoding="utf-8") as file:
        json.dump(document, file, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".partial").rename(path)
    return path


def commit_pending(lake: Lake, run_id: str) -> dict[str, int]:
    """Insert all pending rows of a run's attempts and remove their files; how many rows each table gained.

    They are seen once `lake.commit` makes a version.
    """
    gained: dict[str, int] = {}
    for paths in _batches(sorted((lake.root / "runs" / run_id).glob("*/pending/*.json"))):
        rows = _collect(paths)
        for name in SCHEMAS:  # what is referred to comes first
            if rows.get(name):
                gained[name] = gained.get(name, 0) + lake.insert(name, rows[name])
        for path in paths:
            path.unlink(missing_ok=True)
    return gained


def _collect(paths: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        for name, some in json.loads(path.read_text(encoding="utf-8")).items():
            rows.setdefault(name, []).extend(some)
    return rows


def _batches(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), FILES_AT_ONCE):
        yield paths[start : start + FILES_AT_ONCE]
