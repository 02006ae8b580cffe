"""The crop that a row describes, and the rows of both recipes for the tables poses, patterns and members.

A row's matrix carries the voxel index (z, y, x, 1) of a crop of BASE_SHAPE_ZYX to the scan's LPS mm. Pixels are cut
from it at training time, at any number of voxels (`matrix_for_shape`). Columns are those of lake/tables.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from semgen_platform.discovery.resampling import FloatArray, Shape, zyx_matrix

Row = dict[str, Any]

BASE_SHAPE_ZYX: Shape = (32, 64, 64)
BASE_BOX_ZYX_MM = (48.0, 44.8, 44.8)
"""BASE_SHAPE_ZYX voxels of 1.5 x 0.7 x 0.7 mm (METHOD.md 5b step 4)."""

DECIMALS = 6  # of every number in a row: nanometres, so that the last bits of a sum leave no trace


def box_matrix(to_scan: FloatArray, centre_zyx_mm: Any, scale: float) -> FloatArray:
    """(4, 4) crop index to LPS mm for the base box times `scale` round a place in mm, carried into the scan by
    `to_scan`.

    to_scan : (4, 4), places (z, y, x, 1) to the scan's (z, y, x, 1) in LPS mm, as a pose has it.
    """
    spacing = np.array(BASE_BOX_ZYX_MM) / BASE_SHAPE_ZYX * scale
    to_place = np.diag([*spacing, 1.0])
    to_place[:3, 3] = np.asarray(centre_zyx_mm) - (np.array(BASE_SHAPE_ZYX) - 1) / 2 * spacing
    return np.round(zyx_matrix(to_scan @ to_place), DECIMALS)


def centre_lps_mm(matrix: FloatArray) -> FloatArray:
    """LPS position (x, y, z) of the middle of a crop."""
    return np.round(matrix[:3, :3] @ ((np.array(BASE_SHAPE_ZYX) - 1) / 2) + matrix[:3, 3], DECIMALS)


def matrix_for_shape(matrix: Any, shape_zyx: Shape) -> FloatArray:
    """The same box cut into another number of voxels: crop index of `shape_zyx` to LPS mm; outer faces stay where they
    are.

    matrix : (4, 4), or the 16 numbers of a row.
    """
    ratio = np.array(BASE_SHAPE_ZYX) / np.array(shape_zyx)
    change = np.diag([*ratio, 1.0])
    change[:3, 3] = (ratio - 1) / 2
    return np.asarray(matrix, dtype=np.float64).reshape(4, 4) @ change


def member_row(
    discovery_id: str, pattern: int, scan_id: str, patient_id: str, split: str, matrix: FloatArray, *,
    scale: float, jitter: int, score: float | None, reason: str = "",
) -> Row:  # fmt: skip
    """One crop of one pattern in one scan; `reason` says why it was dropped, or is ""."""
    return {
        "discovery_id": discovery_id,
        "pattern": pattern,
        "scan_id": scan_id,
        "scale": scale,
        "jitter": jitter,
        "patient_id": patient_id,
        "split": split,
        "centre_lps_mm": centre_lps_mm(matrix).tolist(),
        "matrix": matrix.reshape(-1).tolist(),
        "score": score,
        "dropped": bool(reason),
        "reason": reason,
    }


def is_base(row: Mapping[str, Any]) -> bool:
    """Whether a member's row is its base crop: scale 1, no jitter."""
    return bool(row["scale"] == 1.0 and row["jitter"] == 0)


def sorted_members(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order of the table's key."""
    return sorted(rows, key=lambda r: (r["pattern"], r["scan_id"], r["scale"], r["jitter"]))
