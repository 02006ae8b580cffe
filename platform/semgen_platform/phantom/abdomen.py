"""Organs of the belly that are alike in all patients: liver, spleen, stomach, pancreas, kidneys, psoas, mesentery."""

from __future__ import annotations

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, Path, Point, curve, ellipsoid, mirrored, smooth_max
from semgen_platform.phantom.heart import BLOOD_HU
from semgen_platform.phantom.labels import LABELS, SIDE_SIGNS
from semgen_platform.phantom.spine import spine_y
from semgen_platform.phantom.trees import grow_tree, scatter_inside
from semgen_platform.phantom.trunk import CAVITY, FAT_HU, MUSCLE_HU, diaphragm_mm

LIVER_HU, SPLEEN_HU, KIDNEY_HU, PANCREAS_HU, BOWEL_WALL_HU, FLUID_HU, BILE_HU = 58.0, 48.0, 34.0, 40.0, 42.0, 14.0, 8.0

_STOMACH: Path = [
    (62, 36, 252), (68, 20, 238), (72, -8, 214), (66, -38, 190), (44, -56, 168), (14, -60, 158), (-14, -50, 162),
    (-32, -34, 170),
]  # fmt: skip
_STOMACH_RADII = [30, 33, 33, 28, 23, 18, 13, 10]
_PANCREAS: Path = [(-34, -12, 150), (-24, -18, 160), (0, -24, 172), (34, -8, 184), (62, 14, 198), (82, 26, 208)]
_PORTAL_VEINS: list[tuple[Path, list[float]]] = [
    ([(-22, -14, 206), (-12, -14, 190), (2, -12, 172)], [6.5, 6.5, 6.5]),
    ([(2, -14, 172), (2, -30, 120), (2, -38, 60)], [5, 5, 4]),
    ([(84, 30, 212), (50, 18, 190), (10, -12, 176)], [4.5, 4.5, 4.5]),  # from the spleen
]


def paint_abdomen(canvas: Canvas, rng: np.random.Generator) -> None:
    """All organs that are the same in every patient; bowel and the filling of the stomach are drawn per patient."""
    for side, sign in SIDE_SIGNS.items():
        _paint_psoas(canvas, side, sign)
        _paint_kidney(canvas, side, sign)
    _paint_spleen(canvas)
    _paint_liver(canvas, rng)
    for side, sign in SIDE_SIGNS.items():
        _paint_adrenal(canvas, side, sign)
    box, distance = canvas.tube(*curve(_PANCREAS, [12, 14, 9, 9, 9, 7]))
    lobules = 1.6 * np.sin(box.x / 2.6) * np.sin(box.y / 2.3) * np.sin(box.z / 2.9)
    canvas.paint(box, distance + lobules, LABELS["pancreas"], PANCREAS_HU, 0.55)
    _paint_stomach(canvas)
    _paint_mesentery(canvas, rng)


def _below_diaphragm(box: Box, gap_mm: float) -> Field:
    """Distance to the space under the diaphragm and inside the ribs, `gap_mm` away from both."""
    roof = (box.z - diaphragm_mm(box.x, box.y) + np.float32(gap_mm)) * np.float32(0.75)
    return smooth_max(roof, CAVITY.distance(box.x, box.y, box.z) + np.float32(gap_mm), 6)


def _liver(box: Box) -> Field:
    """A dome under the diaphragm, cut by a floor that rises to the left and by the organs behind the left lobe."""
    floor = (205 + 0.60 * (box.x + 20) + 0.10 * box.y - 6 * np.sin(box.y / 18) - box.z) * np.float32(0.82)
    left = (box.x - 58 + 0.5 * (box.y + 50)) * np.float32(0.85)
    back = 12 + 72 / (1 + np.exp((box.x + 40) / 6))  # behind the left lobe lie stomach and vena cava
    behind = (box.y - back) * np.float32(0.8)
    spine = 30 - np.hypot(box.x, box.y - spine_y(box.z))
    liver = smooth_max(smooth_max(_below_diaphragm(box, 2.5), floor, 22), np.float32(132) - box.z, 20)
    return smooth_max(smooth_max(liver, left, 24), smooth_max(behind, spine, 10), 16)


def _paint_liver(canvas: Canvas, rng: np.random.Generator) -> None:
    """Parenchyma in four segments, the round ligament's fissure, vessels, gallbladder."""
    box = canvas.box((-140, -100, 120), (75, 95, 292))
    liver = _liver(box)
    left = np.where(box.x > 8, LABELS["liver_left"], LABELS["liver_middle"])
    right = np.where(box.y < -0.35 * (box.x + 60), LABELS["liver_right_front"], LABELS["liver_right_back"])
    label = np.where(box.x + 28 > 0.25 * (box.y + 20), left, right)  # a plane from gallbladder to vena cava
    canvas.paint(box, liver, label, LIVER_HU, 0.42)
    notch: Path = [(7, -92, 214), (5, -66, 206), (0, -40, 204)]
    canvas.paint_tube(notch, [3, 2.6, 1.5], LABELS["fat_peritoneal"], FAT_HU + 20, taller_mm=9)
    tips = scatter_inside(liver + 7, box, 130, 13.0, rng)
    hepatic = rng.random(len(tips)) < 0.45
    veins, portal = (tips[hepatic], 5.0), (tips[~hepatic], 5.5)
    for (targets, widest), root, heading in (
        (veins, (-26, 2, 258), (-0.6, -0.5, -0.5)),
        (portal, (-22, -14, 205), (-0.6, -0.4, 0.6)),
    ):
        part, distance = canvas.tube(*grow_tree(root, heading, targets, tip_radius_mm=0.9, root_radius_mm=widest))
        canvas.paint(part, distance, LABELS["liver_vessels"], BLOOD_HU - 4, 0.85)
    for path, radii in _PORTAL_VEINS:
        canvas.paint_tube(path, radii, LABELS["liver_vessels"], BLOOD_HU, 0.8)
    part = canvas.box((-75, -80, 125), (-25, -20, 195))
    sack = ellipsoid(part, (-48, -50, 158), (15, 14, 25))
    canvas.paint(part, sack, LABELS["gallbladder"], 35.0, 0.2)
    canvas.paint(part, sack + 1.5, LABELS["gallbladder"], BILE_HU)


def _paint_spleen(canvas: Canvas) -> None:
    """An ellipsoid between stomach and ribs, hollowed towards the stomach."""
    box = canvas.box((40, -40, 165), (140, 95, 285))
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    outer = smooth_max(ellipsoid(box, (108, 42, 220), (40, 52, 56), axes), _below_diaphragm(box, 3), 8)
    hollow = 42 - np.hypot(box.x - 58, box.y - 8)
    canvas.paint(box, smooth_max(outer, hollow, 12), LABELS["spleen"], SPLEEN_HU, 0.65)


def _paint_kidney(canvas: Canvas, side: str, sign: float) -> None:
    """Perirenal fat, cortex, pyramids and sinus, with the long axis leaning outwards below; then its vessels."""
    level = 158.0 if side == "right" else 172.0
    centre: Point = (sign * 66, 36.0, level)
    box = canvas.box([c - 75 for c in centre], [c + 75 for c in centre])
    axes = _kidney_axes(sign)
    room = CAVITY.distance(box.x, box.y, box.z) + 1
    fat = smooth_max(ellipsoid(box, centre, (41, 36, 74), axes), room, 6)
    canvas.paint(box, fat, LABELS[f"fat_perirenal_{side}"], FAT_HU)
    inward = np.array(centre) - sign * np.sign(axes[0, 0]) * 25 * axes[:, 0]
    sinus = ellipsoid(box, (inward[0], inward[1] - 2, inward[2]), (20, 11, 24), axes)
    kidney = smooth_max(ellipsoid(box, centre, (28, 24, 55), axes), -sinus, 5)
    canvas.paint(box, kidney, LABELS[f"kidney_cortex_{side}"], KIDNEY_HU, 1.0)
    fan = np.cos(6 * np.arctan2(box.z - level, 2.2 * (box.x - centre[0])) + 1.3 * np.sin(box.y / 9))
    pyramids = np.maximum(kidney + np.float32(6.5), -0.6 - 3.5 * fan)
    canvas.paint(box, pyramids, LABELS[f"kidney_medulla_{side}"], KIDNEY_HU - 2, 0.6)
    artery: Path = [(sign * 5, 4, 150), (sign * 28, 20, level - 4), (sign * 46, 30, level)]
    vein: Path = [(-18 if sign < 0 else 0, -6, 156), (sign * 30, 10, level - 2), (sign * 46, 26, level)]
    canvas.paint_tube(artery, 2.8, LABELS["aorta_abdominal"], BLOOD_HU, 1.0)
    canvas.paint_tube(vein, 4.2, LABELS["vena_cava_inferior"], BLOOD_HU, 0.9)


def _kidney_axes(sign: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Columns: across, through, and the long axis."""
    lean = np.array([-sign * 0.22, 0.16, 1.0])
    lean /= np.linalg.norm(lean)
    across = np.cross([0.0, 1.0, 0.0], lean)
    across /= np.linalg.norm(across)
    return np.column_stack([across, np.cross(lean, across), lean])


def _paint_adrenal(canvas: Canvas, side: str, sign: float) -> None:
    """An inverted Y above the kidney."""
    top = 222.0 if side == "right" else 230.0
    for leg in ((46, 32, top - 14), (42, 16, top - 16)):
        path = mirrored([(36, 16, top), leg], sign)
        canvas.paint_tube(path, [2.4, 1.8], LABELS[f"adrenal_{side}"], 25.0, 0.5, taller_mm=5)


def _paint_psoas(canvas: Canvas, side: str, sign: float) -> None:
    """Psoas along the lumbar spine into the pelvis, and the square muscle beside it."""
    levels = (168, 124, 89, 53, 17, -30, -90, -125)
    away = (27, 35, 41, 46, 52, 62, 76, 84)
    behind = (6, 4, 6, 8, -2, -26, -74, -100)
    path = [(sign * x, float(spine_y(z)) + d, z) for z, x, d in zip(levels, away, behind, strict=True)]
    canvas.paint_tube(path, [6, 12, 17, 21, 24, 23, 20, 18], LABELS[f"psoas_{side}"], MUSCLE_HU, 0.12)
    square = mirrored([(62, 50, 170), (72, 52, 110), (80, 50, 55)], sign)
    canvas.paint_tube(square, [7, 10, 11], LABELS[f"muscle_back_lumbar_{side}"], MUSCLE_HU, 0.12)


def _paint_stomach(canvas: Canvas) -> None:
    box, distance = canvas.tube(*curve(_STOMACH, _STOMACH_RADII, spacing_mm=4))
    distance = smooth_max(distance, _below_diaphragm(box, 4), 6)
    canvas.paint(box, distance, LABELS["stomach_wall"], BOWEL_WALL_HU, 0.4)
    canvas.paint(box, distance + np.float32(4), LABELS["stomach_content"], FLUID_HU)


def _paint_mesentery(canvas: Canvas, rng: np.random.Generator) -> None:
    """Small vessels that fan out through the fat before the aorta."""
    targets = np.column_stack([rng.uniform(-75, 75, 60), rng.uniform(-55, -14, 60), rng.uniform(-80, 120, 60)])
    box, distance = canvas.tube(
        *grow_tree((3, -20, 150), (0, -0.5, -1), targets, tip_radius_mm=0.7, root_radius_mm=4.0)
    )
    canvas.paint(box, distance, canvas.labels[box.window].copy(), BLOOD_HU, 0.85)
