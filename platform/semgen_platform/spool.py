"""Records that wait in an unnamed temporary file, for where there may be millions of them.

SQLite keeps a database without a name in a file that has none either, which ends with the process however that ends,
and of which some pages are in memory (sqlite.org/inmemorydb.html, "Temporary Databases").
"""

from __future__ import annotations

import pickle
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from semgen_platform.errors import StorageError

Record = TypeVar("Record")

FASTEST = 1  # of zlib: paths of one folder shrink tenfold at any level


class Spool(Generic[Record]):
    """Records that can be pickled, numbered from 1 as they are added. Every method raises StorageError for a full or
    broken temporary folder."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._run("PRAGMA journal_mode = OFF")
        self._run("CREATE TABLE records (number INTEGER PRIMARY KEY, name TEXT, record BLOB)")
        self._run("BEGIN")

    def add(self, record: Record, name: tuple[str, ...] = ()) -> int:
        """The number of the record; records of one name are a group."""
        added = self._run("INSERT INTO records (name, record) VALUES (?, ?)", (ascii(name), packed(record)))
        assert added.lastrowid is not None
        return added.lastrowid

    def __iter__(self) -> Iterator[Record]:
        """In the order of their numbers."""
        for (data,) in self._rows("SELECT record FROM records ORDER BY number"):
            yield unpacked(data)

    def packed(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Records by their numbers, in the form that `unpacked` takes."""
        for number in numbers:
            yield from (data for (data,) in self._rows("SELECT record FROM records WHERE number = ?", (number,)))

    def groups(self) -> Iterator[list[Record]]:
        """The records of each name, names in the order of their first records."""
        first, group = 0, list[Record]()
        query = "SELECT min(number) OVER (PARTITION BY name) AS first, record FROM records ORDER BY first, number"
        for of, data in self._rows(query):
            if of != first and group:
                yield group
                group = []
            first = of
            group.append(unpacked(data))
        if group:
            yield group

    def _run(self, query: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with _storage_errors():
            return self._database.execute(query, values)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        cursor = self._run(query, values)
        while True:
            with _storage_errors():
                row = cursor.fetchone()
            if row is None:
                return
            yield row


def packed(record: object) -> bytes:
    """A record in few bytes, for a file or another process."""
    return zlib.compress(pickle.dumps(record, pickle.HIGHEST_PROTOCOL), FASTEST)


def unpacked(data: bytes) -> Any:
    """The record. Only for bytes that `packed` made: unpickling runs what it is given."""
    return pickle.loads(zlib.decompress(data))


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"the temporary folder cannot hold the listing ({error}); free space or set TMPDIR"
        ) from None
