"""Outlines of the trunk at every level (muscle wall, rib cage, cavity, diaphragm), and the soft wall itself.

Levels are millimetres above the lumbosacral joint. The figures are those of an average adult lying on the back, taken
from textbook cross sections and rounded; nobody's scan was used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import OUTSIDE, Box, Canvas, Field, Point, ellipsoid, profile, smooth_max
from semgen_platform.phantom.fields import smooth_noise
from semgen_platform.phantom.labels import LABELS, SIDE_SIGNS

LOW_XYZ_MM = (-204.0, -150.0, -130.0)
HIGH_XYZ_MM = (204.0, 120.0, 540.0)

MUSCLE_HU, FAT_HU = 55.0, -105.0


class Section:
    """A closed outline that changes with the level: a superellipse of half width, front and back (y, mm)."""

    def __init__(self, power: float, *knots: tuple[float, float, float, float]) -> None:
        self.power = power
        self._profile = profile(*knots)
        self._range = min(k[0] for k in knots), max(k[0] for k in knots)

    def at(self, z: Any) -> tuple[Any, Any, Any]:
        """(half width, front, back) in mm at levels z, as arrays of z's shape."""
        values = self._profile(np.clip(z, *self._range)).astype(np.float32)
        return values[..., 0], values[..., 1], values[..., 2]

    def distance(self, x: Any, y: Any, z: Any) -> Field:
        """Radial distance in mm at points whose x, y, z broadcast against each other; negative inside."""
        half, front, back = self.at(z)
        middle, depth = (front + back) / 2, (back - front) / 2
        across = np.abs(x) / half
        along = np.abs(y - middle) / depth
        power = np.float32(self.power)
        reach = np.maximum((across**power + along**power) ** (1 / power), np.float32(0.05))
        return np.asarray(np.sqrt(x**2 + (y - middle) ** 2) * (1 - 1 / reach), np.float32)

    def front_point(self, x: float, z: float) -> Point:
        """The outline's point in front at (x, z)."""
        half, front, back = (float(v) for v in self.at(np.array(z)))
        middle, depth = (front + back) / 2, (back - front) / 2
        rise = max(0.0, 1 - (abs(x) / half) ** self.power) ** (1 / self.power)
        return x, middle - depth * rise, z


WALL = Section(
    2.38,
    (-130, 168, -68, 98), (-60, 164, -78, 98), (0, 151, -86, 93), (70, 137, -90, 90), (150, 139, -96, 93),
    (230, 147, -103, 96), (300, 152, -107, 102), (350, 157, -108, 107), (390, 168, -101, 110), (420, 182, -87, 109),
    (445, 190, -68, 106), (468, 184, -50, 101), (484, 140, -42, 94), (500, 84, -42, 78), (515, 64, -46, 70),
    (540, 59, -48, 66),
)  # fmt: skip
"""Outer surface of the muscles; subcutaneous fat and skin lie on it with each patient's own thickness."""

CAGE = Section(
    2.4,
    (160, 129, -86, 76), (200, 133, -92, 81), (240, 136, -96, 85), (280, 138, -97, 90), (320, 136, -95, 92),
    (360, 129, -87, 92), (400, 115, -74, 90), (430, 97, -60, 84), (450, 77, -44, 77), (465, 58, -28, 68),
    (482, 38, -14, 56),
)  # fmt: skip
"""Middle line of the ribs at each level."""

CAVITY = Section(
    2.4,
    (-130, 95, -50, 62), (-60, 112, -63, 66), (0, 126, -73, 58), (70, 121, -78, 56), (130, 122, -82, 62),
    (160, 121, -84, 67), (200, 126, -87, 74), (240, 129, -91, 79), (280, 132, -92, 84), (320, 130, -89, 87),
    (360, 123, -81, 87), (400, 109, -68, 84), (430, 91, -54, 78), (450, 71, -38, 71), (465, 51, -22, 61),
    (480, 24, -12, 44), (540, 14, -8, 22),
)  # fmt: skip
"""Inner surface of ribs and abdominal muscles."""

BOWEL_TOP_MM = 145.0
"""Below this level the cavity holds small bowel; its labels are regions, since every patient's coils lie elsewhere."""


def diaphragm_mm(x: Any, y: Any) -> Field:
    """Level of the diaphragm above (x, y): a right dome, a lower left dome and the saddle that the heart rests on."""
    front, back = np.float32(1 / 150), np.float32(1 / 86)
    forward = (y + 5) * np.where(y < -5, front, back)
    right = (
        285 - 97 * (((x + 62) * np.where(x > -62, np.float32(1 / 130), np.float32(1 / 75))) ** 2 + forward**2) ** 1.25
    )
    left = 273 - 92 * (((x - 72) * np.where(x < 72, np.float32(1 / 130), np.float32(1 / 68))) ** 2 + forward**2) ** 1.25
    saddle = 277 - 90 * (((x - 15) / 92) ** 2 + ((y + 35) / 92) ** 2) ** 1.2
    return smooth_max(smooth_max(right, left, 12), saddle, 12)


def _side(x: Field, right: str) -> Field:
    """Labels of a paired structure on both sides of the midline, from the right one's name."""
    left = right.replace("_right", "_left")
    return np.where(x < 0, np.uint8(LABELS[right]), np.uint8(LABELS[left]))


def paint_wall(canvas: Canvas, rng: np.random.Generator) -> None:
    """Subcutaneous fat everywhere, then the muscles of the wall with fat between them, then the fat of the cavity."""
    wave = smooth_noise(canvas.hu.shape, 18 / canvas.step_mm, rng)
    spots = smooth_noise(canvas.hu.shape, 24 / canvas.step_mm, rng)
    for box in canvas.slabs():
        canvas.paint(box, np.full((1, 1, 1), -10, np.float32), _fat_labels(box), FAT_HU)
        wall, cavity = (section.distance(box.x, box.y, box.z) for section in (WALL, CAVITY))
        muscle = _muscle_labels(box)
        canvas.paint(box, wall, muscle, MUSCLE_HU, 0.12)
        canvas.paint(box, _planes(box, wall, cavity, wave[box.window], spots[box.window]), muscle, FAT_HU + 20)
        below_neck = smooth_max(cavity, (box.z - 472) * np.float32(0.6) + np.abs(box.x) * np.float32(0.15), 16)
        canvas.paint(box, below_neck, _cavity_labels(box), FAT_HU + 5)
    _paint_armpits(canvas)
    _paint_neck_fat(canvas)


def _planes(box: Box, wall: Field, cavity: Field, wave: Field, spots: Field) -> Field:
    """Distance to the fat between muscle layers, on the ribs, beside the spinous processes, and to short septa."""
    thick = np.maximum(cavity - wall, 1)
    depth = cavity / thick + np.float32(0.05) * wave
    sides = np.abs(box.x) > np.where(box.y < 0, np.float32(64), np.float32(70))
    layers = np.minimum(np.abs(depth - 0.42), np.abs(depth - 0.70)) * thick - np.float32(0.35)
    layers = np.where(sides & (thick > 11) & (box.z < 484), layers, OUTSIDE)
    ribs = np.abs(CAGE.distance(box.x, box.y, box.z) - np.float32(5.5)) - np.float32(0.5) + np.float32(0.6) * wave
    ribs = np.where((box.z > 195) & (box.z < 478) & (np.abs(box.x) > 34), ribs, OUTSIDE)
    back = np.abs(np.abs(box.x) - np.float32(27) - np.float32(0.25) * (box.y - 60) + 3 * wave) - np.float32(0.3)
    back = np.where((box.y > 48) & (box.z < 460) & (cavity > 6), back, OUTSIDE)
    septa = np.where((spots > 0.4) & (wall < -4), np.abs(wave) * np.float32(8) - np.float32(0.3), OUTSIDE)
    planes = np.minimum(np.minimum(layers, ribs), np.minimum(back, septa))
    return np.where(wall < 0.5, planes, OUTSIDE)


def _paint_armpits(canvas: Canvas) -> None:
    for side, sign in SIDE_SIGNS.items():
        box = canvas.box((sign * 130 - 40, -45, 350), (sign * 130 + 40, 55, 470))
        lean = np.array([[1, 0, -sign * 0.25], [0, 1, 0], [sign * 0.25, 0, 1]])
        pad = ellipsoid(box, (sign * 133, 2, 410), (15, 27, 46), lean) + 3 * np.sin(box.y / 6) * np.sin(box.z / 9)
        canvas.paint(box, np.asarray(pad, np.float32), LABELS[f"muscle_shoulder_{side}"], FAT_HU)


def _paint_neck_fat(canvas: Canvas) -> None:
    """The hollow above each collar bone."""
    for sign in SIDE_SIGNS.values():
        box = canvas.box((sign * 54 - 40, -60, 455), (sign * 54 + 40, 30, 515))
        pad = ellipsoid(box, (sign * 54, -20, 482), (20, 15, 18)) + 3 * np.sin(box.x / 5) * np.sin(box.y / 6)
        canvas.paint(box, np.asarray(pad, np.float32), LABELS["neck"], FAT_HU)


def _fat_labels(box: Box) -> Field:
    chest = np.where(box.y < 0, _side(box.x, "fat_chest_front_right"), _side(box.x, "fat_chest_back_right"))
    belly = np.where(box.y < 0, _side(box.x, "fat_belly_front_right"), _side(box.x, "fat_belly_back_right"))
    return np.where(box.z > 240, chest, belly)


def _cavity_labels(box: Box) -> Field:
    """Mediastinum, the upper belly's fat, and below it four regions that hold small bowel and the fat round it."""
    bowel = np.where(box.z > 40, _side(box.x, "bowel_upper_right"), _side(box.x, "bowel_lower_right"))
    belly = np.where(box.z > BOWEL_TOP_MM, np.uint8(LABELS["fat_peritoneal"]), bowel)
    return np.where(box.z > diaphragm_mm(box.x, box.y), np.uint8(LABELS["fat_mediastinal"]), belly)


def _muscle_labels(box: Box) -> Field:
    """Muscle by region: neck, shoulder, upper and lower chest, back, belly, buttock."""
    x, y, z = np.abs(box.x), box.y, box.z
    chest = np.where(z > 330, _side(box.x, "muscle_chest_upper_right"), _side(box.x, "muscle_chest_lower_right"))
    chest = np.where((z > 400) & (x > 100), _side(box.x, "muscle_shoulder_right"), chest)
    belly = np.where((x < 62) & (y < -45), _side(box.x, "muscle_rectus_right"), _side(box.x, "muscle_abdominal_right"))
    belly = np.where((z < 30) & (y > 20) & (x > 50), _side(box.x, "gluteus_right"), belly)
    back = np.where(z > 176, _side(box.x, "muscle_back_thoracic_right"), _side(box.x, "muscle_back_lumbar_right"))
    labels = np.where(z > 215, chest, belly)
    labels = np.where((x < 62) & (y > 40), back, labels)
    return np.where(z > 484, np.uint8(LABELS["neck"]), labels)
