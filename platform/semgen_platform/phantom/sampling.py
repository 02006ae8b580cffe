"""HU and label of every voxel: the patient's anatomy inside his skin, the table and air outside, by partial volume.

HU are the mean over a voxel's extent, labels those of its centre. All that varies with place comes from a coarse
lattice and is interpolated slice by slice, so a scan is never held at the finer sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.fields import Field, linear_weights, spread
from semgen_platform.phantom.labels import LABELS

AIR_HU, SKIN_HU, SKIN_MM = -1000.0, 15.0, 2.0
EDGE_MM = np.float32(1.2)
"""Width over which skin turns into air."""
SAMPLE_MM = 1.7
"""Voxels are averaged over samples about this far apart; the anatomy's own grid has 1.5 mm."""

# The table: a shallow cradle of carbon fibre round foam, fixed to the scanner and not to the patient.
TABLE_HALF_WIDTH_MM, TABLE_DEPTH_MM, TABLE_SHELL_MM, TABLE_RADIUS_MM = 212.0, 40.0, 2.2, 520.0
TABLE_SHELL_HU, TABLE_FOAM_HU = 30.0, -925.0

Size = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Points:
    """What is known at each lattice point; the lattice's point (1, 1, 1) is the scan's first voxel.

    body_xyz_mm, world_xyz_mm : (z, y, x, 3); skin_mm : (z, y, x), distance from the skin, negative inside.
    """

    body_xyz_mm: Field
    skin_mm: Field
    world_xyz_mm: Field
    step_mm: float

    def channels(self) -> list[Field]:
        """Body x, y, z, skin distance, world x, y: each (z, y, x)."""
        body = [np.ascontiguousarray(self.body_xyz_mm[..., a]) for a in range(3)]
        return [*body, self.skin_mm, *(np.ascontiguousarray(self.world_xyz_mm[..., a]) for a in (0, 1))]


def sample(
    canvas: Canvas, points: Points, shape_zyx: Size, spacing_zyx_mm: tuple[float, float, float], table_y_mm: float
) -> tuple[Field, NDArray[np.uint8]]:
    """Mean HU (float32) and central label (uint8) of every voxel of a grid, both (z, y, x)."""
    channels = points.channels()
    parts = [max(1, round(s / SAMPLE_MM)) for s in spacing_zyx_mm]
    axes = list(zip(shape_zyx, spacing_zyx_mm, parts, channels[0].shape, strict=True))
    fine = [_weights(n, s / points.step_mm, p, size) for n, s, p, size in axes]
    centre = [_weights(n, s / points.step_mm, 1, size) for n, s, _, size in axes]
    hu, labels = np.empty(shape_zyx, np.float32), np.empty(shape_zyx, np.uint8)
    for k in range(shape_zyx[0]):
        layers = fine[0][k * parts[0] : (k + 1) * parts[0]]
        hu[k] = _block_mean(_hu(canvas, [spread(c, (layers, *fine[1:])) for c in channels], table_y_mm), parts)
        middle = centre[0][k : k + 1]
        labels[k] = _labels(canvas, [spread(c, (middle, *centre[1:])) for c in channels], table_y_mm)[0]
    return hu, labels


def _weights(count: int, spacing: float, parts: int, size: int) -> Field:
    """Weights of the lattice points for `parts` samples in each of `count` voxels along one axis."""
    index = (np.arange(count * parts) + 0.5) / parts - 0.5
    return linear_weights(1 + index * spacing, size)


def _block_mean(fine_ZYX: Field, parts: list[int]) -> Field:
    z, y, x = fine_ZYX.shape
    return np.asarray(fine_ZYX.reshape(z, y // parts[1], parts[1], x // parts[2], parts[2]).mean(axis=(0, 2, 4)))


def _grid_points(canvas: Canvas, body: list[Field]) -> Field:
    """(3, N) fractional z, y, x indices into the canvas."""
    return np.stack([(body[2 - a] - np.float32(canvas.low_zyx_mm[a])) / np.float32(canvas.step_mm) for a in range(3)])


def _hu(canvas: Canvas, channels: list[Field], table_y_mm: float) -> Field:
    skin, x, y = channels[3:]
    outer = np.full(skin.shape, AIR_HU, np.float32)
    for distance, value in zip(_table_distances(x, y, table_y_mm), (TABLE_SHELL_HU, TABLE_FOAM_HU), strict=True):
        outer += np.clip(0.5 - distance, 0, 1) * (value - outer)
    body = np.full(skin.shape, SKIN_HU, np.float32)
    inner = skin < -SKIN_MM + EDGE_MM
    deep = map_coordinates(canvas.hu, _grid_points(canvas, [c[inner] for c in channels[:3]]), order=1, mode="nearest")
    body[inner] += np.clip(0.5 - (skin[inner] + SKIN_MM) / EDGE_MM, 0, 1) * (deep - SKIN_HU)
    return np.asarray(body + np.clip(0.5 + skin / EDGE_MM, 0, 1) * (outer - body), np.float32)


def _labels(canvas: Canvas, channels: list[Field], table_y_mm: float) -> NDArray[np.uint8]:
    skin, x, y = channels[3:]
    labels = np.where(_table_distances(x, y, table_y_mm)[0] < 0, LABELS["table"], LABELS["air"]).astype(np.uint8)
    labels[skin < 0] = LABELS["skin"]
    inner = skin < -SKIN_MM
    index = np.rint(_grid_points(canvas, [c[inner] for c in channels[:3]])).astype(np.intp)
    limits = np.array(canvas.labels.shape)[:, None] - 1
    labels[inner] = canvas.labels[tuple(np.clip(index, 0, limits))]
    return labels


def table_height_mm(world_xyz_mm: NDArray[np.float64], skin_mm: Field) -> float:
    """World y of the cradle's lowest line at which it touches the patient from below."""
    sag = world_xyz_mm[..., 1] + world_xyz_mm[..., 0] ** 2 / (2 * TABLE_RADIUS_MM)
    return float(sag[skin_mm < 0].max(initial=-200.0))


def _table_distances(x: Field, y: Field, table_y_mm: float) -> tuple[Field, Field]:
    """Distance to the table and to its inside at world x and y, both in mm and negative within."""
    across = np.minimum((x / np.float32(TABLE_HALF_WIDTH_MM)) ** 2, np.float32(1.44))
    top = np.float32(table_y_mm) - x * x / np.float32(2 * TABLE_RADIUS_MM)
    bottom = top + np.float32(TABLE_DEPTH_MM) * (1 - across * across * across)
    distance = np.maximum(top - y, y - bottom)
    return distance, distance + np.float32(TABLE_SHELL_MM)
