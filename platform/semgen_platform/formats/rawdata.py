"""The voxels of a NIfTI, NRRD or MetaImage file: raw bytes or a compressed stream, of the size its header promises.

Read into one array, and never more than was promised. Takes no data file outside the header's folder.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.archive import DEFLATE_RATIO
from semgen_platform.formats.inflating import inflate_into
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import refused

SHORT = "the file holds fewer voxels than its header promises"

HEADER_LIMIT = 1 << 20  # bytes; a text header has a few hundred
READ_BYTES = 1 << 20  # at once, for any kind of stream; a cache holds them


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
        data = np.empty(expected, dtype=np.uint8)
        with self.place.open() as stream:
            stream.seek(self.offset)
            found = inflate_into(data, stream) if self.compressed else _read_into(data, stream)
        if found < expected:
            raise refused("truncated", SHORT, bytes=found, expected_bytes=expected)
        return data[self.skip :].view(dtype).reshape(shape_zyx)

    def _check_promise(self, expected: int) -> None:
        """Refuse what a file of this size cannot hold, before memory is taken for it."""
        stored = self.place.size() - self.offset
        if expected > stored * (DEFLATE_RATIO if self.compressed else 1):
            raise refused("truncated", SHORT, bytes=stored, expected_bytes=expected)


def _read_into(out: NDArray[np.uint8], stream: BinaryIO) -> int:
    """Fill `out` with what follows in the stream; how many bytes there were for it."""
    filled = 0
    while filled < len(out) and (part := stream.read(min(READ_BYTES, len(out) - filled))):
        out[filled : filled + len(part)] = np.frombuffer(part, np.uint8)
        filled += len(part)
    return filled


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
