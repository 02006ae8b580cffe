"""What was done to the identity in a DICOM source, as codes of the standard.

Source: DICOM PS3.15 Annex E (profile and options), PS3.16 CID 7050 (De-identification Method), coding scheme DCM.
"""

from __future__ import annotations

BASIC_PROFILE = "113100"
"""Basic Application Confidentiality Profile: nothing of its table is kept; UIDs and numbers become pseudonyms."""
CLEAN_DESCRIPTORS = "113105"
"""Clean Descriptors Option: of the contrast agent's text it is kept whether there was one; texts are listed terms."""
MODIFIED_DATES = "113107"
"""Retain Longitudinal Temporal Information Modified Dates Option."""


def method_codes(*, dates_shifted: bool) -> list[str]:
    """Codes of CID 7050 for a source. Pixels and faces are not cleaned (113101, 113102), and no code says so."""
    return [BASIC_PROFILE, CLEAN_DESCRIPTORS, *([MODIFIED_DATES] if dates_shifted else [])]
