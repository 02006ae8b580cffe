"""Organs of the belly: liver with vessels, gallbladder, spleen, stomach, pancreas, kidneys, adrenals, psoas, colon and small bowel."""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, Point, curve, ellipsoid, smooth_max, smooth_min
from semgen_platform.phantom.labels import LABELS, SIDES
from semgen_platform.phantom.skeleton import SPINE_Y
from semgen_platform.phantom.thorax import BLOOD_HU
from semgen_platform.phantom.trees import grow_tree, scatter_inside
from semgen_platform.phantom.trunk import CAVITY, FAT_HU, diaphragm_mm

LIVER_HU, SPLEEN_HU, KIDNEY_HU, BOWEL_WALL_HU, FLUID_HU = 58.0, 48.0, 34.0, 42.0, 14.0

_STOMACH: list[Point] = [
    (62, 28, 252),
    (68, 12, 236),
    (72, -12, 214),
    (66, -38, 190),
    (44, -54, 168),
    (14, -56, 158),
    (-14, -46, 162),
    (-32, -32, 170),
]
_STOMACH_RADII = [24, 31, 31, 27, 23, 18, 13, 10]


def paint_abdomen(canvas: Canvas, rng: np.random.Generator) -> None:
    """All organs that are the same in every patient; bowel and the filling of the stomach are drawn per patient."""
    _paint_psoas(canvas)
    for side in SIDES:
        _paint_kidney(canvas, side)
    _paint_spleen(canvas)
    _paint_liver(canvas, rng)
    _paint_pancreas(canvas)
    _paint_stomach(canvas)


def _below_diaphragm(box: Box, gap_mm: float) -> Field:
    """Distance to the space under the diaphragm and inside the ribs, `gap_mm` away from both."""
    roof = (box.z - diaphragm_mm(box.x, box.y) + np.float32(gap_mm)) * np.float32(0.75)
    return smooth_max(roof, CAVITY.distance(box.x, box.y, box.z) + np.float32(gap_mm), 6)


def _liver(box: Box) -> Field:
    space = _below_diaphragm(box, 2.5)
    floor = (205 + 0.60 * (box.x + 20) + 0.10 * box.y - 6 * np.sin(box.y / 18) - box.z) * np.float32(0.82)
    tip = np.float32(132) - box.z
    left = (box.x - 58 + 0.5 * (box.y + 50)) * np.float32(0.85)
    behind = np.where(
        box.x > -30, (box.y - 12 + 0.35 * (box.x + 30)) * np.float32(0.9), np.float32(-30) + np.maximum(box.x + 60, 0)
    )
    spine = 30 - np.sqrt(box.x**2 + (box.y - SPINE_Y(box.z)[..., 0].astype(np.float32)) ** 2)
    liver = smooth_max(smooth_max(space, floor, 22), tip, 20)
    liver = smooth_max(smooth_max(liver, left, 24), smooth_max(np.asarray(behind, np.float32), spine, 10), 14)
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
    canvas.paint(box, liver, label, LIVER_HU, 0.5)
    targets = scatter_inside(liver + 7, box, 130, 13.0, rng)
    veins = rng.random(len(targets)) < 0.45
    for root, heading, group, widest in (
        ((-26, 2, 258), (-0.6, -0.5, -0.5), targets[veins], 5.0),
        ((-22, -14, 205), (-0.6, -0.4, 0.6), targets[~veins], 5.5),
    ):
        points, radii = grow_tree(root, heading, group, tip_radius_mm=0.9, root_radius_mm=widest)
        part, distance = canvas.tube(points, radii)
        canvas.paint(part, distance, LABELS["liver_vessels"], BLOOD_HU - 4, 0.8)
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
    outer = smooth_max(ellipsoid(box, (104, 40, 222), (34, 48, 52), axes), _below_diaphragm(box, 3), 8)
    hollow = 40 - np.sqrt((box.x - 58) ** 2 + (box.y - 8) ** 2)
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
    pyramids = np.maximum(kidney + np.float32(6.5), np.float32(1.5) - np.float32(3.5) * around)
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


def fill_stomach(canvas: Canvas, gas_above_y_mm: float, fluid_hu: float, rng: np.random.Generator) -> None:
    """A bubble of gas before the level `gas_above_y_mm` and fluid with crumbs behind it, in place of the stomach's content."""
    box = canvas.box((-50, -90, 130), (115, 70, 290))
    labels, hu = canvas.labels[box.window], canvas.hu[box.window]
    content = labels == LABELS["stomach_content"]
    crumbs = rng.standard_normal(int(content.sum()), dtype=np.float32) * 14
    hu[content] += fluid_hu - FLUID_HU + crumbs
    gas = np.clip(0.5 + (gas_above_y_mm - box.y) / canvas.step_mm, 0, 1)
    hu += np.where(content, gas, 0) * (-985 - hu)


def paint_bowel(canvas: Canvas, rng: np.random.Generator) -> None:
    """Colon as a frame with stool and gas, and coils of small bowel inside it; every patient has his own."""
    _paint_coils(canvas, rng)
    _paint_colon(canvas, rng)


def _wobbled(points: Any, by_mm: float, rng: np.random.Generator) -> Any:
    return np.asarray(points, float) + rng.normal(0, by_mm, (len(points), 3))


def _paint_colon(canvas: Canvas, rng: np.random.Generator) -> None:
    right = [(-70, 10, 6), (-96, 16, 24), (-102, 20, 60), (-100, 18, 95), (-92, 2, 128)]
    across = [(-84, -30, 134), (-50, -54, 112), (-10, -60, 96), (35, -58, 112), (72, -44, 150), (98, -6, 182)]
    left = [
        (104, 22, 176),
        (106, 30, 130),
        (104, 28, 80),
        (98, 20, 30),
        (84, 4, -14),
        (50, -8, -44),
        (16, 10, -50),
        (0, 50, -70),
        (0, 56, -118),
    ]
    path = _wobbled(right + across + left, 4.0, rng)
    points, radii = curve(path, 18.0, spacing_mm=2.5)
    along = np.arange(len(points))
    radii = (
        17 + 2.6 * np.sin(along * 2 * np.pi / 9) + np.interp(along, [0, 40, 150, 250, len(points)], [5, 4, 0, -3, -3])
    )
    box, distance = canvas.tube(points, radii)
    distance = smooth_max(distance, CAVITY.distance(box.x, box.y, box.z) + 2, 5)
    canvas.paint(box, distance, LABELS["colon"], BOWEL_WALL_HU, 0.4)
    stool = rng.normal(-10, 130, distance.shape).astype(np.float32)
    inner = distance + np.float32(2.6)
    canvas.paint(box, inner, LABELS["colon"], np.clip(stool, -500, 90))
    bubbles = rng.random(6) * len(points)
    gas = np.min([np.abs(along - b) for b in bubbles], axis=0) < 13
    if gas.any():
        part, bubble = canvas.tube(points[gas], radii[gas] - 3.2)
        level = np.interp(part.z, points[::-1, 2], points[::-1, 1]) if False else np.float32(rng.uniform(-40, 0))
        canvas.paint(part, np.maximum(bubble, part.y - level - 26), LABELS["colon"], -960.0)


def _paint_coils(canvas: Canvas, rng: np.random.Generator) -> None:
    """A path that winds row by row through a jittered lattice, so that neighbouring coils touch and do not merge."""
    rows = []
    for layer, y in enumerate(np.arange(-44, 34, 27.0)):
        for row, z in enumerate(np.arange(-112, 128, 27.0)):
            xs = np.arange(-78, 79, 26.0) + (13 if row % 2 else 0)
            rows.append([(x, y, z + 4 * np.sin(x / 15)) for x in (xs if (row + layer) % 2 else xs[::-1])])
    for row in rows:
        if rng.random() < 0.08:
            continue
        points, radii = curve(_wobbled(row, 5.0, rng), rng.uniform(9, 13, len(row)), spacing_mm=3)
        box, distance = canvas.tube(points, radii)
        distance = smooth_max(distance, CAVITY.distance(box.x, box.y, box.z) + 3, 6)
        spare = np.isin(canvas.labels[box.window], _BOWEL_ROOM, invert=True)
        distance = np.where(spare, np.float32(9), distance)
        side = np.where(box.x < 0, 0, 1)
        label = np.where(box.z > 40, LABELS["bowel_upper_right"], LABELS["bowel_lower_right"]) + side
        canvas.paint(box, distance, label.astype(np.uint8), BOWEL_WALL_HU, 0.5)
        content = rng.choice([12.0, 20.0, 34.0, -30.0])
        canvas.paint(box, distance + np.float32(2.2), label.astype(np.uint8), content, 0.05)
        if rng.random() < 0.3:
            spot = int(rng.integers(0, len(points)))
            part, bubble = canvas.tube(points[max(0, spot - 4) : spot + 4], 6.0)
            canvas.paint(part, np.maximum(bubble, part.y - np.float32(points[spot, 1] + 1)), label.flat[0], -930.0)


_BOWEL_ROOM = [
    LABELS["fat_peritoneal"],
    *(LABELS[f"bowel_{part}_{side}"] for part in ("upper", "lower") for side in SIDES),
]

__all__ = ["fill_stomach", "paint_abdomen", "paint_bowel", "smooth_min"]
