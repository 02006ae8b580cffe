"""Dates of a source, moved back by a whole number of days of the patient's own.

All of a patient's dates move by the same number, so the time between two scans survives and the dates themselves do not
(PS3.15 E.3.6, Retain Longitudinal Temporal Information with Modified Dates). The number comes from the key (keys.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, timedelta

DICOM_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})|(\d{4})\.(\d{2})\.(\d{2})", re.ASCII)
"""PS3.5 section 6.2; with points as ACR-NEMA wrote it."""
FIRST_CT = date(1971, 10, 1)


def parsed_date(text: str, newest: date) -> date | None:
    """The date that a header gives, or None where it is none, or is no day between the first CT and `newest`.

    A place holder such as 19000101 must not pass: whoever guesses it reads the patient's shift off its shifted form.
    """
    match = DICOM_DATE.fullmatch(text)
    if match is None:
        return None
    year, month, day = (int(part) for part in match.groups() if part is not None)
    try:
        found = date(year, month, day)
    except ValueError:
        return None
    return found if FIRST_CT <= found <= newest else None


def shifted_dates(dates: Mapping[str, date], days_back: int) -> dict[str, str]:
    """The dates moved back, in ISO form."""
    assert days_back > 0, "a patient's shift is at least a day"
    return {name: (found - timedelta(days=days_back)).isoformat() for name, found in dates.items()}
