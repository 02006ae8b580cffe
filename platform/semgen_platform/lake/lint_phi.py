"""The search of a lake, and of files beside it, for strings that must not be there.

Every file is searched: its name, its bytes, what these hold when opened and unescaped (privacy/unwrapping.py); Parquet
files column by column, so those of every version of every table and of the Delta log; Zarr arrays voxel by voxel. What
is found is told by place and by the canary's line number. No canary is repeated, and a name that holds one is masked.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from semgen_platform.errors import Damage, InputError, LakeError
from semgen_platform.lake.shard_bytes import MappedShard
from semgen_platform.lake.shards import CHUNK, METADATA, StoredLevel, shard_key
from semgen_platform.privacy.canaries import BINARY, SHORTEST, TEXT, VOXELS, Canaries, Hit
from semgen_platform.privacy.unwrapping import CannotOpen, is_text, unwrapped
from semgen_platform.progress import Progress

MASK = "<canary>"
PARQUET_MAGIC = b"PAR1"


@dataclass(frozen=True, order=True)
class Found:
    """where : a file below the lake or below a given path, and the column of a table.  line : of the canary."""

    where: str
    line: int
    form: str


@dataclass(frozen=True)
class Lint:
    """What a search came to. unread : places that could not be searched through."""

    found: Sequence[Found]
    unread: Sequence[str]
    files: int
    bytes: int


def read_canaries(path: Path) -> Canaries:
    """The canaries of a text file, one a line. Raises InputError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"canaries {path} cannot be read ({type(error).__name__}); give a UTF-8 text file") from None
    short = [n for n, line in enumerate(lines, start=1) if 0 < len(line.strip()) < SHORTEST]
    if short:
        raise InputError(
            f"line {short[0]} of {path} has fewer than {SHORTEST} characters, which occur by chance; give longer ones"
        )
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} holds no canary; give one a line")
    return Canaries(lines)


def lint(lake_root: Path, paths: Sequence[Path], canaries: Canaries, *, quiet: bool = False) -> Lint:
    """Search a lake's folder, and further files and folders. Raises InputError where one of these is missing."""
    for path in paths:
        if not path.exists():
            raise InputError(f"{path} does not exist; give a file or folder to be searched")
    search = _Search(canaries)
    with Progress("lint-phi: searching", quiet=quiet) as progress:
        for root, base in [(lake_root, lake_root), *((path.absolute(), path.absolute().parent) for path in paths)]:
            for entry in _entries(root):
                search.entry(entry, entry.relative_to(base))
                progress.advance()
    found = sorted(Found(where, line, form) for (where, line), form in search.found.items())
    return Lint(found, search.unread, search.files, search.bytes)


def _entries(root: Path) -> Iterator[Path]:
    """The root and everything below it, folders too, without following links."""
    yield root
    for folder, folders, files in os.walk(root):
        folders.sort()
        yield from (Path(folder) / name for name in sorted([*folders, *files]))


class _Search:
    """Searches entry after entry and keeps what is found: {(where, line): form}."""

    def __init__(self, canaries: Canaries) -> None:
        self._canaries = canaries
        self.found: dict[tuple[str, int], str] = {}
        self.unread: list[str] = []
        self.files = self.bytes = 0

    def entry(self, path: Path, relative: Path) -> None:
        """Search the name of a file, folder or link, and a file's contents or a link's target."""
        shown = "/".join(MASK if self._canaries.find(os.fsencode(part)) else part for part in relative.parts) or "."
        above = self._canaries.find(os.fsencode(relative.parent))  # told there already
        self._keep(f"{shown} (its name)", self._canaries.find(os.fsencode(relative)) - above)
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                self._keep(f"{shown} (its target)", self._canaries.find(os.fsencode(os.readlink(path))))
            elif stat.S_ISREG(mode):
                self._file(path, shown)
        except (OSError, CannotOpen, Damage, LakeError, pa.ArrowException):
            self.unread.append(shown)

    def _file(self, path: Path, shown: str) -> None:
        data = path.read_bytes()
        self.files += 1
        self.bytes += len(data)
        self._bytes(data, shown)
        if data.startswith(PARQUET_MAGIC):
            for column, text in parquet_texts(data):
                self._bytes(text, f"{shown} column {column}")
        if path.name == METADATA and _is_array(data):
            self._voxels(path.parent, shown)

    def _bytes(self, data: bytes, where: str) -> None:
        for piece in unwrapped(data):
            self._keep(where, self._canaries.find(piece, TEXT if is_text(piece) else BINARY))

    def _voxels(self, folder: Path, shown: str) -> None:
        """The voxels of an array as they lie in memory, one layer of chunks after another."""
        metadata = (folder / METADATA).read_bytes()
        level = StoredLevel(metadata, lambda number: MappedShard(folder / shard_key(number)), shown)
        depth, height, width = level.shape_zyx
        for z in range(0, depth, CHUNK):
            slab = level.read((z, 0, 0), (min(z + CHUNK, depth), height, width))
            self.bytes += slab.nbytes
            self._keep(f"{shown} (voxels)", self._canaries.find(slab.tobytes(), VOXELS))

    def _keep(self, where: str, hits: set[Hit]) -> None:
        for hit in sorted(hits):
            self.found.setdefault((where, hit.line), hit.form)


def _is_array(metadata: bytes) -> bool:
    try:
        return bool(json.loads(metadata).get("node_type") == "array")
    except (ValueError, AttributeError):
        return False


def parquet_texts(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(column, every value in it as text, one a line) of a Parquet file; what is nested lies under its column."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(data))
    for name in table.column_names:
        for chunk in table[name].chunks:
            yield from ((name, _as_text(leaf)) for leaf in _leaves(chunk))


def _leaves(array: Any) -> Iterator[Any]:
    """The arrays of plain values that a nested array is made of."""
    kind = array.type
    if pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(array.flatten())
    elif pa.types.is_struct(kind):
        for inner in array.flatten():
            yield from _leaves(inner)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(array.dictionary_decode())
    else:
        yield array


def _as_text(leaf: Any) -> bytes:
    if pa.types.is_floating(leaf.type) or pa.types.is_integer(leaf.type):
        leaf = leaf.cast(pa.string())  # in Arrow, since vectors are many
    values = (value for value in leaf.to_pylist() if value is not None)
    return b"\n".join(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace") for value in values)
