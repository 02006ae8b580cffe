"""From what a user names as SOURCE to single files: folders of any depth, globs, s3:// prefixes, members of archives.

Walks in sorted order, a folder's own files before its subfolders (objects in their server's order), keeps no list of
all, and looks into no file; what a file is, sniff.py says. What a manifest names comes here row by row (manifest.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from semgen_platform.errors import InputError
from semgen_platform.formats import archive, files, remote
from semgen_platform.formats.place import Place, Validator
from semgen_platform.formats.refusing import Refused

WILDCARDS = "*?["
ANY_DEPTH = "**"
ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")  # of objects, which are not asked for one by one
BATCH_FILES = 256
LAKE_FILE, LAKE_KEYS = "lake.json", {"format", "lake_id", "key_fingerprint"}


@dataclass(frozen=True, slots=True)
class Root:
    """What one SOURCE, or one row of a manifest, stands for.

    address : as it was given, for messages.  path : folder, file, archive or prefix that is walked.  base : folder
    below which files are named; "" for what only the server of `path` knows.  pattern : of a glob, the parts behind
    `path`.  inside : parts of a path or glob in the archive at `path`.  required : whether nothing there ends the
    listing; else it is one source that is refused.
    """

    address: str
    path: str
    base: str
    pattern: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    required: bool = True


@dataclass(frozen=True, slots=True)
class Found:
    """One file. relative : its path below the root's base, and the member of an archive.  fetched : the object with its
    first bytes, or why it cannot be read; None for what is opened when it is looked at."""

    place: Place
    relative: tuple[str, ...]
    fetched: remote.S3File | OSError | None = None

    def open(self) -> tuple[Validator, BinaryIO]:
        """The validator from before the first byte was read, and the stream. Raises Refused, OSError."""
        if isinstance(self.fetched, OSError):
            raise self.fetched
        if self.fetched is not None or (files.is_remote(self.place.path) and not self.place.member):
            stream = remote.S3File(self.place.path, remote.HEAD_BYTES) if self.fetched is None else self.fetched
            return stream.validator, files.buffered(stream)
        return self.place.validator(), self.place.open()


@dataclass(frozen=True, slots=True)
class Batch:
    """Files that follow each other. still_open : the folder of which, and of those above it, more files may follow."""

    found: Iterable[Found]
    still_open: str = ""


def root_at(address: str, *, base: str | None = None, required: bool = True) -> Root:
    """The root that an address stands for. Raises InputError for a required local path that is not there; what else is
    not there shows when it is walked.

    base : below which its files are named; else the folder itself, that of a file or archive, or that of a glob before
    its first wildcard.
    """
    fixed, pattern = _divided(files.absolute(address))
    if files.is_remote(fixed):
        return Root(address, fixed, base or "", pattern, required=required)
    outer = fixed if os.path.lexists(fixed) else next((p for p in _above(fixed) if os.path.lexists(p)), "/")
    if (outer != fixed or pattern) and Path(outer).is_file():
        inside = (*(files.below(fixed, outer) or "").split("/"), *pattern) if outer != fixed else pattern
        return Root(address, outer, base or files.parent(outer), (), inside, required)
    if required and not pattern and not Path(fixed).exists():
        raise InputError(f"source {address} does not exist; give a folder or a file of scans")
    folder = fixed if pattern or Path(fixed).is_dir() else files.parent(fixed)
    return Root(address, fixed, base or folder, pattern, required=required)


def walk(root: Root) -> Iterator[Batch]:
    """All files of a root. Raises InputError where a required root has none, or its server does not answer."""
    empty = True
    try:
        for batch in _walk(root):
            empty = False
            yield batch
    except (remote.ServerGone, remote.Unhelpful):
        named = root.address if root.required else "of a manifest"
        raise InputError(
            f"source {named} cannot be listed: its server does not answer, or does not know the bucket; see "
            "that AWS_ENDPOINT_URL, the keys and the bucket's name are right, and run again"
        ) from None
    except FileNotFoundError:
        if root.required:
            raise InputError(f"source {root.address} does not exist: the server knows no such bucket") from None
    except PermissionError:
        if root.required:
            raise InputError(f"source {root.address} cannot be listed: these keys may not; give others") from None
    if empty and root.required:
        raise InputError(_nothing(root))
    if empty:
        place = Place("/".join((root.path, *root.pattern)), "/".join(root.inside))
        yield Batch([Found(place, _relative(root, place))])


def _nothing(root: Root) -> str:
    if root.pattern:
        return f"source {root.address} matches no file; quote a glob, and see that files below {root.path} fit it"
    if root.inside:
        return f"source {root.address} does not exist: the archive has no such member"
    if files.is_remote(root.path):
        return f"source {root.address} holds no object; give a bucket and prefix of scans"
    return f"source {root.address} holds no file; give a folder of scans"


def _walk(root: Root) -> Iterator[Batch]:
    if root.inside:
        yield from _members(root, root.path, root.inside)
    elif files.is_remote(root.path):
        yield from _objects(root)
    elif os.path.lexists(root.path):
        for paths, still_open in _files(root.path, root.pattern):
            yield Batch([_found(root, Place(path)) for path in paths], still_open)


def _found(root: Root, place: Place) -> Found:
    return Found(place, _relative(root, place))


def _relative(root: Root, place: Place) -> tuple[str, ...]:
    """What stands for the file's path in its name: from the base on, or whole where it lies elsewhere."""
    name = files.below(place.path, root.base)
    return tuple(part for part in (place.path if name is None else name, place.member) if part)


def _above(path: str) -> Iterator[str]:
    """The folders above a path, the nearest first; for an object up to its bucket."""
    while path != "/" and path.strip("/") != remote.SCHEME.strip("/"):
        path = files.parent(path)
        yield path


# --- globs ---


def _divided(path: str) -> tuple[str, tuple[str, ...]]:
    """(what stands before the first part with a wildcard, the parts from there on). A path that is there is no glob."""
    if not files.is_remote(path) and os.path.lexists(path):
        return path, ()
    parts = path.split("/")
    first = next((n for n, part in enumerate(parts) if any(c in part for c in WILDCARDS)), len(parts))
    return "/".join(parts[:first]) or "/", tuple(parts[first:])


def matches(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path, or a folder above it, fits a glob; both in parts. `**` stands for any number of folders, and no
    wildcard for a first dot, as in a shell."""
    states = begin(pattern)
    for part in parts:
        states = step(states, pattern, part)
    return len(pattern) in states


def begin(pattern: Sequence[str]) -> frozenset[int]:
    """Where in a glob a path may be before its first part: numbers of parts of the glob that are done."""
    return _with_no_folders({0}, pattern)


def step(states: frozenset[int], pattern: Sequence[str], part: str) -> frozenset[int]:
    """Where in the glob a path may be after one part more. The glob is fitted where `len(pattern)` is among it, and
    nothing below can fit it where there is nothing."""
    after = set[int]()
    for done in states:
        if done == len(pattern):
            after.add(done)  # below what fits
        elif part == pattern[done]:
            after.add(done + 1)
        elif part.startswith(".") and not pattern[done].startswith("."):
            continue
        elif pattern[done] == ANY_DEPTH:
            after.update((done, done + 1))
        elif fnmatchcase(part, pattern[done]):
            after.add(done + 1)
    return _with_no_folders(after, pattern)


def _with_no_folders(states: set[int], pattern: Sequence[str]) -> frozenset[int]:
    """And where it may be if `**` stands for none; the last part of a glob stands for one at least."""
    for done in range(len(pattern) - 1):
        if done in states and pattern[done] == ANY_DEPTH:
            states.add(done + 1)
    return frozenset(states)


# --- local folders ---


def _files(path: str, pattern: tuple[str, ...]) -> Iterator[tuple[list[str], str]]:
    """The sorted files of each folder that fit, some at a time, and the folder while more of it follow. A folder that a
    link leads back to is entered once, and a lake of ours never: it grows by what is read from around it."""
    if not Path(path).is_dir():
        yield [path], ""
        return
    pending, entered = [(path, begin(pattern))], set[tuple[int, int]]()
    while pending:
        folder, states = pending.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            names, folders = ([], []) if _is_lake(folder) else _entries(folder, states, pattern)
        except OSError:
            yield [folder], ""  # refused as unreadable where it is looked at
            continue
        entered.add((status.st_dev, status.st_ino))
        start = folder.rstrip("/")
        pending.extend((f"{start}/{name}", after) for name, after in sorted(folders, reverse=True))
        for first in range(0, len(names), BATCH_FILES):
            paths = [f"{start}/{name}" for name in names[first : first + BATCH_FILES]]
            yield paths, folder if first + BATCH_FILES < len(names) else ""


def _is_lake(folder: str) -> bool:
    """By the keys of its lake.json (lake/lake.py), which this room does not read otherwise."""
    try:
        return LAKE_KEYS.issubset(json.loads(Path(folder, LAKE_FILE).read_bytes()).keys())
    except (OSError, ValueError, AttributeError):
        return False


def _entries(
    folder: str, states: frozenset[int], pattern: tuple[str, ...]
) -> tuple[list[str], list[tuple[str, frozenset[int]]]]:
    """(sorted names of the files that fit, (name, states) of the folders in which files may)."""
    names: list[str] = []
    folders: list[tuple[str, frozenset[int]]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            after = step(states, pattern, entry.name)
            if after and _is_folder(entry):
                folders.append((entry.name, after))
            elif len(pattern) in after:
                names.append(entry.name)
    return sorted(names), folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # refused as unreadable where it is looked at


# --- archives and buckets ---


def _members(root: Root, path: str, inside: tuple[str, ...]) -> Iterator[Batch]:
    """Members of one archive by path, folder or glob; all of it is refused with the archive."""
    root = replace(root, base=root.base or files.parent(path))
    try:
        names = [m.name for m in archive.members(path) if matches(inside, m.name.split("/"))]
    except (Refused, OSError):
        names = ["/".join(inside)]
    for start in range(0, len(names), BATCH_FILES):
        yield Batch([_found(root, Place(path, name)) for name in names[start : start + BATCH_FILES]], path)


def _objects(root: Root) -> Iterator[Batch]:
    """The object that has the address itself, and those below it, page by page; else members of an archive."""
    some, below = False, replace(root, base=root.base or root.path)
    alone = None if root.pattern or not remote.parts_of(root.path)[1] else _object(root)
    if alone is not None:
        yield Batch([alone])
        if not root.required:
            return  # a row of a manifest, of which there are many
    for page in remote.objects(root.path):
        fitting = [(url, size) for url, size in page if matches(root.pattern, _parts_below(url, root.path))]
        if fitting:
            some = True
            yield Batch(_fetched(below, fitting), files.parent(fitting[-1][0]))
    if some or alone is not None:
        return
    whole = "/".join((root.path, *root.pattern))
    archives = (path for path in _above(whole) if path.lower().endswith(ARCHIVE_ENDINGS) and files.is_file(path))
    if outer := next(archives, None):
        yield from _members(root, outer, _parts_below(whole, outer))


def _object(root: Root) -> Found | None:
    """The object at the root's own address, if there is one that holds anything."""
    try:
        fetched = remote.S3File(root.path, remote.HEAD_BYTES)
    except (FileNotFoundError, PermissionError):
        return None  # these keys may be good for the prefix alone
    named = replace(root, base=root.base or files.parent(root.path))
    return replace(_found(named, Place(root.path)), fetched=fetched) if fetched.size else None


def _parts_below(path: str, folder: str) -> tuple[str, ...]:
    return tuple((files.below(path, folder) or "").split("/"))


def _fetched(root: Root, objects: Sequence[tuple[str, int]]) -> Iterator[Found]:
    """The objects with their first bytes. A folder that some tools keep as an empty object is none."""
    for (url, size), fetched in zip(objects, remote.opened(url for url, _ in objects), strict=True):
        if size or not isinstance(fetched, FileNotFoundError):
            yield replace(_found(root, Place(url)), fetched=fetched)
