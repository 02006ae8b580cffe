"""The corpus of broken series and files; what each is, its own module says."""

from __future__ import annotations

from tests.formats.broken_archives import ARCHIVE_CASES, OTHER_CASES
from tests.formats.broken_dicom import DICOM_CASES
from tests.formats.broken_volumes import ITK_CASES, NIFTI_CASES

CASES = [*DICOM_CASES, *NIFTI_CASES, *ITK_CASES, *ARCHIVE_CASES, *OTHER_CASES]
