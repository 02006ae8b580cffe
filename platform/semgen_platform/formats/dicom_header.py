"""The header of one DICOM file and its values, without errors for what is absent or malformed.

A file from outside may hold anything under any tag, so who needs a value says what it must be and gets that or None.
Source: DICOM PS3.10 section 7 (file format), PS3.5 section 6.2 (value representations).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, BinaryIO

from semgen_platform.formats.bounded import read_dicom
from semgen_platform.formats.dicom_scan import scan_header
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, refused


def read_dataset(
    place: Place, *, tags: list[str] | None = None, pixels: bool = False, stream: BinaryIO | None = None
) -> Any:
    """The pydicom dataset of a file, with or without preamble. Raises Refused if it cannot be parsed, OSError.

    A header of which some tags are wanted is scanned where it is an ordinary one, and answers the same questions.

    stream : the file, where it is open already.
    """
    try:
        with place.open() if stream is None else nullcontext(stream) as opened:
            opened.seek(0)
            header = None if tags is None or pixels else scan_header(opened, tuple(tags))
            if header is not None:
                return header
            size = 0 if not pixels else place.size() if place.member else opened.seek(0, os.SEEK_END)
            opened.seek(0)
            return read_dicom(opened, size, pixels=pixels, tags=tags)
    except (Refused, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        raise refused("truncated", "the DICOM header ends early") from None  # pydicom's own, within a sequence
    except EOFError:
        raise refused("truncated", "the DICOM header ends early") from None
    except Exception as error:  # pydicom raises whatever its parsers meet in a damaged file
        raise refused("corrupt", "the DICOM header cannot be parsed", error=type(error).__name__) from None


def text(dataset: Any, keyword: str) -> str:
    """A header value as stripped text, "" where it is absent or cannot be converted."""
    value = header_value(dataset, keyword)
    return "" if value is None else str(value).strip(" \0")


def texts(dataset: Any, keyword: str) -> tuple[str, ...]:
    """A multi-valued header value as stripped texts."""
    value = header_value(dataset, keyword)
    if value is None or value == "":
        return ()
    values = [value] if isinstance(value, str) or not isinstance(value, Iterable) else value
    return tuple(str(v).strip(" \0") for v in values)


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers, or None where the value is absent, malformed or of another length."""
    value = header_value(dataset, keyword)
    values = [value] if count == 1 else value
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(abs(v) < float("inf") for v in found) else None


def number(dataset: Any, keyword: str) -> float | None:
    """One finite number, or None."""
    values = numbers(dataset, keyword, 1)
    return None if values is None else values[0]


def header_value(dataset: Any, keyword: str) -> Any:
    """A header value as pydicom converts it, or None where it is absent or cannot be converted."""
    try:
        return dataset.get(keyword)
    except Exception:  # pydicom converts on access, and a malformed value raises what its converter raises
        return None
