"""What a DICOM header says of persons and of captured screens: words that name somebody, hints, dates.

None of it leaves this room but a flag, and dates for whoever moves them (privacy/dates.py). Sources: DICOM PS3.15 table
E.1-1 (what identifies), PS3.3 C.7.6.1 (General Image), C.8.6.1 (SC Equipment), C.9.2 (Overlay Plane).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import lru_cache
from typing import Any

from semgen_platform import privacy
from semgen_platform.formats.dicom_header import read_dataset, text
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, quiet_libraries

NAMES = {
    "PatientName": 0x00100010, "PatientID": 0x00100020, "IssuerOfPatientID": 0x00100021,
    "OtherPatientIDs": 0x00101000, "OtherPatientNames": 0x00101001, "PatientBirthName": 0x00101005,
    "PatientMotherBirthName": 0x00101060, "PatientAddress": 0x00101040, "ResponsiblePerson": 0x00102297,
    "ResponsibleOrganization": 0x00102299, "MedicalRecordLocator": 0x00101090, "AdmissionID": 0x00380010,
    "AccessionNumber": 0x00080050, "StudyID": 0x00200010, "InstitutionName": 0x00080080,
    "InstitutionAddress": 0x00080081, "InstitutionalDepartmentName": 0x00081040, "ReferringPhysicianName": 0x00080090,
    "PerformingPhysicianName": 0x00081050, "NameOfPhysiciansReadingStudy": 0x00081060,
    "PhysiciansOfRecord": 0x00081048, "RequestingPhysician": 0x00321032, "ConsultingPhysicianName": 0x0008009C,
    "OperatorsName": 0x00081070,
}  # fmt: skip
"""Of persons and institutions: keyword and tag. The station is left out, since it is often called after its model."""

HINTS = {
    "ImageType": 0x00080008, "BurnedInAnnotation": 0x00280301, "RecognizableVisualFeatures": 0x00280302,
    "ConversionType": 0x00080064, "SecondaryCaptureDeviceManufacturer": 0x00181016,
}  # fmt: skip
OVERLAY_ROWS = frozenset(range(0x60000010, 0x60200010, 0x20000))

TAGS = [f"{tag:08X}" for tag in (*NAMES.values(), *HINTS.values(), *sorted(OVERLAY_ROWS))]
"""What must be read of a header for both functions; numbers, since pydicom takes long to look up keywords."""

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
    return frozenset[str]().union(*(_words(value) for value in _raw(header, NAMES) if value))


def shows_capture(header: Any) -> bool:
    """Whether there is a hint that text, a face or a drawing is part of the picture, or lies over it."""
    has_overlay = "OverlayRows" in header if isinstance(header, Mapping) else not OVERLAY_ROWS.isdisjoint(header.keys())
    return has_overlay or _is_capture(*_raw(header, HINTS))


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


def _raw(header: Any, tags: Mapping[str, int]) -> Iterator[bytes]:
    """The bytes of each value, empty where it is absent."""
    for keyword, tag in tags.items():
        element = header.get(keyword) if isinstance(header, Mapping) else header.get_item(tag)
        value = getattr(element, "value", element)
        if value is None or isinstance(value, bytes):
            yield value or b""
        else:
            yield (value if isinstance(value, str) else "\\".join(map(str, value))).encode()


@lru_cache(maxsize=4096)
def _words(value: bytes) -> frozenset[str]:
    return privacy.words_in(value.decode("ascii", "replace"))


@lru_cache(maxsize=256)
def _is_capture(image_type: bytes, burned_in: bytes, recognizable: bytes, conversion: bytes, device: bytes) -> bool:
    """The hints of one header, in the order of HINTS; the slices of a series mostly say the same."""
    kinds = [_code(value) for value in image_type.split(b"\\")]
    return (
        "YES" in (_code(burned_in), _code(recognizable))
        or _code(conversion) in CAPTURED
        or bool(_code(device))
        or any(word in kind for kind in kinds for word in CAPTURE_WORDS)
        or (kinds[:2] == ["DERIVED", "SECONDARY"] and RECONSTRUCTIONS.isdisjoint(kinds[2:]))
    )


def _code(value: bytes) -> str:
    return value.decode("ascii", "replace").strip(" \0").upper()
