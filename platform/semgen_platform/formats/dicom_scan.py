"""The header of an ordinary DICOM file in one pass over its first bytes, and where its pixels lie.

An archive has millions of files, nearly all of them little endian with explicit or implicit value representations
(VR). Of such a file the wanted elements are found here; their values are converted by pydicom, once for equal bytes.
Whatever is unusual in any way is left to pydicom as a whole, so that it alone says what a strange file means: a file
without preamble, another encoding, a wanted sequence, an unknown VR, a nesting that does not close where it should.
Sources: DICOM PS3.5 section 7 (data elements, nesting) and annex A.1 and A.2, PS3.10 section 7.1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

HEAD_SIZES = (1 << 14, 1 << 20)
"""Bytes read at first, and again where the header is longer; headers of CT slices have two to ten thousand."""
PREAMBLE, PREFIX = 128, b"DICM"
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
COMPRESSED = re.compile(r"1\.2\.840\.10008\.1\.2\.(5|4\.\d+)")  # RLE, JPEG and its successors: explicit little endian
META_TAGS = {0x00020010: "TransferSyntaxUID", 0x00020002: "MediaStorageSOPClassUID"}
ONE_UID = re.compile(rb"([0-9.]+)[\0 ]?")

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""With a length of 16 bits, and of 32 bits behind two reserved bytes (PS3.5 section 7.1.2)."""
UNDEFINED = 0xFFFFFFFF
DELIMITERS, ITEM, ITEM_END, SEQUENCE_END = 0xFFFE, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
CHARACTER_SET, PIXEL_REPRESENTATION, PIXEL_DATA = 0x00080005, 0x00280103, 0x7FE00010
PIXEL_GROUP = 0x7FE0

EXPLICIT_ELEMENT, IMPLICIT_ELEMENT = struct.Struct("<HH2sH").unpack_from, struct.Struct("<HHL").unpack_from
LONG_LENGTH = struct.Struct("<L").unpack_from

Element = tuple[int, bytes, int, int]
"""(tag, VR or b"", offset of the value, its length)."""
Raw = tuple[bytes, bytes]
"""(VR or b"", value)."""


class _Unusual(Exception):
    """The file is one for pydicom."""


@dataclass(frozen=True, slots=True)
class ScannedHeader:
    """As much of a pydicom dataset as this room asks for, with the elements that were wanted and present.

    pixel_data : (VR or b"", offset in the file, length) of PixelData.
    """

    file_meta: Mapping[str, str]
    original_encoding: tuple[bool, bool]
    pixel_data: tuple[bytes, int, int]
    found: Mapping[int, Raw]

    def get(self, keyword: str) -> Any:
        """The value as pydicom converts it, or None where there is none. Raises what its converters raise."""
        tag, ambiguous = _tag(keyword)
        raw = self.found.get(tag)
        if raw is None:
            return None
        representation = self.found.get(PIXEL_REPRESENTATION) if ambiguous else None
        convert = _converted if len(raw[1]) <= LARGEST_KEPT else _converted.__wrapped__
        return convert(keyword, raw, self.found.get(CHARACTER_SET), representation, self.original_encoding[0])

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword)[0] in self.found

    def get_item(self, tag: int) -> bytes | None:
        """The bytes of a value as they lie in the file, None where there is none."""
        raw = self.found.get(tag)
        return None if raw is None else raw[1]

    def keys(self) -> Set[int]:
        """Tags."""
        return self.found.keys()


def scan_header(stream: BinaryIO, tags: tuple[str, ...]) -> ScannedHeader | None:
    """The elements of these keywords or hexadecimal tags before PixelData; None for a file that is left to pydicom.

    stream : at its beginning.  Raises OSError, Refused for a member of an archive that cannot be read.
    """
    head = b""
    for size in HEAD_SIZES:
        head += stream.read(size - len(head))
        try:
            return _scanned(head, tags)
        except _Unusual:
            return None
        except struct.error:  # the bytes end within an element
            if len(head) < size:
                return None
    return None


def _scanned(head: bytes, tags: tuple[str, ...]) -> ScannedHeader:
    file_meta, at = _meta(head)
    syntax = file_meta.get("TransferSyntaxUID", "")
    explicit = syntax == EXPLICIT or COMPRESSED.fullmatch(syntax) is not None
    if not explicit and (syntax != IMPLICIT or _looks_explicit(head[at + 4 : at + 6])):
        raise _Unusual
    wanted, sequences = _wanted(tags)
    found: dict[int, Raw] = {}
    for tag, vr, start, length in _elements(head, at, explicit):
        if tag in wanted:
            if length == UNDEFINED or tag in sequences:
                raise _Unusual
            if start + length > len(head):
                raise struct.error
            found[tag] = vr, head[start : start + length]
        elif tag == PIXEL_DATA:
            return ScannedHeader(file_meta, (not explicit, True), (vr, start, length), found)
        elif tag >> 16 in (0, DELIMITERS, PIXEL_GROUP):
            raise _Unusual
    raise _Unusual


def _meta(head: bytes) -> tuple[dict[str, str], int]:
    """(what the meta header says, offset of the first element behind it)."""
    if head[PREAMBLE : PREAMBLE + len(PREFIX)] != PREFIX:
        raise _Unusual
    said: dict[str, str] = {}
    for tag, _, start, length in _elements(head, PREAMBLE + len(PREFIX), explicit=True, only_group=2):
        if tag in META_TAGS:
            uid = ONE_UID.fullmatch(head[start : start + length])
            if uid is None:
                raise _Unusual
            said[META_TAGS[tag]] = uid[1].decode()
        at = start + length
    if not said:
        raise _Unusual
    return said, at


def _looks_explicit(vr: bytes) -> bool:
    """Two capital letters, where an implicit element has half of a length."""
    return vr.isalpha() and vr.isupper()


def _elements(head: bytes, at: int, explicit: bool, only_group: int | None = None) -> Iterator[Element]:
    """One element after the other. Raises struct.error where the bytes end, _Unusual."""
    while True:
        if explicit:
            group, element, vr, length = EXPLICIT_ELEMENT(head, at)
            start = at + 8
            if vr in LONG_VRS:
                length, start = LONG_LENGTH(head, start)[0], at + 12
            elif vr not in SHORT_VRS and group != DELIMITERS:
                if only_group is not None and group != only_group:
                    return  # an implicit element behind the meta header
                raise _Unusual
        else:
            (group, element, length), vr, start = IMPLICIT_ELEMENT(head, at), b"", at + 8
        if only_group is not None and group != only_group:
            return
        tag = group << 16 | element
        yield tag, vr, start, length
        at = _past_sequence(head, start, vr, tag, explicit) if length == UNDEFINED else start + length


def _past_sequence(head: bytes, at: int, vr: bytes, tag: int, explicit: bool) -> int:
    """Where a sequence of undefined length ends."""
    if not (vr == b"SQ" if explicit else _may_be_sequence(tag)):
        raise _Unusual
    while True:
        group, element, length = IMPLICIT_ELEMENT(head, at)
        tag, at = group << 16 | element, at + 8
        if tag == SEQUENCE_END:
            return at
        if tag != ITEM:
            raise _Unusual
        at = _past_item(head, at, length, explicit)


def _past_item(head: bytes, at: int, length: int, explicit: bool) -> int:
    """Where an item ends: at its delimiter, or exactly behind its last element."""
    end = None if length == UNDEFINED else at + length
    if at == end:
        return at
    for tag, _, start, size in _elements(head, at, explicit):
        if tag == ITEM_END:
            if end is not None:
                raise _Unusual
            return start
        if tag >> 16 == DELIMITERS or (size == UNDEFINED and end is not None):
            raise _Unusual
        if end is not None and start + size >= end:
            if start + size > end:
                raise _Unusual
            return end
    raise _Unusual


@lru_cache(maxsize=64)
def _wanted(tags: tuple[str, ...]) -> tuple[frozenset[int], frozenset[int]]:
    """(tags of the keywords with that of the character set, those of them that are sequences)."""
    wanted = frozenset(_tag(keyword)[0] for keyword in tags) | {CHARACTER_SET}
    return wanted, frozenset(tag for tag in wanted if _may_be_sequence(tag))


@lru_cache(maxsize=1024)
def _tag(keyword: str) -> tuple[int, bool]:
    """(tag of a keyword or of eight hexadecimal digits, whether its VR depends on PixelRepresentation)."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    found = tag_for_keyword(keyword)
    tag = int(keyword, 16) if found is None else found
    return tag, " or " in dictionary_VR(tag)


def _may_be_sequence(tag: int) -> bool:
    """Whether the data dictionary says so, or, as of private elements, nothing."""
    from pydicom.datadict import dictionary_VR

    try:
        return bool(dictionary_VR(tag) == "SQ")
    except KeyError:
        return True


LARGEST_KEPT = 1024  # bytes of a value whose conversion is kept; slices of a series share the short ones


@lru_cache(maxsize=4096)
def _converted(keyword: str, raw: Raw, character_set: Raw | None, representation: Raw | None, implicit: bool) -> Any:
    """The value of one element in pydicom's conversion. Slices of a series share nearly all values, so few are new."""
    from pydicom.dataelem import RawDataElement, empty_value_for_VR
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

    elements: dict[BaseTag, Any] = {}
    given = {CHARACTER_SET: character_set, PIXEL_REPRESENTATION: representation, _tag(keyword)[0]: raw}
    for tag, element in given.items():
        if element is not None:
            vr, value = element[0].decode() or None, element[1]
            known: Any = value or empty_value_for_VR(vr, raw=True)
            elements[BaseTag(tag)] = RawDataElement(BaseTag(tag), vr, len(value), known, 0, implicit, True)
    dataset = Dataset(elements)
    dataset.set_original_encoding(implicit, True, dataset._character_set)
    return dataset.get(keyword)
