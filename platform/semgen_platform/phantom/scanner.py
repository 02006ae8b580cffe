"""The scanner: a patient in a field of view becomes HU on a grid, with the truth of every voxel.

The body coordinate is computed on an 8 mm lattice and interpolated, which is exact to about 0.1 mm for maps this smooth;
HU are the mean over a voxel's extent (partial volume), then noise, kernel, table and field of view follow.
Arrays are z, y, x; the grid's axes run near LPS, the orientation on disk is the writer's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Setting
from scipy.ndimage import gaussian_filter, gaussian_filter1d, map_coordinates

from semgen_platform import geometry
from semgen_platform.config import Config
from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.fields import Field, linear_weights, spread
from semgen_platform.phantom.labels import LABELS
from semgen_platform.phantom.patient import PIVOT_XYZ_MM, Patient
from semgen_platform.volume import Volume

LATTICE_MM = 8.0
SKIN_MM, SKIN_HU = 2.0, 15.0
AIR_HU, PADDING_HU = -1000.0, -1024
FINEST_MM = 1.4
"""Voxels longer than this are averaged over several samples."""

Coverage = Literal["chest", "chest_abdomen", "abdomen"]
Kernel = Literal["soft", "standard", "sharp"]

COVERAGE_MM: dict[Coverage, tuple[float, float]] = {
    "chest": (160.0, 494.0),
    "chest_abdomen": (-48.0, 494.0),
    "abdomen": (-58.0, 298.0),
}
"""Body levels from which and to which a scan reaches."""

KERNELS: dict[Kernel, tuple[float, float, float]] = {
    "soft": (0.75, 0.95, 0.0),
    "standard": (0.45, 0.6, 0.0),
    "sharp": (0.0, 0.35, 0.7),
}
"""Blur of the picture (sd, mm), grain of the noise (sd, mm), and how much edges are raised."""


class ScannerConfig(Config):
    """How scans are taken."""

    matrix: int = Setting(256, ge=32, le=1024)
    """Pixels along x and y."""
    field_of_view_mm: tuple[float, float] = (307.0, 461.0)
    """Width of the picture; with a matrix of 512 it gives pixels of 0.6 to 0.9 mm."""
    slice_mm: tuple[float, float] = (1.0, 3.0)
    coverage: tuple[Coverage, ...] = ("chest", "chest_abdomen", "abdomen")
    noise_hu: tuple[float, float] = (8.0, 25.0)
    """Standard deviation of the noise in a trunk of middle size."""
    kernels: tuple[Kernel, ...] = ("soft", "standard", "sharp")
    round_view_share: float = Setting(0.3, ge=0, le=1)
    """Share of scans with -1024 outside the circle in the picture's square."""
    orientations: tuple[str, ...] = ("LPS", "RAS", "LAS", "LPI")
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
    canvas = patient.anatomy()
    lattice = body_lattice(protocol.shape_zyx, protocol.ijk_to_lps_mm)
    world = geometry.apply_affine(lattice, _indices(lattice_shape(protocol.shape_zyx, protocol.ijk_to_lps_mm)))
    body = patient.to_body(world).astype(np.float32)
    skin = patient.skin_distance_mm(body)
    table_y = _table_height_mm(world, skin) + protocol.table_gap_mm
    hu, labels = _sample(canvas, protocol, np.concatenate([body, skin[..., None]], axis=-1), table_y)
    voxels = _measured(hu, protocol, uniform_stream(protocol.seed, "noise", patient.number))
    padding = float(PADDING_HU) if protocol.round_view else None
    volume = Volume(voxels=voxels, ijk_to_lps_mm=protocol.ijk_to_lps_mm, modality="CT", padding_hu=padding)
    return PhantomScan(volume, labels, body, lattice)


def lattice_shape(shape_zyx: tuple[int, int, int], ijk_to_lps_mm: NDArray[np.float64]) -> tuple[int, int, int]:
    """Lattice points (z, y, x) that cover a grid with one to spare on each side."""
    spacing = geometry.spacing_zyx_mm(ijk_to_lps_mm)
    z, y, x = (int(np.ceil((n - 1) * s / LATTICE_MM)) + 3 for n, s in zip(shape_zyx, spacing, strict=True))
    return z, y, x


def body_lattice(shape_zyx: tuple[int, int, int], ijk_to_lps_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """`zyx_to_lps_mm` of the 8 mm lattice along the grid's axes; its point (1, 1, 1) is the grid's first voxel."""
    directions = geometry.direction_cosines(ijk_to_lps_mm)
    affine = geometry.affine_from((LATTICE_MM,) * 3, (0, 0, 0), directions)
    affine[:3, 3] = ijk_to_lps_mm[:3, 3] - affine[:3, :3].sum(axis=1)
    return geometry.reverse_index_axes(affine)


def _indices(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.stack(np.meshgrid(*(np.arange(n, dtype=np.float64) for n in shape), indexing="ij"), axis=-1)


def _sample(canvas: Canvas, protocol: Protocol, lattice: Field, table_y_mm: float) -> tuple[Field, NDArray[np.uint8]]:
    """Mean HU and central label of every voxel; `lattice` holds body x, y, z and skin distance."""
    spacing = geometry.spacing_zyx_mm(protocol.ijk_to_lps_mm)
    parts = [max(1, round(s / FINEST_MM)) for s in spacing]
    hu = np.empty(protocol.shape_zyx, np.float32)
    labels = np.empty(protocol.shape_zyx, np.uint8)
    channels = [np.ascontiguousarray(lattice[..., c]) for c in range(4)]
    fine = [
        _weights(n, s, p, channels[0].shape[a])
        for a, (n, s, p) in enumerate(zip(protocol.shape_zyx, spacing, parts, strict=True))
    ]
    centre = [
        _weights(n, s, 1, channels[0].shape[a])
        for a, (n, s) in enumerate(zip(protocol.shape_zyx, spacing, strict=True))
    ]
    for k in range(protocol.shape_zyx[0]):
        rows = fine[0][k * parts[0] : (k + 1) * parts[0]]
        picture = _slab(
            canvas, [spread(c, (rows, fine[1], fine[2])) for c in channels], _positions(protocol, k, parts), table_y_mm
        )
        hu[k] = _block_mean(picture, parts)
        labels[k] = _labels(
            canvas,
            [spread(c, (centre[0][k : k + 1], centre[1], centre[2])) for c in channels],
            _positions(protocol, k, [1, 1, 1]),
            table_y_mm,
        )[0]
    return hu, labels


def _weights(count: int, spacing: float, parts: int, size: int) -> Field:
    """Weights of the lattice points for `parts` samples in each of `count` voxels along one axis."""
    index = (np.arange(count * parts) + 0.5) / parts - 0.5
    return linear_weights(1 + index * spacing / LATTICE_MM, size)


def _positions(protocol: Protocol, k: int, parts: list[int]) -> tuple[Field, Field]:
    """World x and y in mm of the samples of slice k, each (z, y, x)."""
    axes = [(np.arange(n * p) + 0.5) / p - 0.5 for n, p in zip((1, *protocol.shape_zyx[1:]), parts, strict=True)]
    z, y, x = axes[0] + k, axes[1], axes[2]
    affine = protocol.ijk_to_lps_mm
    world = [
        affine[a, 0] * x[None, None, :]
        + affine[a, 1] * y[None, :, None]
        + affine[a, 2] * z[:, None, None]
        + affine[a, 3]
        for a in (0, 1)
    ]
    return np.asarray(world[0], np.float32), np.asarray(world[1], np.float32)


def _grid_points(canvas: Canvas, x: Field, y: Field, z: Field) -> Field:
    low = canvas.low_zyx_mm
    return np.stack([(z - low[0]) / canvas.step_mm, (y - low[1]) / canvas.step_mm, (x - low[2]) / canvas.step_mm])


def _slab(canvas: Canvas, channels: list[Field], position: tuple[Field, Field], table_y_mm: float) -> Field:
    """HU at samples (z, y, x): the body inside its skin, the table and air outside."""
    x, y, z, skin = channels
    edge = np.float32(1.2)
    outside = np.clip(skin / edge + 0.5, 0, 1)
    hu = np.full(skin.shape, AIR_HU, np.float32)
    _lay_table(hu, position, table_y_mm)
    inner = skin < -SKIN_MM + edge
    body = np.full(skin.shape, SKIN_HU, np.float32)
    deep = map_coordinates(canvas.hu, _grid_points(canvas, x[inner], y[inner], z[inner]), order=1, mode="nearest")
    share = np.clip(-(skin[inner] + SKIN_MM) / edge + 0.5, 0, 1)
    body[inner] += share * (deep - SKIN_HU)
    return np.asarray(body + outside * (hu - body), np.float32)


def _labels(
    canvas: Canvas, channels: list[Field], position: tuple[Field, Field], table_y_mm: float
) -> NDArray[np.uint8]:
    x, y, z, skin = channels
    labels = np.where(_table_depth(position, table_y_mm)[0] < 0, np.uint8(LABELS["table"]), np.uint8(LABELS["air"]))
    labels[skin < 0] = LABELS["skin"]
    inner = skin < -SKIN_MM
    index = np.rint(_grid_points(canvas, x[inner], y[inner], z[inner])).astype(np.intp)
    for axis, size in enumerate(canvas.labels.shape):
        np.clip(index[axis], 0, size - 1, out=index[axis])
    labels[inner] = canvas.labels[tuple(index)]
    return labels


def _block_mean(fine: Field, parts: list[int]) -> Field:
    z, y, x = fine.shape
    return np.asarray(
        fine.reshape(z, y // parts[1], parts[1], x // parts[2], parts[2]).mean(axis=(0, 2, 4)), np.float32
    )


# The table: a shallow cradle of carbon fibre round foam, fixed to the scanner and not to the patient.
TABLE_HALF_WIDTH_MM, TABLE_DEPTH_MM, TABLE_SHELL_MM, TABLE_RADIUS_MM = 212.0, 40.0, 2.2, 520.0
TABLE_SHELL_HU, TABLE_FOAM_HU = 30.0, -925.0


def _table_height_mm(world: NDArray[np.float64], skin: Field) -> float:
    """World y of the cradle's lowest line so that it touches the patient from below."""
    sag = world[..., 1] + world[..., 0] ** 2 / (2 * TABLE_RADIUS_MM)
    return float(sag[skin < 0].max(initial=-200.0))


def _table_depth(position: tuple[Field, Field], table_y_mm: float) -> tuple[Field, Field]:
    """(distance to the table, distance to its inside), both in mm and negative within."""
    x, y = position
    across = np.minimum(np.abs(x) / TABLE_HALF_WIDTH_MM, 1.2)
    top = table_y_mm - x * x / np.float32(2 * TABLE_RADIUS_MM)
    bottom = top + TABLE_DEPTH_MM * (1 - across**6)
    distance = np.maximum(top - y, y - bottom)
    return distance, distance + np.float32(TABLE_SHELL_MM)


def _lay_table(hu: Field, position: tuple[Field, Field], table_y_mm: float) -> None:
    for distance, value in zip(_table_depth(position, table_y_mm), (TABLE_SHELL_HU, TABLE_FOAM_HU), strict=True):
        share = np.clip(0.5 - distance, 0, 1)
        hu += share * (value - hu)


def _measured(hu: Field, protocol: Protocol, rng: np.random.Generator) -> NDArray[np.int16]:
    """HU as the scanner reports them: kernel, noise, whole numbers in 12 bits, field of view."""
    blur, grain, raise_edges = KERNELS[protocol.kernel]
    pixel = geometry.spacing_zyx_mm(protocol.ijk_to_lps_mm)[2]
    picture = gaussian_filter(hu, (0, blur / pixel, blur / pixel)) if blur > 0.25 * pixel else hu
    if raise_edges:
        picture = picture + np.float32(raise_edges) * (
            picture - gaussian_filter(picture, (0, 1.1 / pixel, 1.1 / pixel))
        )
    strength, streaks = _noise_levels(hu, pixel)
    noise = _noise(hu.shape, grain / pixel, streaks, rng)
    noise *= (np.float32(protocol.noise_hu) * strength)[:, None, None]
    picture = picture + noise
    voxels = np.clip(np.rint(picture), PADDING_HU, 3071).astype(np.int16)
    if protocol.round_view:
        voxels[:, _outside_circle(hu.shape[1])] = PADDING_HU
    return voxels


def _noise_levels(hu: Field, pixel_mm: float) -> tuple[Field, Field]:
    """Noise of each slice against a middle one, and its share of streaks: thick slices are noisy, shoulders streak sideways."""
    water = np.clip(hu * np.float32(1e-3) + 1, 0, 2)
    area = water.sum(axis=(1, 2)) * pixel_mm**2
    diameter = 2 * np.sqrt(area / np.pi)
    strength = np.exp((diameter - 270) * 0.0045)
    sideways = np.percentile(water.sum(axis=2), 95, axis=1) / np.maximum(
        np.percentile(water.sum(axis=1), 95, axis=1), 1
    )
    return np.clip(strength, 0.5, 2.0).astype(np.float32), np.clip((sideways - 1.75) / 0.9, 0, 0.85).astype(np.float32)


def _noise(shape: tuple[int, ...], grain: float, streaks: Field, rng: np.random.Generator) -> Field:
    """Unit-variance noise, correlated in plane over `grain` pixels, and along x where slices streak."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    if grain > 0.25:
        noise = gaussian_filter(noise, (0, grain, grain))
    noise /= noise.std()
    for k in np.flatnonzero(streaks > 0.02):
        long = gaussian_filter1d(noise[k], 14 * max(grain, 0.5), axis=1)
        noise[k] = np.sqrt(1 - streaks[k] ** 2) * noise[k] + streaks[k] * long / long.std()
    return noise


def _outside_circle(size: int) -> NDArray[np.bool_]:
    away = np.arange(size) - (size - 1) / 2
    return away[:, None] ** 2 + away[None, :] ** 2 > (size / 2) ** 2
