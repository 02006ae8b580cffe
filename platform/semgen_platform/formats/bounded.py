"""DICOM parsing with bounds: bytes and steps of a header, and what a deflated data set may grow to.

pydicom reads what a file asks it to read, and inflates a deflated data set whole before it looks at it; both are
decided by the file. Source of the deflated transfer syntax: DICOM PS3.5 section A.5.
"""

from __future__ import annotations

import io
import zlib
from typing import Any, BinaryIO

from semgen_platform.formats.refusing import Refused, refused

HEADER_BYTES = 2**26
"""64 MiB: a hundred times the header of a long multi-frame object."""
HEADER_READS = 2_000_000
"""Each element costs one at least: some seconds of parsing, and far beyond a multi-frame header of 5,000 frames."""
INFLATED_RATIO, INFLATED_FREE = 200, 2**28
"""A deflated data set may grow by this factor, and the first 256 MiB are free; CT grows two- to fivefold."""
DEFLATED_UID, EXPLICIT_UID = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"


class _AsksForAll(Exception):
    """pydicom wants the rest of the file at once, which it does of a deflated data set only."""


class _Bounded:
    """A stream that counts what is read of it; what is skipped by `seek` costs nothing."""

    name = ""  # pydicom asks

    def __init__(self, stream: BinaryIO, limit_bytes: int | None, size: int) -> None:
        self._stream, self._left, self._reads, self._size = stream, limit_bytes, 0, size
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise _AsksForAll
        if self._left is None:  # a false length takes no memory
            return self._stream.read(min(size, max(0, self._size - self.tell())))
        data = self._stream.read(min(size, self._left + 1))
        self._left -= len(data)
        self._reads += 1
        if self._left < 0:
            raise _too_large()
        if self._reads > HEADER_READS:
            raise refused("too_large", "the DICOM header has more elements than are read", limit=HEADER_READS)
        return data


def _too_large() -> Refused:
    return refused("too_large", "the DICOM header is larger than is read", limit_bytes=HEADER_BYTES)


def read_dicom(stream: BinaryIO, size: int, *, pixels: bool, tags: list[str] | None) -> Any:
    """The pydicom dataset of a seekable stream, from where it stands.

    size : bytes of the whole stream, where pixels are read.
    pixels : whether all of it is read; else the header alone, within bounds.  tags : the elements wanted, or all.
    Raises Refused beyond a bound, OSError, and whatever pydicom's parsers meet in a damaged file.
    """
    start, limit_bytes = stream.tell(), None if pixels else HEADER_BYTES
    try:
        return _parsed(stream, size, limit_bytes, pixels, tags)
    except _AsksForAll:
        behind = stream.tell()
    stream.seek(start)
    head = stream.read(behind - start)
    body = _inflated(stream, limit_bytes)
    plain = io.BytesIO(head.replace(DEFLATED_UID, EXPLICIT_UID) + body)
    try:
        dataset = _parsed(plain, len(head) + len(body), limit_bytes, pixels, tags)
    except _AsksForAll:
        raise refused("corrupt", "the DICOM header does not say clearly how it is encoded") from None
    if limit_bytes is not None and len(body) > limit_bytes and plain.tell() >= len(head) + len(body):
        raise _too_large()  # what was inflated ends before the pixels
    return dataset


def _parsed(stream: BinaryIO, size: int, limit_bytes: int | None, pixels: bool, tags: list[str] | None) -> Any:
    import pydicom

    bounded: Any = _Bounded(stream, limit_bytes, size)
    return pydicom.dcmread(bounded, stop_before_pixels=not pixels, specific_tags=tags, force=True)


def _inflated(stream: BinaryIO, header_bytes: int | None) -> bytes:
    """The deflated data set that follows, or what a header may have of it.

    Raises Refused where it grows too much, ends early or is damaged.
    """
    data = stream.read(-1 if header_bytes is None else header_bytes)
    limit = max(INFLATED_FREE, INFLATED_RATIO * len(data)) if header_bytes is None else header_bytes
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(data, limit + 1)
    except zlib.error:
        raise refused("corrupt", "the deflated data set is damaged") from None
    if header_bytes is None and len(body) > limit:
        sentence = f"the deflated data set grows more than {INFLATED_RATIO}-fold"
        raise refused("decompression_bomb", sentence, bytes=len(data), limit_ratio=INFLATED_RATIO)
    if not inflater.eof and len(body) <= limit and len(data) != header_bytes:
        raise refused("truncated", "the deflated data set ends early", bytes=len(data))
    return body
