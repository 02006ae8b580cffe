"""A table, CSV or Parquet, that names scans: as a SOURCE of its own, or what it says of those that folders hold.

Columns: `path`, optional `patient_id` and `collection`, and anything else is a label. A path is a file, a folder, an
s3:// address, an archive, what stands behind an archive (a.zip/inner/scan.nii), or a glob of these. Relative ones are
taken below the manifest's folder and, for what folders hold, below each SOURCE. Of several rows that fit a source the
one with the longest path speaks, and a glob only where no path fits.
"""

from __future__ import annotations

import csv
import io
import posixpath
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from semgen_platform.errors import InputError
from semgen_platform.formats import files, remote
from semgen_platform.formats.place import Place
from semgen_platform.formats.walking import WILDCARDS, Root, matches, root_at

ENDINGS = (".csv", ".parquet")
OWN_COLUMNS = ("path", "patient_id", "collection")
UNREADABLE = (OSError, ValueError, csv.Error)  # UnicodeDecodeError and pyarrow's errors are ValueErrors


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """What a manifest says of one source."""

    patient_id: str | None = None
    collection: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Manifest:
    """Rows by path: absolute ones, and relative ones that are taken below each of `bases`."""

    def __init__(self, rows: Mapping[str, ManifestRow], bases: Sequence[str], folder: str) -> None:
        self._rows, self._bases, self._folder = rows, tuple(bases), folder
        self._globs = [(path.split("/"), row) for path, row in rows.items() if any(c in path for c in WILDCARDS)]

    def roots(self) -> Iterator[Root]:
        """What the manifest names as sources; files below its folder are named from there on."""
        for path in self._rows:
            whole = path if path.startswith("/") or files.is_remote(path) else f"{self._folder}/{path}"
            yield root_at(whole, base=self._folder, required=False)

    def of(self, places: Sequence[Place]) -> ManifestRow | None:
        """The row of the first file, or of the nearest folder or archive above it that has one."""
        names = self._names(str(places[0]))
        above = names
        while above:
            row = next((self._rows[name] for name in above if name in self._rows), None)
            if row is not None:
                return row
            above = [name.rpartition("/")[0] for name in above if "/" in name]
        return next((row for glob, row in self._globs if any(matches(glob, n.split("/")) for n in names)), None)

    def _names(self, path: str) -> list[str]:
        """The path as a row may give it."""
        return [path, *(name for base in self._bases if (name := files.below(path, base)) is not None)]


def is_manifest(address: str) -> bool:
    """Whether a SOURCE is a manifest: a file that is named as CSV or Parquet. Of what use it is, read_manifest says."""
    if not address.lower().endswith(ENDINGS) or any(c in address for c in WILDCARDS):
        return False
    try:
        return files.is_file(files.absolute(address))
    except OSError:
        return False  # what the server does not say, the walk will


def read_manifest(address: str, sources: Sequence[str] = ()) -> Manifest:
    """The manifest at an address; its relative paths are taken below `sources`, too.

    Raises InputError where it cannot be read, lacks the column `path`, names a path twice, or names none.
    """
    path = files.absolute(address)
    folder, name = files.parent(path), posixpath.basename(path)
    rows: dict[str, ManifestRow] = {}
    try:
        if "path" not in (columns := _columns(path)):  # whose names may be a first row of patients
            raise InputError(
                f"none of the {len(columns)} columns of manifest {name} is called path; name them in its head"
            )
        for number, record in _records(path):
            row_path = _normal(record["path"], folder)
            if row_path in rows:
                raise InputError(
                    f"manifest {name} names one path twice, the second time in line {number}; keep one line a source"
                )
            if row_path:
                rows[row_path] = _row(record)
    except UNREADABLE as error:
        raise InputError(
            f"manifest {name} cannot be read ({type(error).__name__}); give a UTF-8 CSV file or a Parquet file"
        ) from error
    if not rows:
        raise InputError(f"manifest {name} names no file; give it a line for each, with its path in the column path")
    bases = [root_at(source, required=False) for source in sources]
    return Manifest(rows, [*(root.base or root.path for root in bases), folder], folder)


def _normal(path: str, folder: str) -> str:
    """One spelling of a path, absolute where it leads out of the manifest's folder."""
    if not path or files.is_remote(path):
        return files.absolute(path) if path else ""
    path = posixpath.normpath(path)
    if path != "." and path.split("/")[0] != "..":
        return path
    if files.is_remote(folder):
        bucket_and_key = posixpath.normpath(f"/{folder.removeprefix(remote.SCHEME)}/{path}")
        return remote.SCHEME + bucket_and_key.lstrip("/")
    return posixpath.normpath(f"{folder}/{path}")


def _row(record: Mapping[str, str]) -> ManifestRow:
    labels = {sys.intern(name): sys.intern(v) for name, v in record.items() if name not in OWN_COLUMNS and v}
    return ManifestRow(record.get("patient_id") or None, sys.intern(record.get("collection", "")) or None, labels)


# --- CSV and Parquet ---


def _columns(path: str) -> list[str]:
    """Raises OSError, ValueError, csv.Error."""
    with files.open_file(path) as stream:
        if path.lower().endswith(".parquet"):
            return list(_parquet(stream).schema_arrow.names)
        return next(csv.reader(_text(stream)), [])


def _records(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, or row in a Parquet file, both as people count them; its texts by column). Raises as `_columns`."""
    with files.open_file(path) as stream:
        if path.lower().endswith(".parquet"):
            batches = _parquet(stream).iter_batches()
            numbered = enumerate((record for batch in batches for record in batch.to_pylist()), start=1)
        else:
            numbered = enumerate(csv.DictReader(_text(stream), restkey=""), start=2)
        for number, record in numbered:
            yield number, {name: _plain(value) for name, value in record.items() if name}


def _parquet(stream: Any) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(stream)


def _text(stream: Any) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")


def _plain(value: Any) -> str:
    """A value as text: whole numbers without a fraction, nothing for what is missing."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
