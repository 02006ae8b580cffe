"""Outlines of the trunk at every level: skin-side muscle wall, rib cage, body cavity, diaphragm; and the soft wall itself.

Levels are millimetres above the lumbosacral joint. The figures are those of an average adult lying on the back, taken
from textbook cross sections and rounded; nobody's scan was used.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, profile, smooth_max
from semgen_platform.phantom.fields import smooth_noise
from semgen_platform.phantom.labels import LABELS

LOW_XYZ_MM = (-204.0, -150.0, -130.0)
HIGH_XYZ_MM = (204.0, 120.0, 540.0)

MUSCLE_HU, FAT_HU = 55.0, -105.0


class Section:
    """A closed outline that changes with the level: a superellipse of half width, front and back (y, mm)."""

    def __init__(self, power: float, *knots: tuple[float, float, float, float]) -> None:
        self._power = power
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
        power = np.float32(self._power)
        reach = np.maximum((across**power + along**power) ** (1 / power), np.float32(0.05))
        return np.asarray(np.sqrt(x**2 + (y - middle) ** 2) * (1 - 1 / reach), np.float32)

    def front_point(self, x: float, z: float, inset_mm: float = 0.0) -> tuple[float, float, float]:
        """The point of the front half at (x, z), moved `inset_mm` into the body."""
        half, front, back = (float(v) for v in self.at(np.array(z)))
        middle, depth = (front + back) / 2, (back - front) / 2
        rise = max(0.0, 1 - (abs(x) / half) ** self._power) ** (1 / self._power)
        return x, middle - (depth - inset_mm) * rise, z


WALL = Section(
    2.5,
    (-130, 168, -62, 98), (-60, 165, -70, 98), (0, 152, -76, 92), (70, 138, -80, 88), (150, 141, -86, 90), (230, 147, -96, 92),
    (300, 153, -104, 96), (350, 158, -106, 99), (390, 168, -100, 99), (420, 182, -86, 98), (445, 190, -68, 97), (468, 184, -50, 94),
    (484, 140, -40, 88), (500, 84, -40, 76), (515, 64, -44, 68), (540, 59, -46, 64),
)  # fmt: skip
"""Outer surface of the muscles; subcutaneous fat and skin lie on it with each patient's own thickness."""

CAGE = Section(
    2.25,
    (160, 128, -80, 74), (200, 133, -87, 79), (240, 137, -92, 83), (280, 139, -94, 87), (320, 136, -93, 89), (360, 128, -86, 89),
    (400, 114, -74, 87), (430, 96, -60, 82), (450, 76, -44, 76), (465, 58, -28, 68), (482, 38, -14, 56),
)  # fmt: skip
"""Middle line of the ribs at each level."""

CAVITY = Section(
    2.25,
    (-130, 95, -45, 62), (-60, 112, -56, 66), (0, 126, -64, 58), (70, 122, -68, 56), (130, 123, -72, 62), (160, 121, -75, 66),
    (200, 126, -81, 72), (240, 130, -86, 76), (280, 132, -88, 80), (320, 129, -87, 82), (360, 121, -80, 82), (400, 107, -67, 80),
    (430, 89, -53, 75), (450, 69, -37, 69), (465, 50, -22, 60), (480, 24, -12, 44), (540, 14, -8, 22),
)  # fmt: skip
"""Inner surface of ribs and abdominal muscles."""

DIAPHRAGM_MIDDLE_MM = 255.0
"""Above this level fat of the cavity counts as mediastinal."""


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
    box = canvas.whole()
    canvas.paint(box, np.full((1, 1, 1), -10, np.float32), _fat_labels(box), FAT_HU)
    wall = WALL.distance(box.x, box.y, box.z)
    canvas.paint(box, wall, _muscle_labels(box), MUSCLE_HU, 0.12)
    _paint_planes(canvas, box, wall, rng)
    cavity = CAVITY.distance(box.x, box.y, box.z)
    fat = np.where(box.z > diaphragm_mm(box.x, box.y), LABELS["fat_mediastinal"], LABELS["fat_peritoneal"])
    neck = box.z > 482
    canvas.paint(box, np.where(neck, np.float32(9), cavity), fat.astype(np.uint8), FAT_HU + 5)


def _paint_planes(canvas: Canvas, box: Box, wall: Field, rng: np.random.Generator) -> None:
    """Fat between muscle layers: a sheet half way between ribs and surface, and wandering septa where the wall is thick."""
    outside = CAGE.distance(box.x, box.y, box.z)
    thick = outside - wall
    chest = (box.z > 205) & (box.z < 480)
    sheet = np.abs(outside - np.float32(0.5) * thick) - np.float32(0.9)
    septa = smooth_noise(box.shape, 16 / canvas.step_mm, rng)
    sheet = np.where(chest & (np.abs(box.x) > 40) & (thick > 9), sheet + np.abs(septa), np.float32(9))
    wander = np.where(wall < -4, np.abs(septa) * np.float32(9) - np.float32(0.7), np.float32(9))
    canvas.paint(box, np.minimum(sheet, wander), canvas.labels[box.window].copy(), FAT_HU + 20)


def _fat_labels(box: Box) -> Field:
    chest = np.where(box.y < 0, _side(box.x, "fat_chest_front_right"), _side(box.x, "fat_chest_back_right"))
    belly = np.where(box.y < 0, _side(box.x, "fat_belly_front_right"), _side(box.x, "fat_belly_back_right"))
    return np.where(box.z > 240, chest, belly)


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
