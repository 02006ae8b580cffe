"""The scanner: a patient in a field of view becomes HU on a grid, with the truth of every voxel.

The body coordinate is computed on an 8 mm lattice and interpolated, exact to about 0.1 mm for maps this smooth. Arrays
are z, y, x; the grid's axes run near LPS, the orientation on disk is the writer's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator
from pydantic import Field as Setting

from semgen_platform import geometry
from semgen_platform.config import Config
from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.detector import PADDING_HU, Kernel, measured
from semgen_platform.phantom.patient import PIVOT_XYZ_MM, Patient, Range, ascending
from semgen_platform.phantom.sampling import Points, sample, table_height_mm
from semgen_platform.volume import Volume

LATTICE_MM = 8.0

Coverage = Literal["chest", "chest_abdomen", "abdomen"]

COVERAGE_MM: dict[Coverage, tuple[float, float]] = {
    "chest": (160.0, 494.0),
    "chest_abdomen": (-48.0, 494.0),
    "abdomen": (-58.0, 298.0),
}
"""Body levels from which and to which a scan reaches."""


def _is_orientation(code: str) -> str:
    if sorted("RAI".find(c) if c in "RAI" else "LPS".find(c) for c in code) != [0, 1, 2]:
        raise ValueError("give one letter each of RL, AP and IS, such as LPS or RAS")
    return code


Orientation = Annotated[str, AfterValidator(_is_orientation)]


class ScannerConfig(Config):
    """How scans are taken."""

    matrix: int = Setting(256, ge=32, le=1024)
    """Pixels along x and y."""
    field_of_view_mm: Range = (307.0, 461.0)
    """Width of the picture; with a matrix of 512 it gives pixels of 0.6 to 0.9 mm."""
    slice_mm: Range = (1.0, 3.0)
    coverage: tuple[Coverage, ...] = Setting(("chest", "chest_abdomen", "abdomen"), min_length=1)
    noise_hu: Annotated[tuple[float, float], AfterValidator(ascending)] = (8.0, 25.0)
    """Standard deviation of the noise in a trunk of middle size."""
    kernels: tuple[Kernel, ...] = Setting(("soft", "standard", "sharp"), min_length=1)
    round_view_share: float = Setting(0.3, ge=0, le=1)
    """Share of scans with -1024 outside the circle in the picture's square."""
    orientations: tuple[Orientation, ...] = Setting(("LPS", "RAS", "LAS", "LPI"), min_length=1)
    """Axis orders on disk; LAS and LPI are left-handed."""
    oblique_share: float = Setting(0.15, ge=0, le=1)
    """Share of scans on a grid that is turned against the patient axes by 4 to 14 degrees."""


@dataclass(frozen=True, eq=False)
class Protocol:
    """One scan's settings."""

    coverage: Coverage
    kernel: Kernel
    noise_hu: float
    shape_zyx: tuple[int, int, int]
    ijk_to_lps_mm: NDArray[np.float64]
    round_view: bool
    orientation: str
    table_gap_mm: float
    seed: int

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        return geometry.spacing_zyx_mm(self.ijk_to_lps_mm)


@dataclass(frozen=True, eq=False)
class PhantomScan:
    """A scan with its truth.

    volume : int16 HU, axes near LPS.
    labels_ZYX : uint8 (labels.LABELS) on the same grid.
    body_xyz_mm : float32 (z, y, x, 3), canonical-body coordinate of every lattice point.
    lattice_zyx_to_lps_mm : (4, 4), lattice index (z, y, x, 1) to LPS.
    """

    volume: Volume
    labels_ZYX: NDArray[np.uint8]
    body_xyz_mm: NDArray[np.float32]
    lattice_zyx_to_lps_mm: NDArray[np.float64]


def draw_protocol(config: ScannerConfig, patient: Patient, seed: int, *, exact: bool) -> Protocol:
    """Settings for a patient's scan; `exact` leaves out the jitter of the coverage's ends."""
    rng = uniform_stream(seed, "protocol", patient.number)
    coverage = config.coverage[int(rng.integers(len(config.coverage)))]
    kernel = config.kernels[int(rng.integers(len(config.kernels)))]
    width, thick, noise = (
        rng.uniform(*config.field_of_view_mm),
        rng.uniform(*config.slice_mm),
        rng.uniform(*config.noise_hu),
    )
    ends = np.array(COVERAGE_MM[coverage]) + (0 if exact else 1) * rng.uniform(-12, 12, 2)
    round_view, oblique = rng.random() < config.round_view_share, rng.random() < config.oblique_share
    orientation = config.orientations[int(rng.integers(len(config.orientations)))]
    directions = _tilted(rng) if oblique else np.eye(3)
    low, high = PIVOT_XYZ_MM[2] + patient.shift_xyz_mm[2] + patient.size_xyz[2] * (ends - PIVOT_XYZ_MM[2])
    pixel, slices = width / config.matrix, max(8, round((high - low) / thick))
    middle = np.array([0.0, 0.0, (low + high) / 2])
    half = np.array([config.matrix - 1, config.matrix - 1, slices - 1]) / 2
    affine = geometry.affine_from((pixel, pixel, thick), (0, 0, 0), directions)
    affine[:3, 3] = middle - affine[:3, :3] @ half
    return Protocol(
        coverage=coverage,
        kernel=kernel,
        noise_hu=float(noise),
        shape_zyx=(slices, config.matrix, config.matrix),
        ijk_to_lps_mm=affine,
        round_view=bool(round_view),
        orientation=orientation,
        table_gap_mm=float(rng.uniform(1, 14)),
        seed=seed,
    )


def _tilted(rng: np.random.Generator) -> NDArray[np.float64]:
    from scipy.spatial.transform import Rotation

    axis = rng.normal(0, (1.0, 0.5, 0.4))
    angle = np.radians(rng.uniform(4, 14) * rng.choice([-1, 1]))
    return np.asarray(Rotation.from_rotvec(axis / np.linalg.norm(axis) * angle).as_matrix())


def scan_patient(patient: Patient, protocol: Protocol) -> PhantomScan:
    """Scan a patient: a pure function of both."""
    shape, affine = protocol.shape_zyx, protocol.ijk_to_lps_mm
    lattice = body_lattice(affine)
    world = geometry.apply_affine(lattice, _indices(lattice_shape(shape, protocol.spacing_zyx_mm)))
    body = patient.to_body(world).astype(np.float32)
    skin = patient.skin_distance_mm(body)
    table_y = table_height_mm(world, skin) + protocol.table_gap_mm
    points = Points(body, skin, world.astype(np.float32), LATTICE_MM)
    hu, labels = sample(patient.anatomy(), points, shape, protocol.spacing_zyx_mm, table_y)
    voxels = measured(
        hu,
        pixel_mm=protocol.spacing_zyx_mm[2],
        kernel=protocol.kernel,
        noise_hu=protocol.noise_hu,
        round_view=protocol.round_view,
        rng=uniform_stream(protocol.seed, "noise", patient.number),
    )
    padding = float(PADDING_HU) if protocol.round_view else None
    volume = Volume(voxels=voxels, ijk_to_lps_mm=affine, modality="CT", padding_hu=padding)
    return PhantomScan(volume, labels, body, lattice)


def lattice_shape(shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """Lattice points (z, y, x) that cover a grid with one to spare on each side."""
    z, y, x = (int(np.ceil((n - 1) * s / LATTICE_MM)) + 3 for n, s in zip(shape_zyx, spacing_zyx_mm, strict=True))
    return z, y, x


def body_lattice(ijk_to_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """`zyx_to_lps_mm` of the 8 mm lattice along a grid's axes; its point (1, 1, 1) is the grid's first voxel."""
    affine = geometry.affine_from((LATTICE_MM,) * 3, (0, 0, 0), geometry.direction_cosines(ijk_to_lps_mm))
    affine[:3, 3] = ijk_to_lps_mm[:3, 3] - affine[:3, :3].sum(axis=1)
    return geometry.reverse_index_axes(affine)


def _indices(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"), axis=-1)
