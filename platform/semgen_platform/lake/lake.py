"""A lake: made, opened at a version, read, added to and versioned.

A `Lake` is a fixed view of one version. Rows are inserted into the tables' heads and become visible together when a new
version names them: data first, then the row, then the version. Volumes and crops are volumes.py and crops.py; which
scans are selected is selection.py. Source: DESIGN.md sections 1 and 4.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from semgen_platform.errors import (
    ConfigError,
    Incomplete,
    InputError,
    LakeError,
    NewerFormat,
    NotALake,
    Unreachable,
    WrongKey,
)
from semgen_platform.ids import selection_digest
from semgen_platform.lake import selection
from semgen_platform.lake.query import Query, open_table, quoted, table_address
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.tables import DELTA_CONFIGURATION, KEYS, SCHEMAS, Row, key_of, schema_of, to_arrow
from semgen_platform.lake.versions import LakeVersion, create_version, newest_number, read_version, version_numbers
from semgen_platform.privacy import key_fingerprint
from semgen_platform.storage import Storage, delta_options, explained, persistently, retry_s, storage_at

FORMAT = 1
LAKE_FILE = "lake.json"
MERGE_ATTEMPTS = 20  # each waits a little longer; three writers at once needed at most a few
ARTEFACT_KINDS = ("encoders", "indexes", "discoveries", "runs", "models", "banks")

_log = logging.getLogger(__name__)


def create_lake(uri: str, *, key_fingerprint: str) -> Lake:
    """Make a lake in a new or empty folder or s3:// prefix; a lake of the same key that is there already is opened.

    key_fingerprint : privacy.key_fingerprint of the key that pseudonyms are made with.
    Raises WrongKey for a lake of another key, InputError for a place that holds other things, StorageError.
    """
    storage = storage_at(uri)
    if _lake_file(storage) is None:
        with explained(storage.uri):
            _check_free(storage)
        _create_tables(storage)
        create_version(storage, _first_version())
        storage.create(LAKE_FILE, _lake_document(key_fingerprint))  # last: it makes the lake exist
    lake = open_lake(uri)
    if lake.key_fingerprint != key_fingerprint:
        raise WrongKey(f"lake {uri} was made with another key; give that key's file with --key-file")
    return lake


def open_lake(uri: str, *, version: int | None = None) -> Lake:
    """The lake at an address, at its newest version or the one asked for (`version=41` or `uri` ending in `@41`).

    Raises NotALake, NewerFormat, NotFound for a version that is not there, StorageError.
    """
    address, at = split_version(uri)
    storage = storage_at(address)
    stored = _lake_file(storage)
    if stored is None:
        raise NotALake(f"{address} is no lake (it has no {LAKE_FILE}); make one with: semgen-platform lake init")
    document = _parsed(stored, storage.uri)
    wanted = version if version is not None else at
    number = newest_number(storage) if wanted is None else wanted
    return Lake(storage, document, read_version(storage, number))


class Lake:
    """One version of a lake; made by `create_lake` or `open_lake`.

    uri : absolute path or s3:// address.  storage : its files.  version : the number that it shows.
    key_fingerprint : of the key that its pseudonyms need.
    """

    def __init__(self, storage: Storage, document: dict[str, Any], shown: LakeVersion) -> None:
        self.storage, self._document, self._shown = storage, document, shown
        self.uri = storage.uri
        self.lake_id: str = document["lake_id"]
        self.key_fingerprint: str = document["key_fingerprint"]
        self.version = shown.number

    @property
    def root(self) -> Path:
        """The folder of a lake that lies in one. Raises LakeError for an object store, which has none."""
        if self.storage.local_root is None:
            raise LakeError(
                f"lake {self.uri} is no local folder, which this command needs; use a lake in a folder for it"
            )
        return self.storage.local_root

    def check_folder(self) -> None:
        """Raises LakeError for a lake in an object store, in which the command keeps no files of its own yet."""
        _ = self.root

    def check_key(self, key: bytes) -> None:
        """Raises WrongKey unless it is the key that this lake's pseudonyms are made with."""
        if key_fingerprint(key) != self.key_fingerprint:
            raise WrongKey(f"the key is not the one that lake {self.uri} was made with; give that one by --key-file")

    def refresh(self) -> Lake:
        """The same lake at its newest version."""
        return open_lake(self.uri)

    def counts(self) -> dict[str, int]:
        """Rows of every table at this version."""
        return dict(self._shown.rows)

    def query(self, *names: str) -> Query:
        """The named tables at this version as SQL views; use it in a `with` block."""
        return Query(self.uri, {name: self._shown.tables[name] for name in names})

    def table(self, name: str, *, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Rows of a table at this version by its key. Raises ConfigError for a wrong table, column or condition."""
        schema = schema_of(name)
        with self.query(name) as query:
            rows = query.filtered(name, columns, where, KEYS[name])
        return rows.cast(pa.schema([schema.field(column) for column in columns]) if columns else schema)

    def head_keys(self, name: str) -> set[tuple[Any, ...]]:
        """Keys in the table's head, which another command may have inserted and not yet versioned."""
        with Query(self.uri, {name: None}) as query:
            rows = query.arrow(f"SELECT {quoted(KEYS[name])} FROM {name}")
        return set(zip(*(column.to_pylist() for column in rows.columns), strict=True))

    def insert(self, name: str, rows: Sequence[Row]) -> int:
        """Insert the rows whose keys are not in the table's head, and return how many these were.

        Safe beside other writers: nothing is lost and no key is doubled. Rows are visible from the next version on.
        Raises ConfigError for an unknown table or column, Incomplete if other writers leave no gap.
        """
        first_of_key = {key_of(name, row): row for row in reversed(rows)}
        if not first_of_key:
            return 0
        data = to_arrow(name, list(reversed(first_of_key.values())), datetime.now(UTC))
        return persistently(lambda: self._insert(name, data))

    def commit(self, command: str, run_id: str) -> int:
        """Make a version of the tables' heads, and return its number; the newest number if no table moved since."""
        while True:
            parent = read_version(self.storage, newest_number(self.storage))
            # What refers is read before what it refers to, so that a version holds no row whose parent it lacks.
            tables = {name: open_table(self.uri, name).version() for name in reversed(SCHEMAS)}
            if tables == parent.tables:
                return parent.number
            if create_version(self.storage, self._next_version(parent, tables, command, run_id)):
                return parent.number + 1

    def history(self) -> list[dict[str, Any]]:
        """The versions up to this one, oldest first, as they are stored."""
        numbers = [number for number in version_numbers(self.storage) if number <= self.version]
        return [read_version(self.storage, number).document() for number in numbers]

    def scan_rows(
        self,
        *,
        collections: Sequence[str] | None = None,
        profile: str = "default",
        where: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Rows of the selected scans, by scan_id, as selection.select gives them."""
        with self.query(*selection.TABLES) as query:
            return selection.select(query, collections=collections, profile=profile, where=where, columns=columns)

    def select_scans(
        self, *, collections: Sequence[str] | None = None, profile: str = "default", where: str | None = None
    ) -> list[Scan]:
        """The selected scans, by scan_id.

        profile : "default" leaves out UNTRAINABLE_FLAGS and takes one scan per content_id; "all" takes every scan.
        where : SQL condition over the columns of scans, flags, collection and patient_id.
        Raises ConfigError for a wrong profile, column or condition, NotFound for an unknown collection.
        """
        with self.query(*selection.TABLES) as query:
            rows = selection.select(query, collections=collections, profile=profile, where=where)
            return selection.scans_from(rows, selection.split_groups(query))

    def artefact_dir(self, kind: str, artefact: str, attempt: str | None = None) -> Path:
        """Folder of an artefact, or of one attempt at it (for models the version). It is not made here.

        kind : encoders, indexes, discoveries, runs, models or banks.
        """
        assert kind in ARTEFACT_KINDS, f"unknown kind of artefact {kind}"
        for part in (artefact, attempt):
            if part is not None and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", part):
                raise ConfigError(f"{part!r} is no name; use letters, digits, '.', '_' and '-'")
        folder = self.root / kind / artefact
        return folder / attempt if attempt is not None else folder

    def _insert(self, name: str, data: pa.Table) -> int:
        for attempt in range(MERGE_ATTEMPTS):
            fresh = self._not_in_head(name, data)
            if not len(fresh):
                return 0
            inserted = _merge(self.uri, name, fresh)
            if inserted is not None:
                return inserted
            _log.info("insert again table=%s attempt=%d", name, attempt + 1)
            time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
        raise Incomplete(f"table {name} of lake {self.uri} is too busy to write to; run the same command again")

    def _not_in_head(self, name: str, data: pa.Table) -> pa.Table:
        with Query(self.uri, {name: None}) as query:
            query.add("offered", data.select(KEYS[name]).append_column("row_number", pa.array(range(len(data)))))
            fresh = query.arrow(f"SELECT row_number FROM offered ANTI JOIN {name} USING ({quoted(KEYS[name])})")
        return data.take(fresh["row_number"].combine_chunks().sort())

    def _next_version(self, parent: LakeVersion, tables: dict[str, int], command: str, run_id: str) -> LakeVersion:
        moved = {name for name in tables if tables[name] != parent.tables[name]}
        counted = {name: open_table(self.uri, name, tables[name]).count() for name in moved}
        digest = _selection_digest(self.uri, tables) if moved & set(selection.TABLES) else parent.selection
        return LakeVersion(
            number=parent.number + 1,
            parent=parent.number,
            created_at=datetime.now(UTC).isoformat(),
            command=command,
            run_id=run_id,
            tables={name: tables[name] for name in SCHEMAS},
            rows={**parent.rows, **counted},
            selection=digest,
        )


def _merge(uri: str, name: str, rows: pa.Table) -> int | None:
    """Insert-only MERGE into a table's head: the number of rows inserted, or None if another writer came between."""
    from deltalake.exceptions import CommitFailedError

    same_key = " AND ".join(f"head.{column} = new.{column}" for column in KEYS[name])
    merge = open_table(uri, name).merge(rows, same_key, source_alias="new", target_alias="head", merge_schema=True)
    with explained(uri):
        try:
            return int(merge.when_not_matched_insert_all().execute()["num_target_rows_inserted"])
        except CommitFailedError:
            return None


def _create_tables(storage: Storage) -> None:
    from deltalake import DeltaTable

    options = delta_options(storage.uri)
    for name, schema in SCHEMAS.items():
        address = table_address(storage.uri, name)
        with explained(storage.uri):
            if storage.local_root is not None:  # by us, since Delta calls a folder that it cannot make a missing table
                Path(address).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                address,
                schema,
                mode="ignore",
                configuration=DELTA_CONFIGURATION,
                storage_options=options,
            )


def _first_version() -> LakeVersion:
    return LakeVersion(
        number=0,
        parent=None,
        created_at=datetime.now(UTC).isoformat(),
        command="lake init",
        run_id="",
        tables=dict.fromkeys(SCHEMAS, 0),
        rows=dict.fromkeys(SCHEMAS, 0),
        selection=selection_digest([]),
    )


def _selection_digest(uri: str, tables: dict[str, int]) -> str:
    with Query(uri, {name: tables[name] for name in selection.TABLES}) as query:
        rows = selection.select(query, profile="all", columns=("scan_id", "patient_id"))
        groups = selection.split_groups(query)
    pairs = zip(*(column.to_pylist() for column in rows.columns), strict=True)
    return selection_digest((scan, patient or scan, groups.get(patient, patient or scan)) for scan, patient in pairs)


def split_version(uri: str) -> tuple[str, int | None]:
    """An address as a user gives it: (where the lake lies, the version behind @ or None)."""
    address, at, number = uri.rpartition("@")
    return (address, int(number)) if at and number.isdecimal() else (uri, None)


def _check_free(storage: Storage) -> None:
    """An interrupted create leaves tables and versions, which the next one completes; anything else is not ours."""
    uri, root = storage.uri, storage.local_root
    if "%" in uri:  # deltalake 1.6 takes it for an escape, whether it is escaped or not
        raise InputError(f"{uri} has a '%' in its name, which Delta tables cannot stand; name another place")
    if root is not None and root.exists() and not root.is_dir():
        raise InputError(f"{uri} is a file; name a new or empty folder for the lake")
    names = storage.names() if root is None else sorted(p.name for p in root.iterdir()) if root.exists() else []
    other = next((name for name in names if name not in ("tables", "versions")), None)
    if other is not None:
        raise InputError(f"{uri} is no lake and holds {other}; name a new or empty folder or prefix for the lake")


def _lake_document(key_fingerprint: str) -> bytes:
    document = {
        "format": FORMAT,
        "lake_id": f"l{uuid.uuid4().hex}",
        "key_fingerprint": key_fingerprint,
        "created_at": datetime.now(UTC).isoformat(),
    }
    return json.dumps(document, indent=1).encode()


def _lake_file(storage: Storage) -> bytes | None:
    """The first thing that a command asks for, so that a wrong address is not waited for in silence."""
    try:
        return storage.get(LAKE_FILE, patient=False)
    except Unreachable as error:
        _log.warning("%s (it is asked again for %g s)", error, retry_s())
        return storage.get(LAKE_FILE)


def _parsed(stored: bytes, uri: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(stored)
        found = int(document["format"])
    except (ValueError, KeyError, TypeError):
        raise NotALake(f"{uri} is no lake: its {LAKE_FILE} cannot be read") from None
    if found > FORMAT:
        raise NewerFormat(
            f"lake {uri} was made by format {found} and this version reads up to {FORMAT}; upgrade semgen-platform"
        )
    return document
