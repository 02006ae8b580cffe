"""Affines and axes: the map from voxels to patient space, and nothing else.

World frame: LPS+ in millimetres, as DICOM and ITK. `ijk_to_lps_mm` is (4, 4) float64 and maps the voxel index
(x, y, z, 1) to LPS; `zyx_to_lps_mm` is the same map with its index axes reversed. The order x, y, z appears only here
and in formats/. Sources: DICOM PS3.3 C.7.6.2.1.1 (image plane), NIfTI-1 header (RAS+), DESIGN.md section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import GeometryError

FloatArray = NDArray[np.float64]

SHEAR_TOLERANCE = 1e-3  # cosine between two axes; 1e-3 is 0.06 degrees, or 0.5 mm over 500 mm
OBLIQUE_TOLERANCE_DEG = 0.1
AXIS_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # (negative, positive) direction along LPS+ axes


def ras_to_lps(ijk_to_ras_mm: FloatArray) -> FloatArray:
    """(4, 4) affine into LPS+ from one into RAS+ (NIfTI), or back: the first two rows change sign."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(ijk_to_ras_mm, dtype=np.float64)


def reverse_index_axes(affine: FloatArray) -> FloatArray:
    """`zyx_to_lps_mm` from `ijk_to_lps_mm`, or back: the three index columns in reverse order."""
    return np.asarray(affine, dtype=np.float64)[:, [2, 1, 0, 3]]


def spacing_zyx_mm(ijk_to_lps_mm: FloatArray) -> tuple[float, float, float]:
    """Distance between voxel centres along (z, y, x) in mm, the column norms.

    Raises GeometryError if an axis has no extent.
    """
    i, j, k = np.linalg.norm(np.asarray(ijk_to_lps_mm)[:3, :3], axis=0).tolist()
    if not min(i, j, k) > 0:
        raise GeometryError(
            f"affine has spacing ({k:g}, {j:g}, {i:g}) mm along (z, y, x); re-export it with slice positions"
        )
    return k, j, i


def direction_cosines(ijk_to_lps_mm: FloatArray) -> FloatArray:
    """(3, 3) unit vectors of the x, y, z index axes as columns, in LPS."""
    k, j, i = spacing_zyx_mm(ijk_to_lps_mm)
    cosines: FloatArray = np.asarray(ijk_to_lps_mm, dtype=np.float64)[:3, :3] / np.array([i, j, k])
    return cosines


def affine_from(spacing_xyz_mm: Any, origin_xyz_mm: Any, directions: FloatArray | None = None) -> FloatArray:
    """(4, 4) `ijk_to_lps_mm` from spacing, the LPS position of voxel (0, 0, 0), and direction cosines.

    directions : (3, 3), the x, y, z index axes as columns; identity by default.
    """
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * np.asarray(spacing_xyz_mm, dtype=np.float64)
    affine[:3, 3] = origin_xyz_mm
    return affine


def affine_fault(ijk_to_lps_mm: FloatArray) -> tuple[str, dict[str, Any]] | None:
    """Reason code and evidence if the affine is singular or sheared, else None (DESIGN.md section 6)."""
    affine = np.asarray(ijk_to_lps_mm, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return "singular_affine", {"finite": False}
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not (lengths > 1e-6).all():
        return "singular_affine", {"spacing_xyz_mm": lengths.tolist()}
    cosines = affine[:3, :3] / lengths
    overlap = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if abs(np.linalg.det(cosines)) < 1e-3:
        return "singular_affine", {"determinant": float(np.linalg.det(affine[:3, :3]))}
    if overlap > SHEAR_TOLERANCE:
        return "sheared_affine", {"largest_cosine_between_axes": float(overlap), "limit": SHEAR_TOLERANCE}
    return None


@dataclass(frozen=True)
class AxisMap:
    """How source axes become canonical ones: `order[n]` is the source axis of canonical axis n (x, y, z = 0, 1, 2).

    Flips come after the permutation.
    """

    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]


def canonical_axes(ijk_to_lps_mm: FloatArray) -> AxisMap:
    """The permutation and flips after which x runs nearest to patient left, y to posterior, z to superior.

    Of the six assignments of index axes to world axes the one with the largest sum of absolute cosines is taken,
    so an oblique affine is never resampled. Ties go to the first in lexical order.
    """
    from itertools import permutations

    cosines = direction_cosines(ijk_to_lps_mm)
    order = max(permutations(range(3)), key=lambda p: round(sum(abs(cosines[w, p[w]]) for w in range(3)), 9))
    flipped = tuple(bool(cosines[w, order[w]] < 0) for w in range(3))
    return AxisMap(order=(order[0], order[1], order[2]), flipped=(flipped[0], flipped[1], flipped[2]))


def reorient(voxels_ZYX: NDArray[Any], ijk_to_lps_mm: FloatArray, axes: AxisMap) -> tuple[NDArray[Any], FloatArray]:
    """Voxels (axes z, y, x; a view) and affine after the permutation and flips of `axes`; world positions stay."""
    shape_xyz = np.array(voxels_ZYX.shape[::-1])
    change = np.zeros((4, 4))
    change[3, 3] = 1.0
    for canonical, source in enumerate(axes.order):
        change[source, canonical] = -1.0 if axes.flipped[canonical] else 1.0
        change[source, 3] = shape_xyz[source] - 1 if axes.flipped[canonical] else 0.0
    # numpy axis a of the source is index axis 2 - a, and likewise for the result
    moved = voxels_ZYX.transpose([2 - axes.order[2 - a] for a in range(3)])
    flips = tuple(slice(None, None, -1) if axes.flipped[2 - a] else slice(None) for a in range(3))
    return moved[flips], np.asarray(ijk_to_lps_mm, dtype=np.float64) @ change


def flip_in_place(voxels_ZYX: NDArray[Any], flipped_xyz: tuple[bool, bool, bool]) -> NDArray[Any]:
    """The same array with its voxels in reverse order along some axes; takes the memory of one slice."""
    x, y = (slice(None, None, -1) if flipped else slice(None) for flipped in flipped_xyz[:2])
    if flipped_xyz[0] or flipped_xyz[1]:
        for slab in voxels_ZYX:
            slab[...] = slab[y, x].copy()
    if flipped_xyz[2]:
        for low in range(len(voxels_ZYX) // 2):
            high = len(voxels_ZYX) - 1 - low
            voxels_ZYX[[low, high]] = voxels_ZYX[[high, low]]
    return voxels_ZYX


def orientation_code(ijk_to_lps_mm: FloatArray) -> str:
    """Three letters for where the x, y, z index axes run to: LPS for canonical storage, RAS for most NIfTI files."""
    axes = canonical_axes(ijk_to_lps_mm)
    letters = [""] * 3
    for world, source in enumerate(axes.order):
        letters[source] = AXIS_LETTERS[world][0 if axes.flipped[world] else 1]
    return "".join(letters)


def obliquity_deg(ijk_to_lps_mm: FloatArray) -> float:
    """Largest angle in degrees between an index axis and the world axis it is assigned to."""
    cosines = direction_cosines(ijk_to_lps_mm)
    axes = canonical_axes(ijk_to_lps_mm)
    smallest = min(abs(cosines[w, axes.order[w]]) for w in range(3))
    return float(np.degrees(np.arccos(min(1.0, smallest))))


def apply_affine(affine: FloatArray, points: Any) -> FloatArray:
    """(..., 3) points mapped by a (4, 4) affine."""
    points = np.asarray(points, dtype=np.float64)
    mapped: FloatArray = points @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]
    return mapped
