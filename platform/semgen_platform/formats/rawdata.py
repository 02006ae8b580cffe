"""The voxel block of a NRRD or MetaImage file: raw bytes, or one gzip or zlib stream, of the size its header promises.

Never inflates more than was promised, and takes no data file outside the header's folder.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.refusing import refused

DEFLATE_RATIO = 1032
"""No deflate stream grows by more, so that a larger promise is a lie found before memory is taken for it."""

HEADER_LIMIT = 1 << 20  # bytes; a text header is a few hundred


def data_path(header: Path, name: str) -> Path:
    """The data file that a header names. Raises Refused if it lies outside the header's folder or is missing."""
    path = header.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise refused("path_escape", "the header names a data file outside its own folder")
    if not path.is_file():
        raise refused("unreadable", "the header's data file is missing")
    return path


def check_promise(expected_bytes: int, file_bytes: int, *, compressed: bool) -> None:
    """Raise Refused if a file of this size cannot hold the voxels that its header promises."""
    if expected_bytes > file_bytes * (DEFLATE_RATIO if compressed else 1):
        sentence = "the file holds fewer voxels than its header promises"
        raise refused("truncated", sentence, file_bytes=file_bytes, expected_bytes=expected_bytes)


def read_block(
    path: Path, offset: int, dtype: np.dtype[Any], shape_zyx: tuple[int, int, int], *, compressed: bool
) -> NDArray[Any]:
    """(z, y, x) voxels that begin at byte `offset` of a file; `compressed` for gzip or zlib. Raises Refused, OSError."""
    expected = math.prod(shape_zyx) * dtype.itemsize
    check_promise(expected, path.stat().st_size - offset, compressed=compressed)
    with path.open("rb") as stream:
        stream.seek(offset)
        data = _inflate(stream.read(), expected) if compressed else stream.read(expected)
    if len(data) < expected:
        raise refused("truncated", "the voxel data end early", bytes=len(data), expected_bytes=expected)
    return np.frombuffer(data, dtype=dtype).reshape(shape_zyx)


def _inflate(data: bytes, expected: int) -> bytes:
    inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, told apart by its header
    try:
        out = inflater.decompress(data, expected)
    except zlib.error:
        raise refused("corrupt", "the compressed voxel data are damaged") from None
    return out


def header_text(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """(text of the header, offset behind it), up to the first match of `end` or the whole file.

    Raises Refused if the header does not end within HEADER_LIMIT, OSError.
    """
    with path.open("rb") as stream:
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
