"""Slices of one series to one regular grid, or what keeps them from being one; pure geometry, no files.

Positions count, never instance numbers, file names or thickness: slices are ordered by their distance along the
normal and must be evenly spaced, over one another, and of one shape. Sources: DICOM PS3.3 C.7.6.2.1.1 (Image Plane),
DESIGN.md section 6, USERS.md 1 and 2. Nothing is resampled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.formats.refusing import refusal
from semgen_platform.volume import Refusal

FloatArray = NDArray[np.float64]

SPACING_MM, SPACING_RATIO = 0.01, 0.01
"""A step may deviate by the larger of the two (USERS.md 1): scanners write positions with two to six decimals."""

COSINE_TOLERANCE = geometry.SHEAR_TOLERANCE
"""Between directions of slices, and between the normal and the way they are stacked; so no affine ends sheared."""

LATERAL_MM = 0.1
"""How far a slice may lie off the line through the first and the last, and its last pixel off that of others: a part of
any CT pixel."""

DECIMALS_MM = 0.0006
"""How far pixel spacings may differ that are one value, written once in full and once with three decimals."""

DRIFT_STEPS = 0.25
"""How far a slice may lie from its place on the grid, in steps."""

EVIDENCE_LIMIT = 20  # gaps and positions listed in evidence


@dataclass(frozen=True)
class Plane:
    """One slice. None where its header lacks the value."""

    position_mm: tuple[float, ...] | None
    """LPS position of the centre of its first pixel."""
    orientation: tuple[float, ...] | None
    """Direction of a row (along which x grows), then of a column (along which y grows), in LPS."""
    pixel_spacing_mm: tuple[float, ...] | None
    """(between rows, between columns)."""
    shape_yx: tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """A regular grid: `order[n]` is the index of the plane that lies at slice n."""

    order: tuple[int, ...]
    ijk_to_lps_mm: FloatArray


def regular_grid(planes: Sequence[Plane]) -> Grid | list[Refusal]:
    """The grid that planes (one at least) form, or every reason why they form none, with what was measured."""
    lacking = _missing(planes)
    if lacking is not None:
        return [lacking]
    refusals = [no for no in (_shape_fault(planes), *_direction_faults(planes)) if no is not None]
    if any(no.reasons[0] == "inconsistent_orientation" for no in refusals):
        return refusals  # without one normal there are no gaps to speak of
    row, column = directions(planes)
    positions = np.array([p.position_mm for p in planes], dtype=np.float64)
    order, distances = distances_along(planes)
    refusals += gap_faults(distances) or _drift_faults(distances)
    refusals += _stacking_faults(positions[order], np.cross(row, column))
    if len(planes) < 2:
        refusals.append(refusal("too_few_slices", "a single slice has no spacing and is no volume", slices=len(planes)))
    if refusals:
        return refusals
    between_rows, between_columns = np.median([p.pixel_spacing_mm for p in planes], axis=0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = row * between_columns, column * between_rows
    affine[:3, 2] = (positions[order[-1]] - positions[order[0]]) / (len(planes) - 1)
    affine[:3, 3] = positions[order[0]]
    return Grid(tuple(int(n) for n in order), affine)


def gap_faults(distances_mm: FloatArray) -> list[Refusal]:
    """What is wrong with sorted distances along the normal: duplicates, holes of whole steps, uneven steps.

    The step is the most frequent gap, so that neither a hole nor an extra slice shifts it.
    """
    gaps = np.diff(distances_mm)
    if not len(gaps):
        return []
    faults = []
    duplicate = gaps <= SPACING_MM
    if duplicate.any():
        faults.append(_duplicate_fault(distances_mm, gaps))
    apart = gaps[~duplicate]
    if not len(apart):
        return faults
    step = most_frequent(apart)
    tolerance = max(SPACING_MM, SPACING_RATIO * step)
    irregular = apart[np.abs(apart - step) > tolerance]
    steps = np.rint(irregular / step)
    # each missing slice may add its own tolerance, but never so much that any gap would pass for a multiple
    whole = (steps >= 2) & (np.abs(irregular - steps * step) <= np.minimum(steps * tolerance, 0.1 * step))
    evidence = {"step_mm": _round(step), "tolerance_mm": _round(tolerance), "slices": len(distances_mm)}
    if whole.any():
        missing = int((steps[whole] - 1).sum())
        sentence = (
            f"slices are missing: {missing}, in gaps of {_listed(irregular[whole])} mm where the step is {step:.4g} mm"
        )
        faults.append(refusal("missing_slices", sentence, missing=missing, gaps_mm=_evidence(irregular), **evidence))
    if not whole.all():
        uneven = irregular[~whole]
        sentence = (
            f"{len(uneven)} of {len(gaps)} gaps between slices are {_listed(uneven)} mm where the step is {step:.4g} mm"
        )
        faults.append(refusal("uneven_spacing", sentence, gaps_mm=_evidence(irregular), **evidence))
    return faults


def _drift_faults(distances_mm: FloatArray) -> list[Refusal]:
    """Steps that each deviate by less than the tolerance, and together lead slices away from an even grid."""
    step = (distances_mm[-1] - distances_mm[0]) / max(1, len(distances_mm) - 1)
    drift = np.abs(distances_mm - (distances_mm[0] + step * np.arange(len(distances_mm)))).max()
    if drift <= DRIFT_STEPS * step:
        return []
    sentence = (
        f"slices lie up to {drift:.4g} mm beside an even grid of {step:.4g} mm, as the steps change along the series"
    )
    return [refusal("uneven_spacing", sentence, drift_mm=_round(float(drift)), step_mm=_round(float(step)))]


def most_frequent(gaps_mm: FloatArray) -> float:
    """Median of the largest group of gaps that agree within the tolerance; of equal groups the one of smaller gaps."""
    ordered = np.sort(gaps_mm)
    reach = np.maximum(SPACING_MM, SPACING_RATIO * ordered)
    ends = np.searchsorted(ordered, ordered + reach, side="right")
    start = int(np.argmax(ends - np.arange(len(ordered))))
    return float(np.median(ordered[start : ends[start]]))


def directions(planes: Sequence[Plane]) -> tuple[FloatArray, FloatArray]:
    """Unit vectors along a row and along a column of the first plane, in LPS."""
    row, column = np.array(planes[0].orientation, dtype=np.float64).reshape(2, 3)
    return row / np.linalg.norm(row), column / np.linalg.norm(column)


def distances_along(planes: Sequence[Plane]) -> tuple[NDArray[np.int64], FloatArray]:
    """(order, distances in mm in that order) of planes along their normal; planes at one place keep their order."""
    distances = np.array([p.position_mm for p in planes], dtype=np.float64) @ np.cross(*directions(planes))
    order = np.argsort(distances, kind="stable")
    return order, distances[order]


def _missing(planes: Sequence[Plane]) -> Refusal | None:
    absent = {
        "ImagePositionPatient": sum(p.position_mm is None for p in planes),
        "ImageOrientationPatient": sum(p.orientation is None for p in planes),
        "PixelSpacing": sum(p.pixel_spacing_mm is None or min(p.pixel_spacing_mm) <= 0 for p in planes),
    }
    absent = {tag: count for tag, count in absent.items() if count}
    if not absent:
        return None
    sentence = f"{', '.join(absent)} is missing or unusable in {max(absent.values())} of {len(planes)} slices"
    return refusal("missing_geometry", sentence, slices=len(planes), slices_without=absent)


def _shape_fault(planes: Sequence[Plane]) -> Refusal | None:
    shapes = sorted({p.shape_yx for p in planes})
    spacings = np.array([p.pixel_spacing_mm for p in planes], dtype=np.float64)
    spread = float((spacings.max(axis=0) - spacings.min(axis=0)).max())
    if len(shapes) == 1 and spread <= max(LATERAL_MM / max(shapes[0]), DECIMALS_MM):
        return None
    sentence = f"the slices have {len(shapes)} shapes and pixel spacings that differ by {spread:.4g} mm"
    evidence: dict[str, Any] = {
        "shapes_yx": [list(s) for s in shapes[:EVIDENCE_LIMIT]],
        "pixel_spacing_spread_mm": _round(spread),
    }
    return refusal("inconsistent_shape", sentence, **evidence)


def _direction_faults(planes: Sequence[Plane]) -> list[Refusal]:
    directions = np.array([p.orientation for p in planes], dtype=np.float64).reshape(-1, 2, 3)
    lengths = np.linalg.norm(directions, axis=2)
    skew = np.abs((directions[:, 0] * directions[:, 1]).sum(axis=1)).max()
    if np.abs(lengths - 1).max() > COSINE_TOLERANCE or skew > COSINE_TOLERANCE:
        evidence = {
            "largest_cosine_between_axes": _round(float(skew)),
            "lengths": [_round(float(n)) for n in lengths[0]],
        }
        return [
            refusal("sheared_affine", "row and column directions are not two unit vectors at a right angle", **evidence)
        ]
    apart = np.linalg.norm(directions - directions[0], axis=2).max(axis=1)
    if apart.max() <= COSINE_TOLERANCE:
        return []
    angle = float(np.degrees(2 * np.arcsin(min(1.0, apart.max() / 2))))
    others = int((apart > COSINE_TOLERANCE).sum())
    sentence = f"{others} of {len(planes)} slices are turned against the first, by up to {angle:.4g} degrees"
    return [
        refusal(
            "inconsistent_orientation", sentence, largest_angle_deg=_round(angle), slices=len(planes), turned=others
        )
    ]


def _duplicate_fault(distances_mm: FloatArray, gaps: FloatArray) -> Refusal:
    places = distances_mm[:-1][gaps <= SPACING_MM]
    sentence = f"{len(places)} of {len(distances_mm)} slices lie at the place of another"
    return refusal(
        "duplicate_position", sentence, duplicates=len(places), slices=len(distances_mm), at_mm=_evidence(places)
    )


def _stacking_faults(positions_mm: FloatArray, normal: FloatArray) -> list[Refusal]:
    """Gantry tilt, where slices are stacked at an angle to their normal; ambiguity, where they lie on no one line."""
    path = positions_mm[-1] - positions_mm[0]
    length = float(np.linalg.norm(path))
    if length <= SPACING_MM:
        return []
    along = path / length
    lateral = positions_mm - positions_mm[0]
    lateral = np.linalg.norm(lateral - np.outer(lateral @ along, along), axis=1).max()
    faults = []
    sine = float(np.linalg.norm(np.cross(along, normal)))
    if sine > COSINE_TOLERANCE:
        angle = float(np.degrees(np.arcsin(min(1.0, sine))))
        sentence = f"the slices are stacked at {angle:.4g} degrees to their normal (gantry tilt)"
        faults.append(
            refusal(
                "gantry_tilt", sentence, tilt_deg=_round(angle), limit_deg=_round(float(np.degrees(COSINE_TOLERANCE)))
            )
        )
    if lateral > LATERAL_MM:
        sentence = (
            f"the slices lie on no one line: some are {lateral:.4g} mm beside it, as if two reconstructions were mixed"
        )
        faults.append(refusal("ambiguous_split", sentence, lateral_mm=_round(float(lateral)), limit_mm=LATERAL_MM))
    return faults


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def _evidence(values: FloatArray) -> list[float]:
    return [_round(v) for v in values[:EVIDENCE_LIMIT]]


def _listed(values: FloatArray) -> str:
    """The distinct values, a few of them, for a sentence."""
    distinct = [f"{v:.4g}" for v in np.unique(np.round(values, 3))]
    return ", ".join(distinct[:5]) + (" ..." if len(distinct) > 5 else "")
