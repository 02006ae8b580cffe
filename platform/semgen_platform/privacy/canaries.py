"""Canaries: strings that must be nowhere, and the search for all of them at once, in many spellings, in any bytes.

A canary is looked for as it is written; with its words in another order, as names are (`Doe^John`, `John Doe`,
`Doe, John`); as digits alone; as a date in other notations; without accents; in any case; in UTF-8, UTF-16 and the
character sets of DICOM; in hexadecimal and in base64 at each of its three alignments. What compresses or escapes text
is undone before (unwrapping.py). Each spelling is a byte pattern. Patterns are found by one of their groups of four
bytes, at all positions of a block at once, so that the time depends on the bytes rather than on the canaries.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHORTEST = 4
"""Characters of a canary; a shorter one occurs by chance."""

GRAM_BYTES = 4
MOST_OFFSETS = 12  # at which the rarest group of a pattern is looked for
HASH_BITS = 22  # a table of 4 MiB, which stays in the cache, for up to some hundred thousand patterns
HASH_FACTOR = np.uint32(2654435761)  # Knuth's, odd and near 2^32 over the golden ratio
BLOCK_BYTES = 1 << 24

SHORTEST_JOINED = 6  # characters of words with nothing between them
SHORTEST_DIGITS = 7  # of digits taken out of other text; counts and sizes in a lake have fewer
SHORTEST_BASE64 = 6
LONG_DIGITS = 8  # so many digits may be followed by more: a time stands behind its date
SEPARATORS = ("^", " ", ", ", ",", "_", "-", ".", "/", "")
DATE_NOTATIONS = (
    "%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d%m%Y", "%m%d%Y",
)  # fmt: skip
CHARACTER_SETS = (
    "latin-1", "iso8859-2", "iso8859-3", "iso8859-4", "iso8859-5", "iso8859-6", "iso8859-7", "iso8859-8", "iso8859-9",
    "shift_jis", "iso2022_jp", "euc_kr", "iso2022_kr", "gb18030", "tis-620",
)  # fmt: skip
"""Of SpecificCharacterSet (PS3.3 C.12.1.1.2), for text that is not ASCII; all others agree on ASCII."""


class Least(NamedTuple):
    """Fewest bytes of a pattern that means something in data of a kind: of 8-bit patterns, and of UTF-16."""

    narrow: int
    wide: int


TEXT = Least(4, 8)
BINARY = Least(8, 16)  # compressed data hold any 6 bytes somewhere
VOXELS = Least(8, 24)  # enhanced tissue has 65 to 122 HU, which reads as letters in UTF-16


class Hit(NamedTuple):
    """line : of the canary, from 1.  form : how it was spelled."""

    line: int
    form: str


class Pattern(NamedTuple):
    data: bytes
    hit: Hit
    wide: bool = False
    digits: bool = False
    """All digits: only between other characters, since any number of figures has some date in it."""


class Canaries:
    """The search for `lines`, one canary each; empty ones are skipped."""

    def __init__(self, lines: Sequence[str]) -> None:
        numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
        self.count = len(numbered)
        self._folded = _Index(chain.from_iterable(_folded_patterns(n, text) for n, text in numbered))
        self._exact = _Index(chain.from_iterable(_base64_patterns(n, text) for n, text in numbered))

    def find(self, data: bytes, least: Least = TEXT) -> set[Hit]:
        """What is in the data, regardless of case."""
        overlap = max(self._folded.longest, self._exact.longest)
        found = set[Hit]()
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[max(0, start - 1) : start + BLOCK_BYTES + overlap]
            found.update(self._exact.find(block, least))
            found.update(self._folded.find(block.lower(), least))
        return found


class _Index:
    """Patterns by the rarest of their groups of four bytes, and a table that tells most groups from those."""

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._by_gram: dict[int, list[tuple[int, Pattern]]] = {}
        unique = {(p.data, p.hit.line): p for p in patterns if len(p.data) >= GRAM_BYTES}
        for pattern in unique.values():
            offsets = range(min(len(pattern.data) - GRAM_BYTES + 1, MOST_OFFSETS))
            grams = [_gram(pattern.data, offset) for offset in offsets]
            offset = min(range(len(grams)), key=lambda n: len(self._by_gram.get(grams[n], ())))
            self._by_gram.setdefault(grams[offset], []).append((offset, pattern))
        self.longest = max((len(pattern.data) for pattern in unique.values()), default=0)
        self._known = np.zeros(1 << HASH_BITS, dtype=np.bool_)
        self._known[_hash(np.array(list(self._by_gram), dtype=np.uint32))] = True

    def find(self, data: bytes, least: Least) -> Iterator[Hit]:
        for shift in range(GRAM_BYTES):
            count = (len(data) - shift) // GRAM_BYTES
            if count <= 0:
                continue
            grams = np.frombuffer(data, dtype="<u4", count=count, offset=shift)
            for index in np.flatnonzero(self._known[_hash(grams)]).tolist():
                for offset, pattern in self._by_gram.get(int(grams[index]), ()):
                    start = shift + GRAM_BYTES * index - offset
                    if start >= 0 and data.startswith(pattern.data, start) and _counts(pattern, data, start, least):
                        yield pattern.hit


def _counts(pattern: Pattern, data: bytes, start: int, least: Least) -> bool:
    """Whether a match means something: it is long enough for such data, and digits are no part of a longer number."""
    if len(pattern.data) < (least.wide if pattern.wide else least.narrow):
        return False
    if not pattern.digits:
        return True
    end = start + len(pattern.data)
    before, behind = data[start - 1 : start] if start else b"", data[end : end + 1]
    return not (before.isdigit() or before == b".") and (len(pattern.data) >= LONG_DIGITS or not behind.isdigit())


def _gram(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + GRAM_BYTES], "little")


def _hash(grams: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return (grams * HASH_FACTOR) >> np.uint32(32 - HASH_BITS)


def spellings(canary: str) -> Iterator[tuple[str, str]]:
    """(text, form) of a canary, itself first; its case does not matter."""
    yield canary, "as written"
    for text in _orders(canary):
        yield text, "words in another order"
    for text in _dates(canary):
        yield text, "date in another notation"
    digits = re.sub(r"\D", "", canary)
    if len(digits) >= SHORTEST_DIGITS and digits != canary:
        yield digits, "digits alone"
    plain = "".join(c for c in unicodedata.normalize("NFKD", canary) if not unicodedata.combining(c))
    if plain != canary and len(plain) >= SHORTEST:
        yield plain, "without accents"


def _orders(canary: str) -> Iterator[str]:
    """A name's or title's words with other characters between them, also the first or last of them moved to the end."""
    words = [word for word in re.split(r"[\^,\s_=]+", canary) if word]
    if not 2 <= len(words) <= 5 or all(word.isdigit() for word in words):
        return
    for order in (words, words[1:] + words[:1], words[-1:] + words[:-1]):
        for separator in SEPARATORS:
            text = separator.join(order)
            if text != canary and len(text) >= (SHORTEST_JOINED if not separator else SHORTEST):
                yield text


def _dates(canary: str) -> Iterator[str]:
    """Other notations of a canary that is a date."""
    match = re.fullmatch(r"(\d{4})([-/.]?)(\d{2})\2(\d{2})", canary)
    if match is None:
        return
    try:
        found = date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return
    for notation in DATE_NOTATIONS:
        text = found.strftime(notation)
        if text != canary:
            yield text


def _folded_patterns(line: int, canary: str) -> Iterator[Pattern]:
    """Patterns to be found in data whose ASCII letters are in lower case."""
    for text, form in spellings(canary):
        digits = text.isascii() and text.isdigit()
        for same in {text.lower()} if text.isascii() else _cases(text):
            for data in {same.encode(), *_in_character_sets(same)}:
                yield Pattern(data.lower(), Hit(line, form), digits=digits)
            for encoding in ("utf-16-le", "utf-16-be"):
                yield Pattern(same.encode(encoding).lower(), Hit(line, "UTF-16"), wide=True)
    for same in _cases(canary):
        yield Pattern(same.encode().hex().encode(), Hit(line, "hexadecimal"))


def _cases(text: str) -> set[str]:
    """The text in the cases and compositions that it may be written in."""
    cases = (text, text.lower(), text.upper(), text.title(), text.casefold())
    return {unicodedata.normalize(form, case) for case in cases for form in ("NFC", "NFD")}


def _in_character_sets(text: str) -> Iterator[bytes]:
    for encoding in () if text.isascii() else CHARACTER_SETS:
        try:
            yield text.encode(encoding)
        except UnicodeEncodeError:
            continue


def _base64_patterns(line: int, canary: str) -> Iterator[Pattern]:
    """The characters of base64 that depend on the canary alone, wherever in a group of three bytes it begins."""
    for same in _cases(canary):
        data = same.encode()
        for before in range(3):
            code = base64.b64encode(b"\0" * before + data)
            first, cut = (0, 2, 3)[before], (0, 3, 2)[(before + len(data)) % 3]
            inner = code[first : len(code) - cut]
            if len(inner) >= SHORTEST_BASE64:
                yield Pattern(inner, Hit(line, "base64"))
                yield Pattern(inner.translate(bytes.maketrans(b"+/", b"-_")), Hit(line, "base64"))
