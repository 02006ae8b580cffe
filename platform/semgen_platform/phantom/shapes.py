"""Tiny exact phantoms for tests, benchmarks and the README: every value is known by construction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.volume import Volume


def _centred(
    shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float], directions: Any = None
) -> NDArray[np.float64]:
    """`ijk_to_lps_mm` of a grid whose middle lies at LPS (0, 0, 0)."""
    affine = geometry.affine_from(spacing_zyx_mm[::-1], (0, 0, 0), directions)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape_zyx[::-1]) - 1) / 2)
    return affine


def water_sphere(
    radius_mm: float = 20.0,
    *,
    shape_zyx: tuple[int, int, int] = (32, 48, 48),
    spacing_zyx_mm: tuple[float, float, float] = (2.0, 1.0, 1.0),
    centre_xyz_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    inside_hu: int = 0,
    outside_hu: int = -1000,
) -> Volume:
    """A sphere of water in air, int16; a voxel is water when its centre lies inside."""
    affine = _centred(shape_zyx, spacing_zyx_mm)
    away = np.linalg.norm(world_points(shape_zyx, affine) - np.array(centre_xyz_mm), axis=-1)
    voxels = np.where(away < radius_mm, inside_hu, outside_hu).astype(np.int16)
    return Volume(voxels=voxels, ijk_to_lps_mm=affine, modality="CT")


def ramp(
    ijk_to_lps_mm: NDArray[np.float64],
    *,
    shape_zyx: tuple[int, int, int] = (12, 16, 20),
    hu_per_mm_xyz: tuple[float, float, float] = (1.0, 3.0, 5.0),
) -> Volume:
    """HU that rise linearly along patient axes, float32: at LPS point p the value is p . hu_per_mm_xyz, on any grid."""
    voxels = world_points(shape_zyx, ijk_to_lps_mm) @ np.array(hu_per_mm_xyz)
    return Volume(voxels=voxels.astype(np.float32), ijk_to_lps_mm=np.asarray(ijk_to_lps_mm, np.float64), modality="CT")


def world_points(shape_zyx: tuple[int, int, int], ijk_to_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """LPS position of every voxel, (z, y, x, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape_zyx), indexing="ij"), axis=-1)
    return geometry.apply_affine(ijk_to_lps_mm, index[..., ::-1])


def oblique_affine(
    degrees: float = 12.0,
    *,
    spacing_xyz_mm: tuple[float, float, float] = (0.8, 0.8, 2.0),
    origin_xyz_mm: tuple[float, float, float] = (-30.0, 12.0, 250.0),
) -> NDArray[np.float64]:
    """`ijk_to_lps_mm` of a grid that is turned by `degrees` about the left-right axis."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return geometry.affine_from(spacing_xyz_mm, origin_xyz_mm, np.array([[1, 0, 0], [0, c, -s], [0, s, c]]))


def left_handed_affine(
    *,
    spacing_xyz_mm: tuple[float, float, float] = (0.8, 0.9, 2.0),
    origin_xyz_mm: tuple[float, float, float] = (40.0, -25.0, 100.0),
) -> NDArray[np.float64]:
    """`ijk_to_lps_mm` whose x axis runs to patient right, so that its determinant is negative."""
    return geometry.affine_from(spacing_xyz_mm, origin_xyz_mm, np.diag([-1.0, 1.0, 1.0]))
