"""What a DICOM header says of persons and of captured screens: words that name somebody, hints, dates.

None of it leaves this room but a flag, and dates for whoever moves them (privacy/dates.py). Sources: DICOM PS3.15 table
E.1-1 (what identifies), PS3.3 C.7.6.1 (General Image), C.8.6.1 (SC Equipment), C.9.2 (Overlay Plane).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from semgen_platform import privacy
from semgen_platform.formats.dicom_object import read_dataset, text, texts
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, quiet_libraries

NAME_TAGS = [
    "PatientName", "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthName",
    "PatientMotherBirthName", "PatientAddress", "ResponsiblePerson", "ResponsibleOrganization", "MedicalRecordLocator",
    "AdmissionID", "AccessionNumber", "StudyID", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
    "ReferringPhysicianName", "PerformingPhysicianName", "NameOfPhysiciansReadingStudy", "PhysiciansOfRecord",
    "RequestingPhysician", "ConsultingPhysicianName", "OperatorsName",
]  # fmt: skip
"""Of persons and institutions; the station is left out, since it is often called after its model."""

OVERLAY_ROWS = [f"{group:04X}0010" for group in range(0x6000, 0x6020, 2)]
HINT_TAGS = [
    "ImageType", "BurnedInAnnotation", "RecognizableVisualFeatures", "ConversionType",
    "SecondaryCaptureDeviceManufacturer", *OVERLAY_ROWS,
]  # fmt: skip

DATE_TAGS = {  # attribute: keywords, of which the first valid one counts
    "study_date": ("StudyDate",),
    "acquisition_date": ("AcquisitionDate", "AcquisitionDateTime"),
}
DATE_LENGTHS = (8, 10)  # YYYYMMDD at the front of a date or time of day, or YYYY.MM.DD

CAPTURED = ("DV", "DI", "DF", "WSD", "SD", "SI", "DRW")
"""Conversion Types of what was digitized, drawn, or taken off a workstation; SYN is computed, and old CT carries it."""
CAPTURE_WORDS = ("SCREEN", "CAPTURE", "SNAPSHOT", "REPORT")
RECONSTRUCTIONS = frozenset(
    ("AXIAL", "MPR", "REFORMATTED", "RESAMPLED", "VOLUME", "AVERAGE", "MAXIMUM", "MINIMUM", "MIP", "MINIP", "MIN_IP")
)
"""Further values of Image Type that say how a derived image was computed from slices, so that nobody captured it."""


def names_in(header: Any) -> frozenset[str]:
    """Words of the header's names, numbers and addresses.

    header : a pydicom dataset, or keyword to value.  Values are compared as bytes, since only plain words can occur in
    what is compared with them, and decoding them would take as long as the rest of the header.
    """
    return frozenset[str]().union(*(_words(raw) for tag in NAME_TAGS if (raw := _raw(header, tag))))


def shows_capture(header: Any) -> bool:
    """Whether there is a hint that text, a face or a drawing is part of the picture, or lies over it."""
    image_type = [value.upper() for value in texts(header, "ImageType")]
    return (
        "YES" in (text(header, "BurnedInAnnotation").upper(), text(header, "RecognizableVisualFeatures").upper())
        or text(header, "ConversionType").upper() in CAPTURED
        or bool(text(header, "SecondaryCaptureDeviceManufacturer"))
        or any(word in value for value in image_type for word in CAPTURE_WORDS)
        or (image_type[:2] == ["DERIVED", "SECONDARY"] and RECONSTRUCTIONS.isdisjoint(image_type[2:]))
        or _has_overlay(header)
    )


def dates_of(place: Place, newest: date) -> dict[str, date]:
    """Dates of study and acquisition that are valid and not after `newest`; none of a file that cannot be read."""
    tags = [tag for candidates in DATE_TAGS.values() for tag in candidates]
    try:
        with quiet_libraries():
            header = read_dataset(place, tags=tags)
            found = {name: _first_date(header, candidates, newest) for name, candidates in DATE_TAGS.items()}
    except (Refused, OSError):
        return {}
    return {name: value for name, value in found.items() if value is not None}


def _first_date(header: Any, tags: tuple[str, ...], newest: date) -> date | None:
    said = (text(header, tag)[:length] for tag in tags for length in DATE_LENGTHS)
    return next((found for value in said if (found := privacy.parsed_date(value, newest)) is not None), None)


def _has_overlay(header: Any) -> bool:
    if isinstance(header, Mapping):
        return "OverlayRows" in header
    return any(int(tag, 16) in header for tag in OVERLAY_ROWS)


def _raw(header: Any, tag: str) -> bytes:
    element = header.get(tag) if isinstance(header, Mapping) else header.get_item(tag)
    value = getattr(element, "value", element)
    if value is None or isinstance(value, bytes):
        return value or b""
    return str(value).encode()


@lru_cache(maxsize=4096)
def _words(raw: bytes) -> frozenset[str]:
    return privacy.words_in(raw.decode("ascii", "replace"))
