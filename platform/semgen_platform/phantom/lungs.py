"""Lungs with lobes, fissures and vessels, and the airways down to the lobes."""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import (
    OUTSIDE,
    Box,
    Canvas,
    Field,
    Path,
    Point,
    curve,
    inset,
    profile,
    smooth_max,
    smooth_min,
)
from semgen_platform.phantom.heart import (
    AORTA_ARCH,
    AORTA_UP,
    BLOOD_HU,
    HEART_XYZ_MM,
    SOFT_HU,
    aorta_descending,
    heart_hull,
)
from semgen_platform.phantom.labels import LABELS, SIDE_SIGNS
from semgen_platform.phantom.spine import spine_y
from semgen_platform.phantom.trees import grow_tree, scatter_inside
from semgen_platform.phantom.trunk import CAVITY, diaphragm_mm

LUNG_HU, AIRWAY_HU = -860.0, -985.0

_CARINA: Point = (0.0, 12.0, 393.0)
_MAIN_AIRWAYS: dict[str, tuple[Path, list[float]]] = {
    "trachea": ([(0, -12, 545), (0, -8, 500), (1, 0, 455), (2, 7, 425), _CARINA], [9, 9, 9, 9, 9.5]),
    "bronchus_right": (
        [_CARINA, (-16, 15, 378), (-32, 14, 362), (-42, 14, 346), (-50, 20, 322), (-58, 34, 296)],
        [7.5, 7, 6, 5, 3.6, 2.4],
    ),
    "bronchus_left": (
        [_CARINA, (18, 16, 380), (36, 18, 367), (46, 18, 356), (54, 26, 334), (62, 40, 304)],
        [6.8, 6.2, 5.6, 5, 3.4, 2.3],
    ),
}
_LOBAR_AIRWAYS: dict[str, list[Path]] = {
    "bronchus_right": [
        [(-20, 15, 374), (-42, 8, 378), (-56, 0, 392), (-62, -6, 412)],
        [(-54, 0, 391), (-68, -18, 396)],
        [(-46, 10, 384), (-62, 28, 400)],
        [(-44, 14, 348), (-62, -4, 344), (-76, -34, 338)],
        [(-44, 16, 340), (-58, 44, 346)],
        [(-50, 20, 322), (-62, 0, 298)],
    ],
    "bronchus_left": [
        [(40, 18, 364), (54, 6, 372), (60, -2, 390), (64, -2, 412)],
        [(52, 7, 371), (66, -22, 366), (74, -44, 352)],
        [(46, 18, 356), (58, 46, 356)],
        [(54, 26, 334), (72, 14, 308)],
    ],
}
_HILA: dict[str, list[tuple[Point, Point]]] = {
    "right": [((-36, 4, 372), (-0.6, 0.1, 0.8)), ((-40, 8, 352), (-0.6, 0.3, -0.7)), ((-30, 12, 344), (-1, 0.2, -0.2))],
    "left": [((40, 8, 380), (0.6, 0, 0.8)), ((46, 18, 362), (0.5, 0.4, -0.8)), ((34, 14, 346), (1, 0.1, -0.1))],
}
"""Upper artery, lower artery and vein of each side: where they enter the lung, and heading where."""

_MIDDLE_HALF_WIDTH = profile(
    (545, 40), (470, 34), (440, 30), (415, 29), (392, 26), (360, 20), (330, 12), (290, 9), (200, 8)
)


def _mediastinum(canvas: Canvas, box: Box) -> Field:
    """Distance to all that lies between the lungs: heart, great vessels, spine, the space behind the sternum."""
    half = _MIDDLE_HALF_WIDTH(np.clip(box.z, 200, 545))[..., 0].astype(np.float32)
    thin_before = 1 / (1 + np.exp(-(box.y + 46) / 6))
    thin_behind = 0.35 + 0.65 / (1 + np.exp((box.y - 40) / 7))
    to_the_left = 4 * np.clip((400 - box.z) / 60, 0, 1)
    space = np.abs(box.x - to_the_left) - 4 - (half - 4) * thin_before * thin_behind
    column = np.sqrt(box.x**2 + (box.y - spine_y(box.z) - 3) ** 2) - np.float32(19)
    distance = smooth_min(space, column, 12)
    heart = canvas.box(*HEART_XYZ_MM)
    part = distance[inset(box, heart)]
    part[...] = smooth_min(part, heart_hull(heart), 14)
    for points, radius in ((aorta_descending(180), 16.0), (curve(AORTA_UP + AORTA_ARCH[1:])[0], 20.0)):
        distance = smooth_min(distance, canvas.tube(points, radius, box=box)[1], 8)
    return distance


def _lungs(canvas: Canvas, box: Box) -> Field:
    """Distance to both lungs: the cavity above the diaphragm without the mediastinum."""
    cavity = CAVITY.distance(box.x, box.y, box.z) + np.float32(0.5)
    above = (diaphragm_mm(box.x, box.y) - box.z + 1.5) * np.float32(0.75)
    outer = smooth_max(smooth_max(cavity, above, 3), box.z - np.float32(473), 14)
    return smooth_max(outer, 1 - _mediastinum(canvas, box), 5)


def _fissures(box: Box) -> tuple[Field, Field, Field]:
    """Height above the right and left oblique fissure and above the right horizontal one, in mm."""
    wave = 5 * np.sin(box.x / 21)
    right = (box.z - (352 + 0.98 * box.y + 0.10 * (box.x + 70) + wave)) * np.float32(0.71)
    left = (box.z - (358 + 1.02 * box.y - 0.12 * (box.x - 70) + wave)) * np.float32(0.70)
    flat = box.z - (352 - 0.12 * (box.y + 20) + 0.5 * wave)
    return right, left, np.asarray(flat, np.float32)


def paint_lungs(canvas: Canvas, rng: np.random.Generator) -> None:
    """Lobes, denser behind where the blood sinks, then fissures and vessels."""
    box = canvas.box((-150, -110, 165), (150, 110, 480))
    lungs = _lungs(canvas, box)
    right, left, flat = _fissures(box)
    upper_right = np.where(flat > 0, LABELS["lung_upper_right"], LABELS["lung_middle_right"])
    on_the_right = np.where(right > 0, upper_right, LABELS["lung_lower_right"])
    on_the_left = np.where(left > 0, LABELS["lung_upper_left"], LABELS["lung_lower_left"])
    label = np.where(box.x < 0, on_the_right, on_the_left)
    canvas.paint(box, lungs, label, LUNG_HU + 0.42 * (box.y + 10) - 0.05 * (box.z - 320), 0.12)
    horizontal = np.where(right > 0, np.abs(flat), OUTSIDE)
    sheet = np.where(box.x < 0, np.minimum(np.abs(right), horizontal), np.abs(left)) - np.float32(0.25)
    canvas.paint(box, np.maximum(sheet, lungs), label, -650.0)
    for side in SIDE_SIGNS:
        _paint_vessels(canvas, box, lungs, side, rng)


def _paint_vessels(canvas: Canvas, box: Box, lungs: Field, side: str, rng: np.random.Generator) -> None:
    """Two arterial trees and a venous one that share the lung's tips among them."""
    room = np.where(SIDE_SIGNS[side] * box.x > 0, lungs + np.float32(3.5), OUTSIDE)
    tips = scatter_inside(room, box, 900, 6.0, rng)
    venous = rng.random(len(tips)) < 0.42
    high = tips[:, 2] > 365 - 0.3 * tips[:, 1]
    groups = (tips[~venous & high], tips[~venous & ~high], tips[venous])
    for (root, heading), group in zip(_HILA[side], groups, strict=True):
        part, distance = canvas.tube(*grow_tree(root, heading, group, tip_radius_mm=0.6, root_radius_mm=7.5))
        canvas.paint(part, distance, LABELS[f"lung_vessels_{side}"], BLOOD_HU, 0.9)


def paint_airways(canvas: Canvas) -> None:
    """Trachea and main bronchi with their walls, the lobar branches, and the main lumen once more over their walls."""
    for name, (path, radii) in _MAIN_AIRWAYS.items():
        _paint_airway(canvas, name, path, np.array(radii), wall_mm=1.8 if name == "trachea" else 1.4)
        for branch in _LOBAR_AIRWAYS.get(name, []):
            _paint_airway(canvas, name, branch, np.linspace(3.6, 1.5, len(branch)), wall_mm=1.0)
    for name, (path, radii) in _MAIN_AIRWAYS.items():
        canvas.paint_tube(path, radii, LABELS[name], AIRWAY_HU)


def _paint_airway(canvas: Canvas, name: str, path: Path, radii: Any, wall_mm: float) -> None:
    canvas.paint_tube(path, radii + wall_mm, LABELS[name], SOFT_HU, 0.2)
    canvas.paint_tube(path, radii, LABELS[name], AIRWAY_HU)
