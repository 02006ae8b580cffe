"""A small made-up trunk whose canonical coordinates are known by construction, for fast tests of discovery.

Canonical places are (z, y, x) in mm: z up from the pelvis, y to the back, x to the left; the trunk is 600 mm high.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from semgen_platform.discovery.body_frame import BodyConfig, Frame, body_frame

FloatArray = NDArray[np.float64]

# centre and half axes (z, y, x) in mm, HU inside, label; later ones are drawn over earlier ones
ORGANS = [
    ((300, 0, 0), (420, 105, 165), -90, 1),  # fat
    ((300, 5, 0), (410, 90, 148), 45, 2),  # muscle
    ((230, 0, 0), (170, 72, 125), -70, 3),  # belly
    ((440, -5, -75), (120, 72, 58), -820, 4),  # lungs
    ((440, -5, 75), (120, 72, 58), -830, 5),
    ((415, -25, 20), (55, 45, 52), 40, 6),  # heart
    ((310, -10, -60), (55, 70, 75), 60, 7),  # liver
    ((300, 35, 90), (45, 30, 30), 50, 8),  # spleen
    ((235, 45, -60), (55, 25, 28), 35, 9),  # kidneys
    ((235, 45, 60), (55, 25, 28), 35, 10),
    ((500, -5, 0), (70, 9, 9), -950, 11),  # trachea
    ((180, -30, -40), (50, 35, 40), -20, 12),  # bowel
    ((160, -30, 45), (45, 30, 45), 20, 13),
]
VERTEBRAE = [((60 + 30 * n, 62, 0), (12, 20, 22), 350, 20 + n) for n in range(18)]
RIBS = [((330 + 26 * n, 0, 0), 14, 40 + n) for n in range(9)]


def canonical_labels(points_zyx_mm: FloatArray) -> tuple[FloatArray, NDArray[np.uint8]]:
    """(HU, label) at canonical places (..., 3)."""
    hu = np.full(points_zyx_mm.shape[:-1], -1000.0)
    label = np.zeros(points_zyx_mm.shape[:-1], np.uint8)
    for centre, half, value, name in [*ORGANS, *VERTEBRAE]:
        inside = (((points_zyx_mm - centre) / half) ** 2).sum(axis=-1) < 1
        hu[inside], label[inside] = value, name
    z, y, x = np.moveaxis(points_zyx_mm, -1, 0)
    wall = np.hypot(y / 84, x / 140)
    for (height, _, _), thickness, name in RIBS:
        rib = (np.abs(z - height - 0.25 * y) < thickness / 2) & (np.abs(wall - 1) < 0.06)
        hu[rib], label[rib] = 400, name
    return hu, label


@dataclass(frozen=True)
class MadeUpScan:
    """A scan of the trunk: voxels (z, y, x) in HU, voxel index to LPS mm, and LPS (z, y, x) to canonical (z, y, x)."""

    scan_id: str
    patient_id: str
    split_group: str
    voxels: NDArray[np.float32]
    labels: NDArray[np.uint8]
    zyx_to_lps_mm: FloatArray
    world_to_canonical: FloatArray
    padding_hu: float | None = None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        z, y, x = self.voxels.shape
        return z, y, x

    def canonical(self, points_zyx_mm: FloatArray) -> FloatArray:
        return points_zyx_mm @ self.world_to_canonical[:3, :3].T + self.world_to_canonical[:3, 3]


def make_scan(
    name: str,
    rng: np.random.Generator,
    *,
    z_range_mm: tuple[float, float] = (150.0, 560.0),
    shift_mm: float = 40.0,
    rotation_deg: float = 10.0,
    log_scale: float = 0.14,
    spacing_zyx_mm: tuple[float, float, float] = (8.0, 7.0, 7.0),
    table: bool = True,
) -> MadeUpScan:
    """A scan that covers about `z_range_mm` of the canonical trunk, with a pose drawn within the given limits."""
    rotation = Rotation.from_rotvec(np.radians(rng.uniform(-rotation_deg, rotation_deg, 3)) / np.sqrt(3)).as_matrix()
    scale = np.exp(rng.uniform(-log_scale, log_scale, 3))
    middle = np.array([np.mean(z_range_mm), 0, 0])
    to_world = np.eye(4)
    to_world[:3, :3] = rotation * scale
    to_world[:3, 3] = rng.uniform(-shift_mm, shift_mm, 3) - to_world[:3, :3] @ middle
    height = (z_range_mm[1] - z_range_mm[0]) * scale[0]
    spacing = np.array(spacing_zyx_mm)
    shape = np.round(np.array([height, 420, 480]) / spacing).astype(int)
    first = -(shape - 1) / 2 * spacing
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    world = first + index * spacing
    world_to_canonical = np.linalg.inv(to_world)
    canonical = world @ world_to_canonical[:3, :3].T + world_to_canonical[:3, 3]
    hu, labels = canonical_labels(canonical)
    if table:
        low = np.abs(world[..., 1] - 165) < 4
        hu[low & (np.abs(world[..., 2]) < 190) & (labels == 0)] = -50
    hu = hu + rng.normal(0, 25, hu.shape)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing)[::-1]
    affine[:3, 3] = first[::-1]
    return MadeUpScan(
        name, name, name, hu.astype(np.float32), labels, affine, np.asarray(world_to_canonical, dtype=np.float64)
    )


COVERAGES = [(290.0, 590.0), (120.0, 590.0), (60.0, 400.0)]  # chest, both, abdomen


@dataclass(frozen=True)
class Cohort:
    """Made-up scans with their 4 mm frames and random vectors, by scan id."""

    scans: list[MadeUpScan]
    frames: dict[str, Frame]
    vectors: dict[str, FloatArray]

    def scan(self, scan_id: str) -> MadeUpScan:
        return next(s for s in self.scans if s.scan_id == scan_id)

    def read_frame(self, scan_id: str) -> Frame:
        return self.frames[scan_id]


@pytest.fixture(scope="session")
def cohort() -> Cohort:
    """Twelve scans of mixed coverage and pose; the last two are of one patient."""
    rng = np.random.default_rng(7)
    scans = [make_scan(f"scan{n:02d}", rng, z_range_mm=COVERAGES[n % 3]) for n in range(12)]
    scans[-1] = replace(scans[-1], patient_id=scans[-2].patient_id, split_group=scans[-2].split_group)
    frames = {s.scan_id: body_frame(s.voxels, s.zyx_to_lps_mm, None, BodyConfig()) for s in scans}
    return Cohort(scans, frames, {s.scan_id: rng.normal(size=6) for s in scans})


@pytest.fixture(scope="session")
def draw_scan() -> Callable[..., MadeUpScan]:
    """`make_scan`, for tests that need a scan of their own."""
    return make_scan
