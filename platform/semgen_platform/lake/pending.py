"""Rows of finished work on their way into the tables: written as files by workers, inserted in batches by the driver.

A worker that has written a volume (or any other data) leaves its rows as one file under runs/<id>/<attempt>/pending/.
The driver inserts them and removes the files, and a driver that starts again begins with what is pending, whichever
attempt left it. A crash between the two inserts nothing twice, since insert skips keys that are there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from semgen_platform.errors import Damage
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.tables import SCHEMAS, Row, plain_row
from semgen_platform.storage import Address, Storage, storage_at

FILES_AT_ONCE = 2000  # a MERGE costs its time per call rather than per row, and memory per row
REQUESTS_AT_ONCE = 16  # to an object store, where each file costs the way there and back

Rows = Mapping[str, Sequence[Row]]


def write_pending(lake: Address, run_id: str, attempt: str, rows_by_table: Rows) -> str:
    """Leave rows for the driver: {table: rows}; the key of their file, which appears as a whole or not at all.

    Raises ConfigError for a table or column that does not exist, StorageError for a full disk or a store that fails.
    """
    document = {name: [plain_row(name, row) for row in rows] for name, rows in rows_by_table.items()}
    key = f"runs/{run_id}/{attempt}/pending/{uuid.uuid4().hex}.json"
    storage_at(lake).put_durably(key, json.dumps(document, allow_nan=False).encode())
    return key


def commit_pending(lake: Lake, run_id: str) -> dict[str, int]:
    """Insert all pending rows of a run's attempts and remove their files; how many rows each table gained.

    They are seen once `lake.commit` makes a version.
    """
    gained: dict[str, int] = {}
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as requests:
        for keys in _batches(sorted(_pending_keys(lake.storage, run_id))):
            rows = _collect(keys, list(requests.map(lake.storage.get, keys)))
            for name in SCHEMAS:  # what is referred to comes first
                if rows.get(name):
                    gained[name] = gained.get(name, 0) + lake.insert(name, rows[name])
            list(requests.map(lake.storage.delete, keys))
    return gained


def runs_with_pending(lake: Lake) -> list[str]:
    """Runs, of whatever kind, that have left rows to commit."""
    return [run_id for run_id in lake.storage.folders("runs") if any(_pending_keys(lake.storage, run_id))]


def _pending_keys(storage: Storage, run_id: str) -> Iterator[str]:
    for attempt in storage.folders(f"runs/{run_id}"):
        for key in storage.keys(f"runs/{run_id}/{attempt}/pending"):
            if key.endswith(".json"):
                yield key


def _collect(keys: Sequence[str], files: Sequence[bytes | None]) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for key, data in zip(keys, files, strict=True):
        for name, some in _document(key, data).items():
            rows.setdefault(name, []).extend(some)
    return rows


def _document(key: str, data: bytes | None) -> dict[str, list[dict[str, Any]]]:
    if data is None:
        return {}  # another driver has committed it
    try:
        return dict(json.loads(data))
    except ValueError:
        raise Damage(f"rows that wait in {key} cannot be read; remove the file and run their command again") from None


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), FILES_AT_ONCE):
        yield keys[start : start + FILES_AT_ONCE]
