"""DICOM files whose data set is one deflate stream, as the plain files that they would be; within bounds.

pydicom inflates all of such a file, so that a small one could take all memory, in a listing already. Sources: DICOM
PS3.5 section A.5 (deflated explicit VR little endian), PS3.10 section 7.1 (the meta header is never deflated).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO

from semgen_platform.formats.refusing import refused

DEFLATED, PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
HEAD_BYTES, META_LIMIT = 1 << 12, 1 << 20  # the meta header has some hundred bytes
RATIO_LIMIT, FREE_BYTES = 200, 1 << 28
"""A file may grow by this factor, and the first 256 MiB are free: CT grows two- to fivefold, empty slices more."""


def plain(stream: BinaryIO) -> BinaryIO:
    """The same stream, or what it is when inflated. Raises Refused for one that ends early or grows without measure."""
    head = stream.read(HEAD_BYTES)
    start = _end_of_meta(head)
    if start >= len(head):
        head += stream.read(META_LIMIT)
        start = _end_of_meta(head)
    stream.seek(0)
    if DEFLATED not in head[:start]:
        return stream
    meta, body = stream.read(start), stream.read()
    limit = max(FREE_BYTES, RATIO_LIMIT * len(body))
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    data = inflater.decompress(body, limit)
    if inflater.unconsumed_tail:
        sentence = f"the file grows more than {RATIO_LIMIT}-fold when it is inflated"
        raise refused("decompression_bomb", sentence, bytes=len(body), limit_ratio=RATIO_LIMIT)
    if not inflater.eof:
        raise refused("truncated", "the deflated data set ends early", bytes=len(body))
    return io.BytesIO(meta.replace(DEFLATED, PLAIN) + data)


def _end_of_meta(data: bytes) -> int:
    """Offset behind the elements of group 2, which are explicit and little endian in every file."""
    at = 132 if data[128:132] == b"DICM" else 0
    while at + 12 <= len(data) and data[at : at + 2] == b"\x02\x00":
        if data[at + 4 : at + 6] in (b"OB", b"UN"):
            at += 12 + struct.unpack("<I", data[at + 8 : at + 12])[0]
        else:
            at += 8 + struct.unpack("<H", data[at + 6 : at + 8])[0]
    return at
