"""Organs of the belly: liver with vessels, gallbladder, spleen, stomach, pancreas, kidneys, adrenals, psoas, colon and small bowel."""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, Point, curve, ellipsoid, smooth_max
from semgen_platform.phantom.labels import LABELS, SIDES
from semgen_platform.phantom.skeleton import SPINE_Y
from semgen_platform.phantom.thorax import BLOOD_HU
from semgen_platform.phantom.trees import grow_tree, scatter_inside
from semgen_platform.phantom.trunk import CAVITY, FAT_HU, diaphragm_mm

LIVER_HU, SPLEEN_HU, KIDNEY_HU, BOWEL_WALL_HU, FLUID_HU = 58.0, 48.0, 34.0, 42.0, 14.0

_STOMACH: list[Point] = [
    (62, 36, 252), (68, 20, 238), (72, -8, 214), (66, -38, 190), (44, -56, 168), (14, -60, 158), (-14, -50, 162), (-32, -34, 170),
]  # fmt: skip
_STOMACH_RADII = [30, 33, 33, 28, 23, 18, 13, 10]


def paint_abdomen(canvas: Canvas, rng: np.random.Generator) -> None:
    """All organs that are the same in every patient; bowel and the filling of the stomach are drawn per patient."""
    _paint_psoas(canvas)
    for side in SIDES:
        _paint_kidney(canvas, side)
    _paint_spleen(canvas)
    _paint_liver(canvas, rng)
    _paint_pancreas(canvas)
    _paint_stomach(canvas)
    _paint_mesentery(canvas, rng)


def _below_diaphragm(box: Box, gap_mm: float) -> Field:
    """Distance to the space under the diaphragm and inside the ribs, `gap_mm` away from both."""
    roof = (box.z - diaphragm_mm(box.x, box.y) + np.float32(gap_mm)) * np.float32(0.75)
    return smooth_max(roof, CAVITY.distance(box.x, box.y, box.z) + np.float32(gap_mm), 6)


def _liver(box: Box) -> Field:
    space = _below_diaphragm(box, 2.5)
    floor = (205 + 0.60 * (box.x + 20) + 0.10 * box.y - 6 * np.sin(box.y / 18) - box.z) * np.float32(0.82)
    tip = np.float32(132) - box.z
    left = (box.x - 58 + 0.5 * (box.y + 50)) * np.float32(0.85)
    back = 12 + 72 / (1 + np.exp((box.x + 40) / 6))  # behind the left lobe lie stomach and vena cava
    behind = (box.y - back) * np.float32(0.8)
    spine = 30 - np.sqrt(box.x**2 + (box.y - SPINE_Y(box.z)[..., 0].astype(np.float32)) ** 2)
    liver = smooth_max(smooth_max(space, floor, 22), tip, 20)
    liver = smooth_max(smooth_max(liver, left, 24), smooth_max(np.asarray(behind, np.float32), spine, 10), 16)
    return liver


def _paint_liver(canvas: Canvas, rng: np.random.Generator) -> None:
    box = canvas.box((-140, -100, 120), (75, 95, 292))
    liver = _liver(box)
    cantlie = box.x + 28 - 0.25 * (box.y + 20)  # from gallbladder to vena cava
    label = np.where(
        cantlie > 0,
        np.where(box.x > 8, LABELS["liver_left"], LABELS["liver_middle"]),
        np.where(box.y < -0.35 * (box.x + 60), LABELS["liver_right_front"], LABELS["liver_right_back"]),
    ).astype(np.uint8)
    canvas.paint(box, liver, label, LIVER_HU, 0.42)
    part, notch = canvas.tube(*curve([(7, -92, 214), (5, -66, 206), (0, -40, 204)], [3, 2.6, 1.5]), taller_mm=9)
    canvas.paint(part, notch, LABELS["fat_peritoneal"], FAT_HU + 20)  # fissure of the round ligament
    targets = scatter_inside(liver + 7, box, 130, 13.0, rng)
    veins = rng.random(len(targets)) < 0.45
    for root, heading, group, widest in (
        ((-26, 2, 258), (-0.6, -0.5, -0.5), targets[veins], 5.0),
        ((-22, -14, 205), (-0.6, -0.4, 0.6), targets[~veins], 5.5),
    ):
        points, radii = grow_tree(root, heading, group, tip_radius_mm=0.9, root_radius_mm=widest)
        part, distance = canvas.tube(points, radii)
        canvas.paint(part, distance, LABELS["liver_vessels"], BLOOD_HU - 4, 0.85)
    for path, radii in (
        ([(-22, -14, 206), (-12, -14, 190), (2, -12, 172)], 6.5),
        ([(2, -14, 172), (2, -30, 120), (2, -38, 60)], [5, 5, 4]),
    ):
        part, distance = canvas.tube(*curve(path, radii))  # portal and mesenteric vein
        canvas.paint(part, distance, LABELS["liver_vessels"], BLOOD_HU, 0.8)
    part = canvas.box((-75, -80, 125), (-25, -20, 195))
    sack = ellipsoid(part, (-48, -50, 158), (15, 14, 25))
    canvas.paint(part, sack, LABELS["gallbladder"], 35.0, 0.2)
    canvas.paint(part, sack + 1.5, LABELS["gallbladder"], 8.0)


def _paint_spleen(canvas: Canvas) -> None:
    box = canvas.box((40, -40, 165), (140, 95, 285))
    tilt = np.radians(25)
    axes = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    outer = smooth_max(ellipsoid(box, (108, 42, 220), (40, 52, 56), axes), _below_diaphragm(box, 3), 8)
    hollow = 42 - np.sqrt((box.x - 58) ** 2 + (box.y - 8) ** 2)
    canvas.paint(box, smooth_max(outer, np.broadcast_to(hollow, box.shape), 12), LABELS["spleen"], SPLEEN_HU, 0.65)
    part, vein = canvas.tube(*curve([(84, 30, 212), (50, 18, 190), (10, -12, 176)], 4.5))
    canvas.paint(part, vein, LABELS["liver_vessels"], BLOOD_HU, 0.8)


def _paint_pancreas(canvas: Canvas) -> None:
    box, distance = canvas.tube(
        *curve(
            [(-34, -12, 150), (-24, -18, 160), (0, -24, 172), (34, -8, 184), (62, 14, 198), (82, 26, 208)],
            [12, 14, 9, 9, 9, 7],
        )
    )
    lobules = 1.6 * np.sin(box.x / 2.6) * np.sin(box.y / 2.3) * np.sin(box.z / 2.9)
    canvas.paint(box, distance + lobules, LABELS["pancreas"], 40.0, 0.55)


def _paint_kidney(canvas: Canvas, side: str) -> None:
    """Perirenal fat, cortex, pyramids and the fat of the sinus; the long axis leans outwards below."""
    sign, level = (-1.0, 158.0) if side == "right" else (1.0, 172.0)
    centre = (sign * 66, 36.0, level)
    box = canvas.box(tuple(c - 75 for c in centre), tuple(c + 75 for c in centre))
    lean = np.array([-sign * 0.22, 0.16, 1.0]) / np.linalg.norm([0.22, 0.16, 1.0])
    across = np.cross([0.0, 1.0, 0.0], lean)
    axes = np.column_stack([across / np.linalg.norm(across), np.cross(lean, across / np.linalg.norm(across)), lean])
    room = CAVITY.distance(box.x, box.y, box.z) + 1
    canvas.paint(
        box, smooth_max(ellipsoid(box, centre, (41, 36, 74), axes), room, 6), LABELS[f"fat_perirenal_{side}"], FAT_HU
    )
    kidney = ellipsoid(box, centre, (28, 24, 55), axes)
    medial = tuple(np.array(centre) - axes[:, 0] * np.sign(axes[0, 0]) * sign * 25)
    sinus = ellipsoid(box, (medial[0], medial[1] - 2, medial[2]), (20, 11, 24), axes)
    kidney = smooth_max(kidney, -sinus, 5)
    canvas.paint(box, kidney, LABELS[f"kidney_cortex_{side}"], KIDNEY_HU, 1.0)
    around = np.cos(6 * np.arctan2(box.z - centre[2], 2.2 * (box.x - centre[0])) + 1.3 * np.sin(box.y / 9))
    pyramids = np.maximum(kidney + np.float32(6.5), np.float32(-0.6) - np.float32(3.5) * around)
    canvas.paint(box, np.asarray(pyramids, np.float32), LABELS[f"kidney_medulla_{side}"], KIDNEY_HU - 2, 0.6)
    vessels: list[tuple[list[Point], float, float, str]] = [
        ([(sign * 5, 4, 150), (sign * 28, 20, level - 4), (sign * 46, 30, level)], 2.8, 1.0, "aorta_abdominal"),
        (
            [(-18 if sign < 0 else 0, -6, 156), (sign * 30, 10, level - 2), (sign * 46, 26, level)],
            4.2,
            0.9,
            "vena_cava_inferior",
        ),
    ]
    for path, radius, uptake, label in vessels:
        part, distance = canvas.tube(*curve(path, radius))
        canvas.paint(part, distance, LABELS[label], BLOOD_HU, uptake)
    top = level + 60 + (4 if sign < 0 else -2)
    for leg in ((sign * 46, 32, top - 14), (sign * 42, 16, top - 16)):  # adrenal: an inverted Y
        part, distance = canvas.tube(*curve([(sign * 36, 16, top), leg], [2.4, 1.8]), taller_mm=5)
        canvas.paint(part, distance, LABELS[f"adrenal_{side}"], 25.0, 0.5)


def _paint_psoas(canvas: Canvas) -> None:
    for sign, side in ((-1.0, "right"), (1.0, "left")):
        levels = [168, 124, 89, 53, 17, -30, -90, -125]
        path = [
            (sign * x, float(SPINE_Y(z)[0]) + d, z)
            for z, x, d in zip(levels, [27, 35, 41, 46, 52, 62, 76, 84], [6, 4, 6, 8, -2, -26, -74, -100], strict=True)
        ]
        box, distance = canvas.tube(*curve(path, [6, 12, 17, 21, 24, 23, 20, 18], spacing_mm=4))
        canvas.paint(box, distance, LABELS[f"psoas_{side}"], 56.0, 0.12)
        square = [(sign * 62, 50, 170), (sign * 72, 52, 110), (sign * 80, 50, 55)]
        box, distance = canvas.tube(*curve(square, [7, 10, 11], spacing_mm=4))
        canvas.paint(box, distance, LABELS[f"muscle_back_lumbar_{side}"], 55.0, 0.12)


def _paint_stomach(canvas: Canvas) -> None:
    points, radii = curve(_STOMACH, _STOMACH_RADII, spacing_mm=4)
    box, distance = canvas.tube(points, radii)
    distance = smooth_max(distance, _below_diaphragm(box, 4), 6)
    canvas.paint(box, distance, LABELS["stomach_wall"], BOWEL_WALL_HU, 0.4)
    canvas.paint(box, distance + np.float32(4), LABELS["stomach_content"], FLUID_HU)


def _paint_mesentery(canvas: Canvas, rng: np.random.Generator) -> None:
    """Small vessels that fan out through the fat before the aorta."""
    targets = np.column_stack([rng.uniform(-75, 75, 60), rng.uniform(-55, -14, 60), rng.uniform(-80, 120, 60)])
    points, radii = grow_tree((3, -20, 150), (0, -0.5, -1), targets, tip_radius_mm=0.7, root_radius_mm=4.0)
    box, distance = canvas.tube(points, radii)
    canvas.paint(box, distance, LABELS["fat_peritoneal"], BLOOD_HU, 0.85)
