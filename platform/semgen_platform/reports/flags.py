"""What a scan's flags mean, one sentence each, with the measured value of the scan where there is one.

When a flag is set is the business of formats/ and volume.py; their limits are quoted here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from semgen_platform.formats.values import AIR_HU, LOW_COVERAGE_MM, THICK_SLICES_MM, TISSUE_HU

_NO_CT_VALUES = (
    f"too few of its values lie near air ({AIR_HU[0]} to {AIR_HU[1]}) or tissue ({TISSUE_HU[0]} to {TISSUE_HU[1]})"
)

MEANING = {
    "not_ct": f"The file names no modality, and {_NO_CT_VALUES} for a CT in HU",
    "not_hu_like": f"The file says CT, but {_NO_CT_VALUES} to be in HU",
    "low_coverage": f"It covers less than {LOW_COVERAGE_MM:g} mm along the body, and whole organs are cut off",
    "thick_slices": f"Its slices are more than {THICK_SLICES_MM:g} mm apart, and small vessels and nodules are lost",
    "gantry_tilt_repaired": "It was taken with a tilted gantry and sheared upright, so that values are interpolated",
    "slices_interpolated": "Its slices were spaced unevenly and were interpolated to even steps",
    "duplicates_dropped": "Some of its slices were there twice, bit for bit, and were taken once",
    "burned_in_hint": "The file says that text is burned into the pixels, which may name the patient: no picture here",
    "header_conflict": "Its two header transforms, sform and qform, put it at different places; the sform was taken",
    "oblique": "Its axes do not run along the patient's; voxels are kept as they are, and the affine says how they lie",
    "patient_unknown": "Nothing says whose scan it is, so it counts as a patient of its own",
}
"""A sentence, without its stop, for each of volume.FLAGS."""

MEASURED = {
    "not_ct": "1st to 99th percentile {hu_p01:.0f} to {hu_p99:.0f}",
    "not_hu_like": "1st to 99th percentile {hu_p01:.0f} to {hu_p99:.0f}",
    "low_coverage": "here {coverage_mm:.0f} mm",
    "thick_slices": "here {spacing_z_mm:.3g} mm",
    "oblique": "here {obliquity_deg:.1f} degrees",
}


def meaning(flag: str) -> str:
    """What a flag says of a scan, as one sentence."""
    return f"{MEANING.get(flag, 'This version does not know the flag')}."


def explained(flag: str, scan: Mapping[str, Any]) -> str:
    """The same with what was measured: hu_p01, hu_p99, coverage_mm, spacing_z_mm, obliquity_deg of the scan."""
    measured = MEASURED.get(flag)
    return f"{meaning(flag)[:-1]} ({measured.format_map(scan)})." if measured else meaning(flag)
