"""Files that are no members of an archive: local ones, and objects at s3://bucket/key (remote.py)."""

from __future__ import annotations

import io
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from semgen_platform.formats import remote
from semgen_platform.formats.refusing import refused

BUFFER_BYTES = 2**16  # of a remote stream: many small reads of a parser become few


def is_remote(path: str) -> bool:
    return path.startswith(remote.SCHEME)


def absolute(path: str) -> str:
    """The address in the one form that places and names are made of."""
    if is_remote(path):
        bucket, key = remote.parts_of(path)
        return f"{remote.SCHEME}{bucket}/{key}" if key else f"{remote.SCHEME}{bucket}"
    return str(Path(path).absolute())


def open_file(path: str) -> BinaryIO:
    """The bytes as a seekable stream. Raises OSError."""
    return buffered(remote.S3File(path)) if is_remote(path) else Path(path).open("rb")


def buffered(stream: remote.S3File) -> BinaryIO:
    return io.BufferedReader(stream, BUFFER_BYTES)


def is_file(path: str) -> bool:
    """Whether such a file or object is there. Raises OSError where a server does not say."""
    return remote.exists(path) if is_remote(path) else Path(path).is_file()


def validator(path: str) -> tuple[int, int]:
    """(size, mtime_ns or digest of the etag). Raises Refused for what is no regular file, OSError."""
    if is_remote(path):
        return remote.validator(path)
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise refused("not_an_image", "this is no regular file but a pipe, socket or device")
    return status.st_size, status.st_mtime_ns


def parent(path: str) -> str:
    """The folder or prefix that a file lies in."""
    return path.rpartition("/")[0] or "/"


def below(path: str, base: str) -> str | None:
    """The path from `base` on, or None for one that does not lie below it."""
    start = base if base.endswith("/") else f"{base}/"
    return path[len(start) :] if path.startswith(start) else None


def common(paths: Iterable[str]) -> str:
    """The one path, or the folder that holds them all."""
    every = set(paths)
    if len(every) == 1:
        return every.pop()
    if not all(is_remote(path) for path in every):
        return posixpath.commonpath(every)
    shared = posixpath.commonpath([f"/{path.removeprefix(remote.SCHEME)}" for path in every])
    return f"{remote.SCHEME}{shared.lstrip('/')}"
