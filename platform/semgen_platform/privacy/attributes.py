"""The allow-list: which attributes of a source the lake keeps, and which of their values.

Whatever a header field is called, somebody has typed a name into it somewhere. So a text passes only if it is made of
listed terms (terms.py), in a kernel also of short codes such as B30f, and a number only if it can be what it is called.
What is on no list is dropped, never shortened or replaced: half a name is a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from semgen_platform.privacy.terms import BODY_PARTS, COMPANY_WORDS, KERNEL_WORDS, MAKERS, MODEL_WORDS

ALLOWED_ATTRIBUTES: Mapping[str, type] = {
    "kernel": str,
    "manufacturer": str,
    "model": str,
    "body_part": str,
    "contrast": bool,
    "slice_thickness_mm": float,
    "kvp": float,
    "tube_current_ma": float,
    "exposure_mas": float,
    "orientation": str,  # three letters, as found
    "source_ijk_to_lps_mm": list,  # 16 numbers, as found
    "verdict": str,  # ok or repaired
    "steps_mm": list,  # smallest, median and largest between slices, as found
    "repair": str,  # what was done
    "study_date": str,  # moved back, see dates.py
    "acquisition_date": str,
    "deidentification_codes": list,  # see method.py
}
"""Every attribute of a source that the lake keeps, with its type: technical values, no description, no name."""

RANGES: Mapping[str, tuple[float, float]] = {
    "slice_thickness_mm": (0, 200),
    "kvp": (20, 300),
    "tube_current_ma": (0, 5000),
    "exposure_mas": (0, 20000),
}
"""Outside of these a number is no such quantity; it may be a date or a patient number."""

PLAIN_TEXT = re.compile(r"[A-Za-z0-9 _.,/&()+%\\-]{1,64}")
WORD = re.compile(r"[a-z0-9]+")
NUMBER_AT_END = re.compile(r"\d{1,3}$")
KERNEL_CODE = re.compile(r"[a-z]{1,2}\d{1,3}[a-z]{0,2}|[a-z]{1,2}|\d{1,3}")
MODEL_CODE = re.compile(r"(ct|uct|umi|mx|ict|cx|rx)\d{2,4}|\d{1,3}[a-z]?")
MOST_CODES = 3
"""Codes in one text: the parts of a number or a spelled name are more."""
SHORTEST_NAME, SHORTEST_PART_OF_WORD = 3, 5
"""Letters of a word that always counts as a name, and of one that is looked for within longer words."""


def allowed(attributes: Mapping[str, Any], names: Collection[str] = frozenset()) -> dict[str, Any]:
    """The attributes of a header that are on the list and have a value that says no more than it should.

    names : words of the same header that name somebody (`words_in` of its names and numbers); a kernel or model with
        one of them in it is dropped, even if the word is listed.
    """
    return {name: value for name, value in attributes.items() if _is_allowed(name, value, names)}


def words_in(text: str) -> frozenset[str]:
    """The words of a name, number or address in lower case, and all of it in one, without single letters and short
    numbers."""
    words = WORD.findall(text.casefold())
    return frozenset(
        word for word in [*words, "".join(words)] if len(word) >= SHORTEST_NAME or (len(word) == 2 and word.isalpha())
    )


def _is_allowed(name: str, value: Any, names: Collection[str]) -> bool:
    kind = ALLOWED_ATTRIBUTES.get(name)
    if kind is None or not isinstance(value, kind):
        return False
    if isinstance(value, str):
        rule = TEXT_RULES.get(name)
        return rule is not None and bool(PLAIN_TEXT.fullmatch(value)) and rule(value.casefold(), names)
    if isinstance(value, float):
        low, high = RANGES[name]
        return low < value <= high
    return name == "source_ijk_to_lps_mm" or kind is bool


def _is_kernel(text: str, names: Collection[str]) -> bool:
    return _is_made_of(KERNEL_WORDS, KERNEL_CODE, text) and not _names_somebody(text, names, KERNEL_WORDS)


def _is_model(text: str, names: Collection[str]) -> bool:
    return _is_made_of(MODEL_WORDS, MODEL_CODE, text) and not _names_somebody(text, names, MODEL_WORDS)


def _is_maker(text: str, names: Collection[str]) -> bool:
    words = set(WORD.findall(text))
    return bool(words & MAKERS) and words <= MAKERS | COMPANY_WORDS


def _is_body_part(text: str, names: Collection[str]) -> bool:
    return text.upper() in BODY_PARTS


def _is_orientation(text: str, names: Collection[str]) -> bool:
    return bool(re.fullmatch(r"[lrapsi]{3}", text))


TEXT_RULES: Mapping[str, Callable[[str, Collection[str]], bool]] = {
    "kernel": _is_kernel,
    "manufacturer": _is_maker,
    "model": _is_model,
    "body_part": _is_body_part,
    "orientation": _is_orientation,
}
"""(text in lower case, names) to whether it may pass. What only we write has no rule, since no header gives it."""


def _is_made_of(listed: Collection[str], code: re.Pattern[str], text: str) -> bool:
    """Whether every word is listed (a number may follow it) or a code; few codes, and at most one a bare number."""
    words = WORD.findall(text)
    codes = [word for word in words if word not in listed and NUMBER_AT_END.sub("", word) not in listed]
    return (
        any(not word.isdigit() for word in words)
        and len(codes) <= MOST_CODES
        and all(code.fullmatch(word) for word in codes)
        and sum(word.isdigit() for word in codes) <= 1
    )


def _names_somebody(text: str, names: Collection[str], listed: Collection[str]) -> bool:
    """Whether a name is among the words, or a long one within them; a name of two letters may be a listed word."""
    words = WORD.findall(text)
    return any(
        (name in words and (len(name) >= SHORTEST_NAME or name not in listed))
        or (len(name) >= SHORTEST_PART_OF_WORD and name in text)
        for name in names
    )
