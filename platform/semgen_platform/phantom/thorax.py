"""Organs of the chest: lungs with lobes, fissures and vessels, airways, heart with chambers, great vessels, oesophagus."""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, Point, curve, ellipsoid, profile, smooth_max, smooth_min
from semgen_platform.phantom.labels import LABELS, SIDES
from semgen_platform.phantom.skeleton import SPINE_Y
from semgen_platform.phantom.trees import grow_tree, scatter_inside
from semgen_platform.phantom.trunk import CAVITY, FAT_HU, diaphragm_mm

BLOOD_HU, MYOCARDIUM_HU, WALL_HU = 42.0, 46.0, 40.0
LUNG_HU, AIRWAY_HU = -860.0, -985.0

_CARINA: Point = (0.0, 12.0, 393.0)
AIRWAYS: dict[str, tuple[list[Point], list[float]]] = {
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
_LOBAR: dict[str, list[list[Point]]] = {
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

_AORTA_UP: list[Point] = [(6, -24, 346), (-8, -34, 366), (-14, -36, 384), (-12, -30, 402)]
_AORTA_ARCH: list[Point] = [(-12, -30, 402), (-2, -18, 415), (12, 2, 417), (23, 22, 404)]


def aorta_descending(low: float = 46.0) -> np.ndarray[Any, Any]:
    """Points (N, 3) from the arch down to `low`: beside the spine in the chest, before it in the belly."""
    levels = np.arange(404, low - 1, -6.0)
    x = profile((404, 23), (360, 26), (300, 20), (240, 9), (190, 3), (120, 4), (46, 2))(levels)[:, 0]
    ahead = profile((404, 20), (360, 10), (300, 17), (240, 25), (190, 27), (120, 29), (46, 29))(levels)[:, 0]
    return np.column_stack([x, SPINE_Y(levels)[:, 0] - ahead, levels])


LONG_AXIS = np.array([0.62, -0.50, -0.60]) / np.linalg.norm([0.62, -0.50, -0.60])


def _heart_axes(long: Any) -> np.ndarray[Any, Any]:
    """Columns: two directions across and the long axis last."""
    long = np.asarray(long, float) / np.linalg.norm(long)
    across = np.cross(long, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    return np.column_stack([across, np.cross(long, across), long])


LEFT_VENTRICLE = ((41.0, -26.0, 315.0), (19.0, 19.0, 37.0), _heart_axes(LONG_AXIS))
RIGHT_VENTRICLE = ((10.0, -48.0, 311.0), (24.0, 29.0, 46.0), _heart_axes((0.80, -0.22, -0.42)))
RIGHT_ATRIUM = ((-33.0, -20.0, 322.0), (22.0, 27.0, 33.0), np.eye(3))
LEFT_ATRIUM = ((3.0, 10.0, 343.0), (33.0, 19.0, 24.0), _heart_axes((0.1, 0.1, -1.0)))


def _moved(shape: tuple[Any, Any, Any], by: float) -> tuple[Any, Any, Any]:
    """The ellipsoid with `by` mm added to each radius."""
    return shape[0], tuple(r + by for r in shape[1]), shape[2]


def heart_hull(box: Box) -> Field:
    """Distance to the heart with the fat round it."""
    hull = smooth_min(ellipsoid(box, *_moved(LEFT_VENTRICLE, 15)), ellipsoid(box, *_moved(RIGHT_VENTRICLE, 7)), 24)
    return smooth_min(
        hull, smooth_min(ellipsoid(box, *_moved(RIGHT_ATRIUM, 6)), ellipsoid(box, *_moved(LEFT_ATRIUM, 4)), 18), 24
    )


def mediastinum(canvas: Canvas, box: Box) -> Field:
    """Distance to all that lies between the lungs: heart, great vessels, spine, and the space behind the sternum."""
    half, shift = _middle_space(box)
    space = np.abs(box.x - shift) - half
    column = np.sqrt(box.x**2 + (box.y - SPINE_Y(box.z)[..., 0].astype(np.float32) - 3) ** 2) - np.float32(19)
    distance = smooth_min(smooth_min(space, column, 12), heart_hull(box), 14)
    for points, radii in ((aorta_descending(180), 16.0), (curve(_AORTA_UP + _AORTA_ARCH[1:])[0], 20.0)):
        part, tube = canvas.tube(points, radii)
        window = tuple(slice(p.start - b.start, p.stop - b.start) for p, b in zip(part.window, box.window, strict=True))
        if all(w.start >= 0 for w in window):
            view = distance[window]
            view[...] = smooth_min(view, tube[: view.shape[0], : view.shape[1], : view.shape[2]], 8)
    return distance


def _middle_space(box: Box) -> tuple[Field, Field]:
    """Half width and side shift of the space between the lungs at each (z, y): wide at the vessels, thin before and behind."""
    widths = profile((545, 40), (470, 34), (440, 30), (415, 29), (392, 26), (360, 20), (330, 12), (290, 9), (200, 8))
    half = widths(np.clip(box.z, 200, 545))[..., 0].astype(np.float32)
    front = 1 / (1 + np.exp(-(box.y + 46) / 6))
    back = 0.35 + 0.65 / (1 + np.exp((box.y - 40) / 7))
    return np.asarray(4 + (half - 4) * front * back, np.float32), np.asarray(
        4 * np.clip((400 - box.z) / 60, 0, 1), np.float32
    )


def lung_distance(canvas: Canvas, box: Box) -> Field:
    """Both lungs: the cavity above the diaphragm without the mediastinum."""
    cavity = CAVITY.distance(box.x, box.y, box.z) + np.float32(0.5)
    above = (diaphragm_mm(box.x, box.y) - box.z + 1.5) * np.float32(0.75)
    roof = box.z - np.float32(473)
    outer = smooth_max(smooth_max(cavity, above, 3), roof, 14)
    return smooth_max(outer, 1 - mediastinum(canvas, box), 5)


def _fissures(box: Box) -> tuple[Field, Field, Field]:
    """Height above the right and left oblique fissure and above the right horizontal one, in mm."""
    wave = 5 * np.sin(box.x / 21)
    right = (box.z - (352 + 0.98 * box.y + 0.10 * (box.x + 70) + wave)) * np.float32(0.71)
    left = (box.z - (358 + 1.02 * box.y - 0.12 * (box.x - 70) + wave)) * np.float32(0.70)
    flat = box.z - (352 - 0.12 * (box.y + 20) + 0.5 * wave)
    return np.asarray(right, np.float32), np.asarray(left, np.float32), np.asarray(flat, np.float32)


def paint_lungs(canvas: Canvas, rng: np.random.Generator) -> None:
    box = canvas.box((-150, -110, 165), (150, 110, 480))
    lungs = lung_distance(canvas, box)
    right, left, flat = _fissures(box)
    upper_right = np.where(flat > 0, LABELS["lung_upper_right"], LABELS["lung_middle_right"])
    label = np.where(
        box.x < 0,
        np.where(right > 0, upper_right, LABELS["lung_lower_right"]),
        np.where(left > 0, LABELS["lung_upper_left"], LABELS["lung_lower_left"]),
    ).astype(np.uint8)
    fall = np.asarray(
        LUNG_HU + 0.42 * (box.y + 10) - 0.05 * (box.z - 320), np.float32
    )  # denser behind, where the blood sinks
    canvas.paint(box, lungs, label, np.broadcast_to(fall, box.shape), 0.12)
    sheet = np.where(
        box.x < 0, np.minimum(np.abs(right), np.where(right > 0, np.abs(flat), np.float32(9))), np.abs(left)
    ) - np.float32(0.25)
    canvas.paint(box, np.maximum(sheet, lungs), label, np.float32(-650))
    for side in SIDES:
        _paint_lung_vessels(canvas, box, lungs, side, rng)


_HILA: dict[str, list[tuple[Point, Point]]] = {
    "right": [((-36, 4, 372), (-0.6, 0.1, 0.8)), ((-40, 8, 352), (-0.6, 0.3, -0.7)), ((-30, 12, 344), (-1, 0.2, -0.2))],
    "left": [((40, 8, 380), (0.6, 0, 0.8)), ((46, 18, 362), (0.5, 0.4, -0.8)), ((34, 14, 346), (1, 0.1, -0.1))],
}
"""Two arteries (up and down) and the vein of each side: where they enter the lung, and heading where."""


def _paint_lung_vessels(canvas: Canvas, box: Box, lungs: Field, side: str, rng: np.random.Generator) -> None:
    half = (box.x < 0) if side == "right" else (box.x > 0)
    place = np.where(half, lungs + np.float32(3.5), np.float32(9))
    targets = scatter_inside(place, box, 900, 6.0, rng)
    up, down, vein = _HILA[side]
    share = rng.random(len(targets)) < 0.42
    high = targets[:, 2] > 365 - 0.3 * (targets[:, 1])
    groups = ((up, targets[~share & high]), (down, targets[~share & ~high]), (vein, targets[share]))
    for (root, heading), group in groups:
        points, radii = grow_tree(root, heading, group, tip_radius_mm=0.6, root_radius_mm=7.5)
        part, distance = canvas.tube(points, radii)
        canvas.paint(part, distance, LABELS[f"lung_vessels_{side}"], BLOOD_HU, 0.9)


def paint_airways(canvas: Canvas) -> None:
    """Trachea and main bronchi with their walls, and the lobar branches."""
    for name, (points, radii) in AIRWAYS.items():
        _paint_airway(canvas, name, curve(points, radii), wall_mm=1.8 if name == "trachea" else 1.4)
        for branch in _LOBAR.get(name, []):
            _paint_airway(canvas, name, curve(branch, np.linspace(3.6, 1.5, len(branch))), wall_mm=1.0)
    for name, (points, radii) in AIRWAYS.items():  # inner lumen once more, so that no wall crosses it at a branching
        box, distance = canvas.tube(*curve(points, radii))
        canvas.paint(box, distance, LABELS[name], AIRWAY_HU)


def _paint_airway(canvas: Canvas, name: str, path: Any, wall_mm: float) -> None:
    points, radii = path
    box, distance = canvas.tube(points, radii + wall_mm)
    canvas.paint(box, distance, LABELS[name], WALL_HU, 0.2)
    canvas.paint(box, distance + np.float32(wall_mm), LABELS[name], AIRWAY_HU)


def paint_heart(canvas: Canvas) -> None:
    box = canvas.box((-75, -100, 255), (110, 45, 395))
    canvas.paint(box, heart_hull(box), LABELS["fat_mediastinal"], FAT_HU + 8)
    muscle = LABELS["heart_muscle"]
    for shape, label, wall, uptake in (
        (RIGHT_ATRIUM, "atrium_right", 2.5, 0.85),
        (LEFT_ATRIUM, "atrium_left", 2.5, 1.0),
        (RIGHT_VENTRICLE, "ventricle_right", 3.5, 0.9),
        (LEFT_VENTRICLE, "ventricle_left", 10.0, 1.0),
    ):
        canvas.paint(box, ellipsoid(box, *_moved(shape, wall)), muscle, MYOCARDIUM_HU, 0.5)
        canvas.paint(box, ellipsoid(box, *shape), LABELS[label], BLOOD_HU, uptake)
    for points, radius, label, uptake in (  # valves and the way out of each chamber
        ([(-18, -28, 318), (2, -42, 316)], 13.0, "ventricle_right", 0.9),
        ([(12, 2, 338), (26, -12, 328)], 13.0, "ventricle_left", 1.0),
        ([(22, -20, 332), (6, -24, 348)], 11.0, "ventricle_left", 1.0),
        ([(6, -62, 330), (14, -60, 350), (16, -52, 366)], 14.0, "ventricle_right", 0.9),
    ):
        part, distance = canvas.tube(*curve(points, radius))
        canvas.paint(part, distance, LABELS[label], BLOOD_HU, uptake)
    for points in (
        [(22, 22, 346), (44, 18, 344)],
        [(-22, 18, 344), (-42, 14, 346)],
        [(20, 18, 356), (42, 12, 360)],
        [(-20, 12, 352), (-40, 6, 358)],
    ):
        part, distance = canvas.tube(*curve(points, 6.5))  # pulmonary veins
        canvas.paint(part, distance, LABELS["atrium_left"], BLOOD_HU, 1.0)


def paint_vessels(canvas: Canvas) -> None:
    """Pulmonary artery, aorta, branches of its arch, both venae cavae, oesophagus."""
    arteries: list[tuple[str, list[Point], Any, float]] = [
        ("pulmonary_artery", [(16, -52, 366), (17, -40, 380), (18, -22, 386)], 14.0, 0.95),
        ("pulmonary_artery", [(18, -24, 384), (0, -12, 380), (-22, -2, 374), (-40, 4, 370)], [13, 12, 11, 9], 0.95),
        ("pulmonary_artery", [(18, -24, 386), (28, -6, 389), (40, 10, 384), (47, 18, 368)], [13, 12, 11, 8], 0.95),
        ("great_vessels", [(-6, -22, 412), (-12, -24, 436), (-22, -14, 462), (-24, -8, 500), (-26, -4, 545)], [8, 7, 6, 4.5, 4], 1.0),
        ("great_vessels", [(4, -10, 416), (13, -12, 440), (24, -10, 470), (26, -6, 510), (27, -4, 545)], [6, 5, 4.5, 4, 4], 1.0),
        ("great_vessels", [(14, 4, 416), (24, 8, 440), (38, 4, 462), (64, -10, 470), (110, -6, 462), (150, 0, 452)], [7, 6, 5.5, 5, 4.5, 4], 1.0),
        ("great_vessels", [(-20, -16, 456), (-38, -6, 466), (-64, -12, 470), (-110, -6, 462), (-150, 0, 452)], [6, 5.5, 5, 4.5, 4], 1.0),
        ("great_vessels", [(-30, -34, 432), (-34, -36, 452), (-38, -16, 490), (-38, -10, 545)], [8, 7, 6.5, 6], 0.8),
        ("great_vessels", [(-28, -34, 428), (0, -44, 432), (30, -40, 446), (38, -18, 490), (38, -10, 545)], [8, 7.5, 7, 6.5, 6], 0.8),
        ("vena_cava_superior", [(-30, -34, 434), (-32, -28, 405), (-33, -22, 375), (-32, -18, 345)], [8.5, 10, 10.5, 11], 0.85),
        ("vena_cava_inferior", [(-30, -14, 312), (-26, -4, 285), (-24, 4, 262), (-24, 6, 230), (-22, 2, 190), (-21, -4, 120), (-20, -6, 56)], [12, 12, 11, 11, 11, 10, 9], 0.75),
        ("aorta_ascending", _AORTA_UP, [13, 15.5, 15.5, 14.5], 1.0),
        ("aorta_arch", _AORTA_ARCH, [14.5, 14, 13.5, 13], 1.0),
    ]  # fmt: skip
    for label, points, radii, uptake in arteries:
        box, distance = canvas.tube(*curve(points, radii))
        canvas.paint(box, distance, LABELS[label], BLOOD_HU, uptake)
    trunk = aorta_descending()
    points, radii = curve(trunk, np.interp(trunk[:, 2], [46, 180, 404], [9.5, 11, 13]))
    box, distance = canvas.tube(points, radii)
    label = np.where(box.z > 190, LABELS["aorta_thoracic"], LABELS["aorta_abdominal"]).astype(np.uint8)
    canvas.paint(box, distance, label, BLOOD_HU, 1.0)
    for sign in (-1, 1):
        for base, radius, uptake in ((2.0, 7.0, 1.0), (-19.0, 8.0, 0.7)):
            box, distance = canvas.tube(
                *curve(
                    [(base, -12, 52), (base * 0.6 + sign * 22, -6, 10), (sign * 52, 18, -50), (sign * 62, -14, -125)],
                    radius,
                )
            )
            canvas.paint(
                box, distance, LABELS["aorta_abdominal" if uptake == 1.0 else "vena_cava_inferior"], BLOOD_HU, uptake
            )


def paint_oesophagus(canvas: Canvas) -> None:
    path = [
        (4, 6, 545),
        (6, 10, 500),
        (6, 18, 450),
        (4, 24, 410),
        (6, 26, 380),
        (8, 28, 340),
        (12, 24, 300),
        (20, 14, 268),
        (38, 8, 250),
    ]
    points, radii = curve(path, [7, 7, 7, 7, 7.5, 8, 8, 8, 9])
    box, distance = canvas.tube(points, radii)
    canvas.paint(box, distance, LABELS["oesophagus"], WALL_HU, 0.3)
    air, lumen = canvas.tube(*curve([(5, 13, 480), (6, 18, 450), (5, 23, 420)], [1.5, 2.4, 1.5]))
    canvas.paint(air, lumen, LABELS["oesophagus"], -700.0)
    for sign in (-1, 1):  # thyroid
        part, lobe = canvas.tube(
            *curve([(sign * 16, -14, 490), (sign * 19, -10, 512), (sign * 17, -6, 532)], [6, 9, 6])
        )
        canvas.paint(part, lobe, LABELS["neck"], 95.0, 0.8)
