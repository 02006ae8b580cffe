"""Bytes and what they hold: gzip, zip and PNG opened, escapes of JSON, HTML, URLs and Python undone, UTF-16 decoded.

For the search for canaries (canaries.py), so nothing here guesses: what is named as compressed and is not raises.
Sources: PNG (W3C) section 11.3.4 (tEXt, zTXt, iTXt), RFC 8259 section 7, RFC 3986 section 2.1.
"""

from __future__ import annotations

import html
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

INFLATED_LIMIT = 1 << 30
DEEPEST = 3  # archives in archives, and escapes of escapes
TEXT_SAMPLE = 1 << 16
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
UTF16_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
ESCAPE = re.compile(rb"((?:\\u[0-9a-fA-F]{4})+)|((?:\\x[0-9a-fA-F]{2})+)|\\([\"'\\/bfnrt])")


class CannotOpen(Exception):
    """What is compressed is damaged or larger than INFLATED_LIMIT, so that nobody can say what it holds."""


def is_text(data: bytes) -> bool:
    return b"\0" not in data[:TEXT_SAMPLE]


def unwrapped(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """The bytes, and then all that they hold in another form. Raises CannotOpen."""
    yield data
    if depth == DEEPEST:
        return
    try:
        for inner in _opened(data):
            yield from unwrapped(inner, depth + 1)
    except (zlib.error, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CannotOpen(type(error).__name__) from None
    if is_text(data):
        yield from _unescaped(data)


def _opened(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\x1f\x8b"):
        yield _inflated(data)
    elif data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            yield "\n".join(archive.namelist()).encode("utf-8", "surrogateescape")
            if sum(member.file_size for member in archive.infolist()) > INFLATED_LIMIT:
                raise CannotOpen("too large")
            yield from (archive.read(member) for member in archive.infolist())
    elif data.startswith(PNG_MAGIC):
        yield from _png_texts(data)
    elif data[:2] in UTF16_MARKS:
        yield data[2:].decode(UTF16_MARKS[data[:2]], "replace").encode()


def _inflated(data: bytes) -> bytes:
    """All members of a gzip file."""
    out = bytearray()
    while data.startswith(b"\x1f\x8b"):
        inflater = zlib.decompressobj(wbits=31)
        out += inflater.decompress(data, INFLATED_LIMIT + 1 - len(out))
        if len(out) > INFLATED_LIMIT:
            raise CannotOpen("too large")
        if not inflater.eof:
            raise CannotOpen("cut")
        data = inflater.unused_data.lstrip(b"\0")
    return bytes(out)


def _png_texts(data: bytes) -> Iterator[bytes]:
    """Every text chunk; compressed text behind its keyword is inflated."""
    place = len(PNG_MAGIC)
    while place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        body = data[place + 8 : place + 8 + length]
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            keyword, _, rest = body.partition(b"\0")
            yield keyword + b"\n" + _png_value(kind, rest)
        place += 12 + length


def _png_value(kind: bytes, rest: bytes) -> bytes:
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return zlib.decompressobj().decompress(rest[1:], INFLATED_LIMIT)
    compressed, (language, translated, text) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
    text = zlib.decompressobj().decompress(text, INFLATED_LIMIT) if compressed else text
    return b"\n".join((language, translated, text))


def _unescaped(data: bytes) -> Iterator[bytes]:
    """The text with one layer of escapes after another undone, as long as that changes it."""
    for _ in range(DEEPEST):
        before = data
        if b"\\" in data:
            data = ESCAPE.sub(_character, data)
        if b"%" in data:
            data = unquote_to_bytes(data)
        if b"&" in data:
            data = html.unescape(data.decode("utf-8", "replace")).encode("utf-8", "replace")
        if data == before:
            return
        yield data


def _character(match: re.Match[bytes]) -> bytes:
    utf16, raw, single = match.groups()
    if utf16:
        units = bytes.fromhex(utf16.replace(b"\\u", b"").decode("ascii"))
        return units.decode("utf-16-be", "replace").encode("utf-8", "replace")
    if raw:
        return bytes.fromhex(raw.replace(b"\\x", b"").decode("ascii"))
    return b" " if single in b"bfnrt" else bytes(single)
