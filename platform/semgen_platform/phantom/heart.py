"""Heart with chambers, aorta and its branches, pulmonary artery, both venae cavae, oesophagus and thyroid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.phantom.canvas import Box, Canvas, Field, Path, curve, ellipsoid, mirrored, profile, smooth_min
from semgen_platform.phantom.labels import LABELS
from semgen_platform.phantom.spine import spine_y
from semgen_platform.phantom.trunk import FAT_HU

BLOOD_HU, MYOCARDIUM_HU, SOFT_HU = 42.0, 46.0, 40.0

Chamber = tuple[Any, Any, Any]
"""An ellipsoid: centre, radii, own directions as columns."""


def _along(long_xyz: tuple[float, float, float]) -> NDArray[np.float64]:
    """Columns: two directions across, and the long axis last."""
    long = np.array(long_xyz) / np.linalg.norm(long_xyz)
    across = np.cross(long, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across)
    return np.column_stack([across, np.cross(long, across), long])


LEFT_VENTRICLE: Chamber = ((41.0, -26.0, 315.0), (19.0, 19.0, 37.0), _along((0.62, -0.50, -0.60)))
RIGHT_VENTRICLE: Chamber = ((10.0, -48.0, 311.0), (24.0, 29.0, 46.0), _along((0.80, -0.22, -0.42)))
RIGHT_ATRIUM: Chamber = ((-33.0, -20.0, 322.0), (22.0, 27.0, 33.0), np.eye(3))
LEFT_ATRIUM: Chamber = ((3.0, 10.0, 343.0), (33.0, 19.0, 24.0), _along((0.1, 0.1, -1.0)))

AORTA_UP: Path = [(6, -24, 346), (-8, -34, 366), (-14, -36, 384), (-12, -30, 402)]
AORTA_ARCH: Path = [(-12, -30, 402), (-2, -18, 415), (12, 2, 417), (23, 22, 404)]

_PASSAGES: list[tuple[Path, float, str, float]] = [
    ([(-18, -28, 318), (2, -42, 316)], 13.0, "ventricle_right", 0.9),  # tricuspid valve
    ([(12, 2, 338), (26, -12, 328)], 13.0, "ventricle_left", 1.0),  # mitral valve
    ([(22, -20, 332), (6, -24, 348)], 11.0, "ventricle_left", 1.0),  # way to the aorta
    ([(6, -62, 330), (14, -60, 350), (16, -52, 366)], 14.0, "ventricle_right", 0.9),  # way to the pulmonary artery
    ([(22, 22, 346), (44, 18, 344)], 6.5, "atrium_left", 1.0),  # four pulmonary veins
    ([(-22, 18, 344), (-42, 14, 346)], 6.5, "atrium_left", 1.0),
    ([(20, 18, 356), (42, 12, 360)], 6.5, "atrium_left", 1.0),
    ([(-20, 12, 352), (-40, 6, 358)], 6.5, "atrium_left", 1.0),
]
_VESSELS: list[tuple[str, float, Path, list[float]]] = [
    ("pulmonary_artery", 0.95, [(16, -52, 366), (17, -40, 380), (18, -22, 386)], [14, 14, 14]),
    ("pulmonary_artery", 0.95, [(18, -24, 384), (0, -12, 380), (-22, -2, 374), (-40, 4, 370)], [13, 12, 11, 9]),
    ("pulmonary_artery", 0.95, [(18, -24, 386), (28, -6, 389), (40, 10, 384), (47, 18, 368)], [13, 12, 11, 8]),
    # branches of the arch: trunk to the right, left carotid, artery of the left arm; then that of the right arm
    (
        "great_vessels", 1.0,
        [(-6, -22, 412), (-12, -24, 436), (-22, -14, 462), (-24, -8, 500), (-26, -4, 545)], [8, 7, 6, 4.5, 4],
    ),
    (
        "great_vessels", 1.0,
        [(4, -10, 416), (13, -12, 440), (24, -10, 470), (26, -6, 510), (27, -4, 545)], [6, 5, 4.5, 4, 4],
    ),
    (
        "great_vessels", 1.0,
        [(14, 4, 416), (24, 8, 440), (38, 4, 462), (64, -10, 470), (110, -6, 462), (150, 0, 452)],
        [7, 6, 5.5, 5, 4.5, 4],
    ),
    (
        "great_vessels", 1.0,
        [(-20, -16, 456), (-38, -6, 466), (-64, -12, 470), (-110, -6, 462), (-150, 0, 452)], [6, 5.5, 5, 4.5, 4],
    ),
    # veins of head and arms
    ("great_vessels", 0.8, [(-30, -34, 432), (-34, -36, 452), (-38, -16, 490), (-38, -10, 545)], [8, 7, 6.5, 6]),
    (
        "great_vessels", 0.8,
        [(-28, -34, 428), (0, -44, 432), (30, -40, 446), (38, -18, 490), (38, -10, 545)], [8, 7.5, 7, 6.5, 6],
    ),
    (
        "vena_cava_superior", 0.85,
        [(-30, -34, 434), (-32, -28, 405), (-33, -22, 375), (-32, -18, 345)], [8.5, 10, 10.5, 11],
    ),
    (
        "vena_cava_inferior", 0.75,
        [(-30, -14, 312), (-26, -4, 285), (-24, 4, 262), (-24, 6, 230), (-22, 2, 190), (-21, -4, 120), (-20, -6, 56)],
        [12, 12, 11, 11, 11, 10, 9],
    ),
    ("aorta_ascending", 1.0, AORTA_UP, [13, 15.5, 15.5, 14.5]),
    ("aorta_arch", 1.0, AORTA_ARCH, [14.5, 14, 13.5, 13]),
]  # fmt: skip
"""Label, uptake, points, radii."""

_AORTA_X = profile((404, 23), (360, 26), (300, 20), (240, 9), (190, 3), (120, 4), (46, 2))
_AORTA_BEFORE_SPINE = profile((404, 20), (360, 10), (300, 17), (240, 25), (190, 27), (120, 29), (46, 29))


def aorta_descending(low_mm: float = 46.0) -> NDArray[np.float64]:
    """Points (N, 3) from the arch down to the level `low_mm`: beside the spine in the chest, before it in the belly."""
    levels = np.arange(404, low_mm - 1, -6.0)
    return np.column_stack([_AORTA_X(levels)[:, 0], spine_y(levels) - _AORTA_BEFORE_SPINE(levels)[:, 0], levels])


def _grown(chamber: Chamber, by_mm: float) -> Chamber:
    centre, radii, axes = chamber
    return centre, tuple(r + by_mm for r in radii), axes


HEART_XYZ_MM = ((-80.0, -105.0, 245.0), (115.0, 50.0, 400.0))
"""Corners of a box round the heart."""


def heart_hull(box: Box) -> Field:
    """Distance to the heart with the fat round it."""
    ventricles = smooth_min(
        ellipsoid(box, *_grown(LEFT_VENTRICLE, 15)), ellipsoid(box, *_grown(RIGHT_VENTRICLE, 7)), 24
    )
    atria = smooth_min(ellipsoid(box, *_grown(RIGHT_ATRIUM, 6)), ellipsoid(box, *_grown(LEFT_ATRIUM, 4)), 18)
    return smooth_min(ventricles, atria, 24)


def paint_heart(canvas: Canvas) -> None:
    """Fat, then the muscle and blood of each chamber, then valves and passages."""
    box = canvas.box(*HEART_XYZ_MM)
    canvas.paint(box, heart_hull(box), LABELS["fat_mediastinal"], FAT_HU + 8)
    for chamber, label, wall_mm, uptake in (
        (RIGHT_ATRIUM, "atrium_right", 2.5, 0.85),
        (LEFT_ATRIUM, "atrium_left", 2.5, 1.0),
        (RIGHT_VENTRICLE, "ventricle_right", 3.5, 0.9),
        (LEFT_VENTRICLE, "ventricle_left", 10.0, 1.0),
    ):
        canvas.paint(box, ellipsoid(box, *_grown(chamber, wall_mm)), LABELS["heart_muscle"], MYOCARDIUM_HU, 0.5)
        canvas.paint(box, ellipsoid(box, *chamber), LABELS[label], BLOOD_HU, uptake)
    for path, radius, label, uptake in _PASSAGES:
        canvas.paint_tube(path, radius, LABELS[label], BLOOD_HU, uptake)


def paint_great_vessels(canvas: Canvas) -> None:
    """Arteries and veins from the neck to the groin."""
    for label, uptake, path, radii in _VESSELS:
        canvas.paint_tube(path, radii, LABELS[label], BLOOD_HU, uptake)
    trunk = aorta_descending()
    box, distance = canvas.tube(*curve(trunk, np.interp(trunk[:, 2], [46, 180, 404], [9.5, 11, 13])))
    label_zyx = np.where(box.z > 190, LABELS["aorta_thoracic"], LABELS["aorta_abdominal"])
    canvas.paint(box, distance, label_zyx, BLOOD_HU, 1.0)
    for sign in (-1.0, 1.0):
        for label, uptake, start_x, radius in (
            ("aorta_abdominal", 1.0, 2.0, 7.0),
            ("vena_cava_inferior", 0.7, -19.0, 8.0),
        ):
            iliac: Path = [
                (start_x, -12, 52),
                (start_x * 0.6 + sign * 22, -6, 10),
                (sign * 52, 18, -50),
                (sign * 62, -14, -125),
            ]
            canvas.paint_tube(iliac, radius, LABELS[label], BLOOD_HU, uptake)


def paint_oesophagus(canvas: Canvas) -> None:
    """The oesophagus with some air in its upper part, and the thyroid beside the trachea."""
    path: Path = [
        (4, 6, 545), (6, 10, 500), (6, 18, 450), (4, 24, 410), (6, 26, 380), (8, 28, 340), (12, 24, 300),
        (20, 14, 268), (38, 8, 250),
    ]  # fmt: skip
    canvas.paint_tube(path, [7, 7, 7, 7, 7.5, 8, 8, 8, 9], LABELS["oesophagus"], SOFT_HU, 0.3)
    canvas.paint_tube([(5, 13, 480), (6, 18, 450), (5, 23, 420)], [1.5, 2.4, 1.5], LABELS["oesophagus"], -700.0)
    for sign in (-1.0, 1.0):
        lobe = mirrored([(16, -14, 490), (19, -10, 512), (17, -6, 532)], sign)
        canvas.paint_tube(lobe, [6, 9, 6], LABELS["neck"], 95.0, 0.8)
