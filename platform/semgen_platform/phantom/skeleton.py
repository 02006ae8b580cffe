"""Bones round the trunk: slanting ribs with their cartilage, sternum, shoulder girdle, the wings of the pelvis."""

from __future__ import annotations

from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import Canvas, Path, Point, curve, ellipsoid, mirrored, smooth_max
from semgen_platform.phantom.labels import LABELS, SIDE_SIGNS
from semgen_platform.phantom.spine import SPINE, paint_bone
from semgen_platform.phantom.trunk import CAGE

RIB_DROP_MM = (32, 52, 58, 60, 62, 66, 70, 78, 85, 85, 82, 60)
"""How far a rib that ran right round would come down from its vertebra to the front."""
RIB_END_DEG = (138, 148, 151, 150, 147, 142, 136, 128, 120, 111, 94, 64)
"""Where the bone ends and the cartilage begins; 0 is the back, 90 the side, 180 the front."""
CARTILAGE_END = {
    1: (26, 428), 2: (16, 394), 3: (16, 372), 4: (16, 352), 5: (16, 334), 6: (16, 318), 7: (16, 304),
    8: (44, 272), 9: (66, 248), 10: (86, 226),
}  # fmt: skip
"""Where the cartilage of ribs 1 to 10 ends, at the sternum or at the cartilage above: mm from the midline, level."""
CARTILAGE_HU = 115.0


def paint_skeleton(canvas: Canvas) -> None:
    """All bones but the spine."""
    for side in SIDE_SIGNS:
        for number in range(1, 13):
            _paint_rib(canvas, number, side)
    _paint_sternum(canvas)
    for side, sign in SIDE_SIGNS.items():
        _paint_cartilage(canvas, side, sign)
        _paint_shoulder(canvas, side, sign)
        _paint_scapula(canvas, side, sign)
        _paint_hip(canvas, side, sign)


def rib_points(number: int, side: str) -> Path:
    """Middle line of a rib's bone from its vertebra to its cartilage, in body mm."""
    v = SPINE[f"T{number}"]
    drop, end = RIB_DROP_MM[number - 1], RIB_END_DEG[number - 1]
    head = v.z + 0.3 * v.pitch
    joint = [
        (v.half_width + 1, v.y + 0.75 * v.half_depth, head),
        (v.half_width + 12, v.y + v.half_depth + 11, head + 1),
    ]
    ring = [_ring_point(angle, head - drop * (angle - 20) / 160) for angle in np.linspace(26, end, 12).tolist()]
    return mirrored([*joint, *ring], SIDE_SIGNS[side])


def _ring_point(angle_deg: float, z: float) -> Point:
    """A point of the rib cage's middle line on the left: 0 degrees at the back, 180 at the front."""
    half, front, back = (float(v) for v in CAGE.at(np.array(z)))
    s, c = np.sin(np.radians(angle_deg)), np.cos(np.radians(angle_deg))
    power = 2 / CAGE.power
    y = (front + back) / 2 + (back - front) / 2 * np.sign(c) * np.abs(c) ** power
    return float(half * s**power), float(y), z


def _paint_rib(canvas: Canvas, number: int, side: str) -> None:
    """Higher than thick, but for the first, which lies flat."""
    box, distance = canvas.tube(*curve(rib_points(number, side), 3.9), taller_mm=2.2 if number > 1 else 0.8)
    paint_bone(canvas, box, distance, LABELS[f"rib_{number}_{side}"], 110.0, 850.0)


def _paint_sternum(canvas: Canvas) -> None:
    """Manubrium and body as flat plates along the front of the cage."""
    box = canvas.box((-40, -115, 290), (40, -30, 444))
    front = CAGE.at(box.z)[1]
    flare = 10 * np.clip((box.z - 410) / 28, 0, 1)
    for label, low, high, half in (
        ("manubrium", 394.0, 438.0, 25 + flare),
        ("sternum", 296.0, 391.0, 16 + 3 * np.cos((box.z - 320) / 16)),
    ):
        flat = smooth_max(np.abs(box.x) - half, np.abs(box.y - front) - np.float32(5.5), 5)
        bone = smooth_max(flat, np.abs(box.z - np.float32((low + high) / 2)) - np.float32((high - low) / 2), 5)
        paint_bone(canvas, box, bone, LABELS[label], 130.0, 500.0)


def _paint_cartilage(canvas: Canvas, side: str, sign: float) -> None:
    """A bent bar from each rib's end; those of the lower ribs rise again to the one above."""
    label = LABELS[f"costal_cartilage_{side}"]
    for number, (away, level) in CARTILAGE_END.items():
        start, end = rib_points(number, side)[-1], CAGE.front_point(sign * away, level)
        sag = min(start[2], end[2]) - (3 if number > 4 else 0)
        middle = CAGE.front_point(0.5 * (start[0] + end[0]), 0.35 * sag + 0.325 * (start[2] + end[2]))
        box, distance = canvas.tube(*curve([start, middle, end], 4.6), taller_mm=1.8)
        canvas.paint(box, distance, label, CARTILAGE_HU)
        canvas.paint(box, distance + np.float32(1.2), label, CARTILAGE_HU - 25)


def _paint_shoulder(canvas: Canvas, side: str, sign: float) -> None:
    """Clavicle, and the head of the humerus of a raised arm."""
    clavicle: Path = [(26, -55, 437), (60, -58, 447), (100, -42, 458), (135, -10, 468), (158, 14, 472)]
    part, distance = canvas.tube(*curve(mirrored(clavicle, sign), [8, 6, 5.5, 5.5, 6]))
    paint_bone(canvas, part, distance, LABELS[f"clavicle_{side}"])
    head = (sign * 172.0, 18.0, 456.0)
    box = canvas.box([c - 30 for c in head], [c + 30 for c in head])
    paint_bone(canvas, box, ellipsoid(box, head, (23, 23, 24)), LABELS[f"humerus_{side}"], 180.0)


def _paint_scapula(canvas: Canvas, side: str, sign: float) -> None:
    """A thin curved blade behind the cage with thicker borders, its spine and the neck towards the joint."""
    label = LABELS[f"scapula_{side}"]
    box = canvas.box((sign * 110 - 55, 0, 315), (sign * 110 + 55, 110, 470))
    x = sign * box.x
    sheet = np.abs(box.y - (100 - 0.0042 * np.maximum(x - 50, 0) ** 2)) - np.float32(1.6)
    medial = 68 + 0.05 * (455 - box.z)
    lateral = 84 + 62 * np.clip((box.z - 318) / 125, 0, 1)
    blade = smooth_max(sheet, smooth_max(medial - x, x - lateral, 2), 2)
    blade = smooth_max(blade, np.abs(box.z - np.float32(388)) - np.float32(70), 3)
    paint_bone(canvas, box, blade, label, 400.0, 800.0)
    bars: list[tuple[Path, list[float]]] = [
        ([(72, 97, 430), (110, 95, 442), (150, 72, 460), (176, 40, 482)], [3, 4, 5, 6]),
        ([(132, 70, 444), (142, 44, 450), (146, 26, 454)], [6, 9, 13]),
        ([(88, 95, 322), (110, 86, 370), (132, 70, 420), (143, 52, 444)], [4.5, 4, 4.5, 7]),
    ]
    for path, radii in bars:
        part, distance = canvas.tube(*curve(mirrored(path, sign), radii))
        paint_bone(canvas, part, distance, label)


def _paint_hip(canvas: Canvas, side: str, sign: float) -> None:
    """Wing of the ilium: a curved plate from the sacroiliac joint to the front, higher in its middle."""
    strips = [_hip_strip(sign, level) for level in np.arange(-128.0, 60.0, 3.0).tolist()]
    box, distance = canvas.tube(np.concatenate([p for p, _ in strips]), np.concatenate([r for _, r in strips]))
    paint_bone(canvas, box, distance, LABELS[f"hip_{side}"], 180.0)


def _hip_strip(sign: float, level: float) -> tuple[Any, Any]:
    """The wing's middle line and half thickness at one level; near the crest only its middle part is left."""
    flare = min(max((level + 60) / 120, 0.0), 1.0)
    rise = max(0.0, (level - 8) / 52)
    low, high = (0.0, 1.0) if level < 8 else (0.12 + 0.3 * rise, 0.9 - 0.3 * rise)
    path = [(48, 72), (72, 62), (100, 34), (112 + 8 * flare, 4), (116 + 12 * flare, -28)]
    fine, _ = curve([(sign * x, y, level) for x, y in path], spacing_mm=2.5)
    first = int(low * len(fine))
    kept = fine[first : max(int(high * len(fine)), first + 2)]
    return kept, np.interp(np.linspace(0, 1, len(kept)), [0, 0.2, 0.6, 1], [8, 6, 4, 6])
