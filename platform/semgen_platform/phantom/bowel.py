"""What fills a patient's belly today: the stomach's meal and gas, colon with stool, coils of small bowel.

Every patient has his own coils, so that they are no landmark; their labels are regions and stay where they are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semgen_platform.phantom.abdomen import BOWEL_WALL_HU, FLUID_HU
from semgen_platform.phantom.canvas import OUTSIDE, Canvas, Path, curve, smooth_max
from semgen_platform.phantom.labels import LABELS, labels_like
from semgen_platform.phantom.trunk import CAVITY

GAS_HU = -985.0

_COLON: Path = [
    (-70, 10, 6), (-96, 16, 24), (-102, 20, 60), (-100, 18, 95), (-92, 2, 128),  # up the right side
    (-84, -34, 134), (-50, -60, 112), (-10, -66, 96), (35, -64, 112), (72, -48, 150), (98, -6, 182),  # across
    (104, 22, 176), (106, 30, 130), (104, 28, 80), (98, 20, 30),  # down the left side
    (84, 4, -14), (50, -8, -44), (16, 10, -50), (0, 50, -70), (0, 56, -118),
]  # fmt: skip
_COIL_ROOM = labels_like("bowel_.*")


def fill_stomach(canvas: Canvas, gas_above_y_mm: float, fluid_hu: float, rng: np.random.Generator) -> None:
    """Fluid with crumbs in place of the stomach's content, and gas before the level `gas_above_y_mm`."""
    box = canvas.box((-55, -95, 130), (115, 75, 295))
    labels, hu = canvas.labels[box.window], canvas.hu[box.window]
    content = labels == LABELS["stomach_content"]
    hu[content] += fluid_hu - FLUID_HU + rng.standard_normal(int(content.sum()), dtype=np.float32) * 14
    gas = np.clip(0.5 + (gas_above_y_mm - box.y) / canvas.step_mm, 0, 1)
    hu += np.where(content, gas, 0) * (GAS_HU - hu)


def paint_bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Coils of small bowel in the fat of the belly, and the colon as a frame round them."""
    for angle, depth_y_mm in zip(rng.uniform(-1.2, 1.2, 3), (-50.0, -22.0, 6.0), strict=True):
        _paint_coils(canvas, float(angle), depth_y_mm, rng)
    _paint_colon(canvas, rng)


def _paint_coils(canvas: Canvas, angle: float, depth_y_mm: float, rng: np.random.Generator) -> None:
    """One layer of the small bowel: rows turned by `angle`, bent and jittered, touching and not merging."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for row in np.arange(-140, 141, 25.0):
        if rng.random() < 0.1:
            continue  # a gap that fat fills
        along = np.arange(-130, 131, 22.0)
        across = row + 9 * np.sin(along / rng.uniform(14, 24) + rng.uniform(0, 6)) + rng.normal(0, 3, len(along))
        x, z = turn @ np.stack([along, across]) + np.array([[0.0], [10.0]])
        points = np.stack([x, depth_y_mm + rng.normal(0, 4, len(x)), z], axis=1)
        low, high = sorted(rng.integers(0, len(points) + 1, 2))
        for part in (points[:low], points[low:high], points[high:]):
            inside = (np.abs(part[:, 0]) < 98) & (part[:, 2] > -125) & (part[:, 2] < 140)
            if inside.sum() > 3:
                _paint_coil(canvas, part[inside], rng)


def _paint_coil(canvas: Canvas, path: NDArray[np.float64], rng: np.random.Generator) -> None:
    """One piece of small bowel with its wall, in the regions of small bowel alone."""
    points, radii = curve(path, rng.uniform(8.5, 13, len(path)), spacing_mm=3)
    box, distance = canvas.tube(points, radii)
    distance = smooth_max(distance, CAVITY.distance(box.x, box.y, box.z) + 3, 6)
    label = canvas.labels[box.window].copy()
    distance = np.where(np.isin(label, _COIL_ROOM), distance, OUTSIDE)
    canvas.paint(box, distance, label, BOWEL_WALL_HU, 0.5)
    canvas.paint(box, distance + np.float32(2.0), label, float(rng.choice([12.0, 20.0, 34.0, 40.0])), 0.05)
    if rng.random() < 0.25:
        level = np.float32(points[len(points) // 2, 1] - rng.uniform(0, 6))
        canvas.paint(box, np.maximum(distance + np.float32(2.4), box.y - level), label, GAS_HU)


def _paint_colon(canvas: Canvas, rng: np.random.Generator) -> None:
    """Wall, stool with its speckle, and some stretches with gas in front; haustra as a ripple of the radius."""
    points, _ = curve(np.array(_COLON) + rng.normal(0, 4.0, (len(_COLON), 3)), spacing_mm=2.5)
    along = np.arange(len(points))
    radii = (
        17 + 2.6 * np.sin(along * 2 * np.pi / 9) + np.interp(along, [0, 40, 150, 250, len(points)], [5, 4, 0, -3, -3])
    )
    box, distance = canvas.tube(points, radii)
    distance = smooth_max(distance, CAVITY.distance(box.x, box.y, box.z) + 2, 5)
    canvas.paint(box, distance, LABELS["colon"], BOWEL_WALL_HU, 0.4)
    stool = np.clip(rng.standard_normal(distance.shape, dtype=np.float32) * 130 - 10, -500, 90)
    canvas.paint(box, distance + np.float32(2.6), LABELS["colon"], stool)
    for start in rng.integers(0, len(points) - 26, 5):
        stretch = slice(start, start + 26)
        part, gas = canvas.tube(points[stretch], radii[stretch] - 2.8)
        gas = np.maximum(gas, CAVITY.distance(part.x, part.y, part.z) + 5)
        level = np.float32(points[stretch, 1].mean() - rng.uniform(-6, 8))
        canvas.paint(part, np.maximum(gas, part.y - level), LABELS["colon"], GAS_HU)
