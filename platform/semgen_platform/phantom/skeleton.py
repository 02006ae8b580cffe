"""Bones of the canonical body: vertebrae with their processes, discs and canal, slanting ribs, sternum, shoulder girdle, pelvis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Box, Canvas, Field, curve, ellipsoid, profile, smooth_max, smooth_min
from semgen_platform.phantom.labels import LABELS, LUMBAR, SIDES, THORACIC
from semgen_platform.phantom.trunk import CAGE, WALL

CORTEX_HU, MARROW_HU, CARTILAGE_HU, DISC_HU = 800.0, 150.0, 115.0, 82.0
CORTEX_MM = 1.2


@dataclass(frozen=True)
class Vertebra:
    """One level of the spine: middle of the body, height with the disc above it, half extents of the body, all in mm."""

    name: str
    z: float
    pitch: float
    disc: float
    half_width: float
    half_depth: float

    @property
    def y(self) -> float:
        return float(SPINE_Y(self.z)[0])


SPINE_Y = profile(
    (-110, 84), (-70, 70), (-15, 38), (17, 24), (53, 17), (89, 15), (124, 18), (159, 24), (192, 31), (252, 42), (306, 48), (356, 49),
    (404, 43), (448, 30), (487, 16), (522, 9), (545, 8),
)  # fmt: skip
"""y of the middle of the vertebral bodies: lordosis, kyphosis and the neck."""

_PITCH = {
    "L5": 35.0, "L4": 36.0, "L3": 36.0, "L2": 35.0, "L1": 34.0, "T12": 32.0, "T11": 30.0, "T10": 28.0, "T9": 27.0, "T8": 26.0, "T7": 25.0,
    "T6": 24.5, "T5": 24.0, "T4": 23.0, "T3": 22.0, "T2": 21.0, "T1": 20.0, "C7": 18.0, "C6": 17.0, "C5": 17.0, "C4": 17.0,
}  # fmt: skip
_BODY = profile(
    (17, 25.5, 17.5, 10),
    (89, 23.5, 17.5, 10),
    (159, 21.5, 16, 8),
    (192, 19.5, 15, 6),
    (306, 15, 14, 4),
    (380, 14, 12, 4),
    (468, 15, 9, 4),
    (540, 12, 8, 5),
)


def _spine() -> dict[str, Vertebra]:
    spine, low = {}, 0.0
    for name, pitch in _PITCH.items():
        z = low + pitch / 2
        half_width, half_depth, disc = _BODY(z)
        spine[name] = Vertebra(name, z, pitch, float(disc), float(half_width), float(half_depth))
        low += pitch
    return spine


SPINE: dict[str, Vertebra] = _spine()

RIB_DROP_MM = (32, 52, 58, 60, 62, 66, 70, 78, 85, 85, 82, 60)
"""How far a rib that ran right round would come down from its vertebra to the front."""
RIB_END_DEG = (138, 148, 151, 150, 147, 142, 136, 128, 120, 111, 94, 64)
"""Where the bone ends and the cartilage begins; 0 is the back, 90 the side, 180 the front."""


def paint_bone(
    canvas: Canvas, box: Box, distance: Field, label: str, marrow_hu: float = MARROW_HU, cortex_hu: float = CORTEX_HU
) -> None:
    """A cortex of about 1.2 mm round cancellous bone."""
    canvas.paint(box, distance, LABELS[label], cortex_hu)
    canvas.paint(box, distance + np.float32(CORTEX_MM), LABELS[label], marrow_hu, 0.05)


def paint_skeleton(canvas: Canvas) -> None:
    for vertebra in SPINE.values():
        _paint_vertebra(canvas, vertebra)
    _paint_sacrum(canvas)
    _paint_canal(canvas)
    for number in range(1, 13):
        for side in SIDES:
            _paint_rib(canvas, number, side)
    _paint_sternum(canvas)
    for side in SIDES:
        _paint_cartilage(canvas, side)
        _paint_shoulder(canvas, side)
        _paint_hip(canvas, side)


def _label_of(vertebra: Vertebra) -> str:
    return vertebra.name if vertebra.name in THORACIC + LUMBAR else "cervical_spine"


def _paint_vertebra(canvas: Canvas, v: Vertebra) -> None:
    box = canvas.box(
        (-v.half_width - 6, v.y - v.half_depth - 6, v.z - v.pitch / 2 - 3),
        (v.half_width + 6, v.y + v.half_depth + 6, v.z + v.pitch / 2 + 3),
    )
    centre_y = SPINE_Y(box.z)[..., 0].astype(np.float32)
    waist = 1 - 0.1 * np.clip(1 - ((box.z - v.z) / (v.pitch / 2)) ** 2, 0, 1)
    round_ = np.sqrt((box.x / (v.half_width * waist)) ** 2 + ((box.y - centre_y) / (v.half_depth * waist)) ** 2)
    column = (round_ - 1) * np.float32(min(v.half_width, v.half_depth))
    disc_label = "disc_lumbar" if v.name in LUMBAR else "disc_thoracic"
    height = np.abs(box.z - v.z)
    canvas.paint(
        box, smooth_max(column + 1, height - np.float32(v.pitch / 2 + 0.5), 2), LABELS[disc_label], DISC_HU, 0.05
    )
    bone = smooth_max(column, height - np.float32((v.pitch - v.disc) / 2), 4)
    label = _label_of(v)
    sac = 9.5 - np.sqrt(box.x**2 + (box.y - centre_y - np.float32(v.half_depth + 7.5)) ** 2)
    paint_bone(canvas, box, smooth_max(bone, sac, 3), label, cortex_hu=480)
    for points, radii, taller in _processes(v):
        part, distance = canvas.tube(*curve(points, radii), taller_mm=taller)
        paint_bone(canvas, part, distance, label)


def _processes(v: Vertebra) -> list[tuple[list[tuple[float, float, float]], list[float], float]]:
    """Pedicles and laminae as one arch, spinous and transverse processes: points, radii, extra half height."""
    thoracic = v.name in THORACIC
    back = v.y + v.half_depth
    canal, depth = (10.0, 16.0) if thoracic else (13.0, 16.0)
    scale = v.pitch / 36
    skin_y = float(WALL.at(np.array(v.z))[2]) - 4
    tip = min(back + depth + (26 if thoracic else 30), skin_y)
    slope = -20 * scale if thoracic else -5.0
    level = v.z + (3 if thoracic else 2)
    parts: list[tuple[list[tuple[float, float, float]], list[float], float]] = []
    for s in (-1.0, 1.0):
        arch = [
            (s * (v.half_width - 6), back - 5, level),
            (s * (canal + 2.5), back + 4, level),
            (s * (canal - 1), back + depth - 2, level - 4),
            (0.0, back + depth + 2, level - 6),
        ]
        parts.append((arch, [4.2 * scale + 1.4, 4.0 * scale + 1.4, 2.9, 2.9], 4.5 * scale))
        wing = 26.0 if thoracic else 38.0
        sweep = 16.0 if thoracic else 6.0
        parts.append(
            (
                [(s * (canal + 2), back + 5, level), (s * wing, back + 5 + sweep, level + 2)],
                [3.4, 3.6 if thoracic else 2.6],
                2.0,
            )
        )
        facet = [
            (s * (canal + 2), back + depth - 5, level - 12 * scale),
            (s * (canal + 3), back + depth - 5, level + 12 * scale),
        ]
        parts.append((facet, [4.6 * scale + 0.8] * 2, 0.0))
    parts.append(([(0, back + depth, level - 6), (0, tip, level - 6 + slope)], [2.6, 3.0], 3.0 if thoracic else 8.0))
    return parts


def _paint_sacrum(canvas: Canvas) -> None:
    box = canvas.box((-62, 5, -128), (62, 112, 4))
    centre = SPINE_Y(box.z)[..., 0].astype(np.float32) + 4
    level = np.clip((box.z + 120) / 120, 0, 1)
    half = 16 + 36 * level
    thick = 9 + 13 * level - 8 * np.clip(np.abs(box.x) / 50, 0, 1)
    across = np.sqrt((box.x / half) ** 4 + ((box.y - centre) / thick) ** 4) ** 0.5
    bone = smooth_max((across - 1) * thick, np.abs(box.z + 62) - np.float32(60), 6)
    paint_bone(canvas, box, bone, "sacrum", MARROW_HU - 40)


def _paint_canal(canvas: Canvas) -> None:
    """Dural sac with the cord, in epidural fat."""
    levels = np.arange(-60, 545, 2.0)
    depth = np.interp(levels, [v.z for v in SPINE.values()], [v.half_depth for v in SPINE.values()])
    middle = SPINE_Y(levels)[:, 0] + depth + 8.5
    points = np.stack([np.zeros_like(levels), middle, levels], 1)
    box, distance = canvas.tube(points, np.interp(levels, [-60, 0, 180, 300], [5, 9, 9.5, 8.5]))
    label = np.where(box.z > 176, LABELS["spinal_canal_thoracic"], LABELS["spinal_canal_lumbar"]).astype(np.uint8)
    canvas.paint(box, distance, label, -30.0)
    canvas.paint(box, distance + np.float32(1.5), label, 18.0)
    canvas.paint(box, np.where(box.z > 160, distance + np.float32(4), np.float32(9)), label, 40.0)


def _ring_point(angle_deg: float, z: float, sign: float) -> tuple[float, float, float]:
    """A point of the rib cage's middle line: 0 degrees at the back, 180 at the front."""
    half, front, back = (float(v) for v in CAGE.at(np.array(z)))
    angle = np.radians(angle_deg)
    s, c = np.sin(angle), np.cos(angle)
    power = 2 / CAGE.power
    x = half * np.abs(s) ** power
    y = (front + back) / 2 + (back - front) / 2 * np.sign(c) * np.abs(c) ** power
    return sign * x, float(y), z


def rib_points(number: int, side: str) -> list[tuple[float, float, float]]:
    """Middle line of a rib's bone from its vertebra to its cartilage, in body mm."""
    v = SPINE[f"T{number}"]
    sign = -1.0 if side == "right" else 1.0
    drop, end = RIB_DROP_MM[number - 1], RIB_END_DEG[number - 1]
    head = v.z + 0.3 * v.pitch
    points = [
        (sign * (v.half_width + 1), v.y + 0.75 * v.half_depth, head),
        (sign * (v.half_width + 12), v.y + v.half_depth + 11, head + 1),
    ]
    for angle in np.linspace(26, end, 12):
        points.append(_ring_point(angle, head - drop * (angle - 20) / 160, sign))
    return points


def _paint_rib(canvas: Canvas, number: int, side: str) -> None:
    taller = 2.2 if number > 1 else 0.8
    points, radii = curve(rib_points(number, side), 3.9)
    radii[-6:] *= 1.1
    box, distance = canvas.tube(points, radii, taller_mm=taller)
    paint_bone(canvas, box, distance, f"rib_{number}_{side}", 110.0, 850.0)


def _paint_sternum(canvas: Canvas) -> None:
    """Manubrium and body as flat plates along the front of the cage."""
    for label, low, high, half in (("manubrium", 394, 438, 25), ("sternum", 296, 391, 16)):
        box = canvas.box((-40, -115, low - 4), (40, -30, high + 4))
        front = CAGE.at(box.z)[1]
        wide = half + (
            10 * np.clip((box.z - 410) / 28, 0, 1) if label == "manubrium" else 3 * np.cos((box.z - 320) / 16)
        )
        flat = smooth_max(np.abs(box.x) - wide, np.abs(box.y - front) - np.float32(5.5), 5)
        bone = smooth_max(flat, np.abs(box.z - np.float32((low + high) / 2)) - np.float32((high - low) / 2), 5)
        paint_bone(canvas, box, bone, label, 130.0, 500.0)


def _paint_cartilage(canvas: Canvas, side: str) -> None:
    """Costal cartilage from each rib's end to the sternum, or to the cartilage above (ribs 8 to 10)."""
    sign = -1.0 if side == "right" else 1.0
    sternal = {1: 428, 2: 394, 3: 372, 4: 352, 5: 334, 6: 318, 7: 304}
    for number in range(1, 11):
        start = rib_points(number, side)[-1]
        if number <= 7:
            target = CAGE.front_point(sign * (26 if number == 1 else 16), sternal[number])
        else:
            target = CAGE.front_point(sign * {8: 44, 9: 66, 10: 86}[number], {8: 272, 9: 248, 10: 226}[number])
        low = min(start[2], target[2]) - (3 if number > 4 else 0)
        middle_x = 0.5 * (start[0] + target[0])
        middle = CAGE.front_point(middle_x, 0.35 * low + 0.65 * 0.5 * (start[2] + target[2]))
        points, radii = curve([start, middle, target], 4.6)
        box, distance = canvas.tube(points, radii, taller_mm=1.8)
        canvas.paint(box, distance, LABELS[f"costal_cartilage_{side}"], CARTILAGE_HU)
        canvas.paint(box, distance + np.float32(1.2), LABELS[f"costal_cartilage_{side}"], CARTILAGE_HU - 25)


def _paint_shoulder(canvas: Canvas, side: str) -> None:
    sign = -1.0 if side == "right" else 1.0
    clavicle = [
        (sign * 26, -55, 437),
        (sign * 60, -58, 447),
        (sign * 100, -42, 458),
        (sign * 135, -10, 468),
        (sign * 158, 14, 472),
    ]
    box, distance = canvas.tube(*curve(clavicle, [8, 6, 5.5, 5.5, 6]))
    paint_bone(canvas, box, distance, f"clavicle_{side}")
    _paint_scapula(canvas, side, sign)
    box = canvas.box(*_around((sign * 172, 18, 456), 30))
    paint_bone(canvas, box, ellipsoid(box, (sign * 172, 18, 456), (23, 23, 24)), f"humerus_{side}", 180.0)


def _paint_scapula(canvas: Canvas, side: str, sign: float) -> None:
    """A thin curved blade behind the cage with thicker borders, its spine and the neck towards the joint."""
    box = canvas.box((min(sign * 55, sign * 165), 0, 315), (max(sign * 55, sign * 165), 110, 470))
    x = sign * box.x
    sheet = np.abs(box.y - (100 - 0.0042 * np.maximum(x - 50, 0) ** 2)) - np.float32(1.6)
    medial = 68 + 0.05 * (455 - box.z)
    lateral = 84 + 62 * np.clip((box.z - 318) / 125, 0, 1)
    blade = smooth_max(sheet, smooth_max(medial - x, x - lateral, 2), 2)
    blade = smooth_max(blade, np.abs(box.z - np.float32(388)) - np.float32(70), 3)
    paint_bone(canvas, box, np.asarray(blade, np.float32), f"scapula_{side}", 400.0, 800.0)
    spine = [(sign * 72, 97, 430), (sign * 110, 95, 442), (sign * 150, 72, 460), (sign * 176, 40, 482)]
    neck = [(sign * 132, 70, 444), (sign * 142, 44, 450), (sign * 146, 26, 454)]
    border = [(sign * 88, 95, 322), (sign * 110, 86, 370), (sign * 132, 70, 420), (sign * 143, 52, 444)]
    for points, radii in ((spine, [3, 4, 5, 6]), (neck, [6, 9, 13]), (border, [4.5, 4, 4.5, 7])):
        part, distance = canvas.tube(*curve(points, radii))
        paint_bone(canvas, part, distance, f"scapula_{side}")


def _paint_hip(canvas: Canvas, side: str) -> None:
    """Wing of the ilium: a curved plate from the sacroiliac joint to the front, higher in its middle."""
    sign = -1.0 if side == "right" else 1.0
    strips = [_hip_strip(sign, level) for level in np.arange(-128.0, 60.0, 3.0)]
    box, distance = canvas.tube(np.concatenate([p for p, _ in strips]), np.concatenate([r for _, r in strips]))
    paint_bone(canvas, box, distance, f"hip_{side}", 180.0)


def _hip_strip(sign: float, level: float) -> tuple[Any, Any]:
    """The wing's middle line and half thickness at one level; near the crest only its middle part is left."""
    flare = np.clip((level + 60) / 120, 0, 1)
    path = np.array([(48, 72), (72, 62), (100, 34), (112 + 8 * flare, 4), (116 + 12 * flare, -28)])
    rise = max(0.0, (level - 8) / 52)
    low, high = (0.0, 1.0) if level < 8 else (0.12 + 0.3 * rise, 0.9 - 0.3 * rise)
    fine, _ = curve(np.column_stack([sign * path[:, 0], path[:, 1], np.full(5, level)]), spacing_mm=2.5)
    first = int(low * len(fine))
    kept = fine[first : max(int(high * len(fine)), first + 2)]
    return kept, np.interp(np.linspace(0, 1, len(kept)), [0, 0.2, 0.6, 1], [8, 6, 4, 6])


def _around(centre: tuple[float, float, float], reach: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(c - reach for c in centre), tuple(c + reach for c in centre)


__all__ = ["SPINE", "SPINE_Y", "Vertebra", "paint_bone", "paint_skeleton", "rib_points", "smooth_min"]
