"""The voxel block of a NRRD or MetaImage file: raw bytes, or one gzip or zlib stream, of the size its header promises.

Never inflates more than was promised, and takes no data file outside the header's folder.
"""

from __future__ import annotations

import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.archive import DEFLATE_RATIO
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import refused

TRAILING_LIMIT = 1 << 20  # bytes behind the voxels that are inflated only to reach the checksum
SHORT = "the file holds fewer voxels than its header promises"

HEADER_LIMIT = 1 << 20  # bytes; a text header has a few hundred


def data_place(header: Place, name: str) -> Place:
    """The data file that a header names. Raises Refused if it lies outside the header's folder or is missing."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise refused("path_escape", "the header names a data file outside its own folder")
    place = header.sibling(name)
    if not place.exists():
        raise refused("unreadable", "the header's data file is missing")
    return place


def is_gzip(place: Place) -> bool:
    with place.open() as stream:
        return stream.read(2) == b"\x1f\x8b"


@dataclass(frozen=True)
class Block:
    """Where voxels lie: behind `offset` bytes of the file, and `skip` more of what these hold when inflated."""

    place: Place
    compressed: bool
    offset: int = 0
    skip: int = 0

    def read(self, dtype: np.dtype[Any], shape_zyx: tuple[int, int, int]) -> NDArray[Any]:
        """(z, y, x) voxels. Raises Refused where they end early or their checksum is wrong, OSError."""
        expected = self.skip + math.prod(shape_zyx) * dtype.itemsize
        self._check_promise(expected)
        with self.place.open() as stream:
            stream.seek(self.offset)
            data = _inflated(stream.read(), expected) if self.compressed else stream.read(expected)
        if len(data) < expected:
            raise refused("truncated", SHORT, bytes=len(data), expected_bytes=expected)
        return np.frombuffer(data, dtype=dtype, offset=self.skip).reshape(shape_zyx)

    def _check_promise(self, expected: int) -> None:
        """Refuse what a file of this size cannot hold, before memory is taken for it."""
        stored = self.place.size() - self.offset
        if expected > stored * (DEFLATE_RATIO if self.compressed else 1):
            raise refused("truncated", SHORT, bytes=stored, expected_bytes=expected)


def _inflated(data: bytes, expected: int) -> bytes:
    """The first `expected` bytes of one gzip or zlib stream (or several gzip members), its checksums verified."""
    out, rest = b"", data
    try:
        while rest and len(out) < expected:
            inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, told apart by its header
            part = inflater.decompress(rest, expected - len(out))
            beyond = inflater.decompress(inflater.unconsumed_tail, TRAILING_LIMIT)  # to the checksum
            out, rest = (out + part if out else part), inflater.unused_data
            if not inflater.eof:
                reason = "truncated" if len(beyond) < TRAILING_LIMIT else "corrupt"
                raise refused(reason, "the compressed data do not end where the header's voxels end")
    except zlib.error:
        raise refused("corrupt", "the compressed data are damaged") from None
    return out


def header_text(place: Place, end: re.Pattern[bytes]) -> tuple[str, int]:
    """(text of the header, offset behind it), up to the first match of `end` or the whole file.

    Raises Refused if the header does not end within HEADER_LIMIT, OSError.
    """
    with place.open() as stream:
        head = stream.read(HEADER_LIMIT)
    match = end.search(head)
    if match is None and len(head) == HEADER_LIMIT:
        raise refused("corrupt", "the text header does not end", limit_bytes=HEADER_LIMIT)
    offset = match.end() if match else len(head)
    return head[:offset].decode("latin-1"), offset


def vector(words: str, count: int) -> list[float] | None:
    """`count` finite numbers out of text parted by blanks or commas, or None."""
    try:
        values = [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None
