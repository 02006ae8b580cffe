"""The spine: vertebral bodies with their processes, discs, sacrum, and the canal with its sac and cord."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from semgen_platform.phantom.canvas import OUTSIDE, Box, Canvas, Path, curve, mirrored, profile, smooth_max
from semgen_platform.phantom.labels import LABELS, LUMBAR, THORACIC
from semgen_platform.phantom.trunk import WALL

CORTEX_HU, MARROW_HU, DISC_HU = 800.0, 150.0, 82.0
CORTEX_MM = 1.2


@dataclass(frozen=True)
class Vertebra:
    """One level: middle of the body, height with the disc above it, half extents of the body; all in mm."""

    name: str
    z: float
    pitch: float
    disc: float
    half_width: float
    half_depth: float

    @property
    def y(self) -> float:
        return float(spine_y(self.z))

    @property
    def thoracic(self) -> bool:
        """Also true of the neck, whose processes are drawn alike."""
        return self.name not in LUMBAR

    @property
    def label(self) -> int:
        return LABELS[self.name if self.name in THORACIC + LUMBAR else "cervical_spine"]


_MIDDLE_Y = profile(
    (-110, 84), (-70, 70), (-15, 38), (17, 24), (53, 17), (89, 15), (124, 18), (159, 24), (192, 31), (252, 42),
    (306, 48), (356, 49), (404, 43), (448, 30), (487, 16), (522, 9), (545, 8),
)  # fmt: skip
_PITCH_MM = {
    "L5": 35.0, "L4": 36.0, "L3": 36.0, "L2": 35.0, "L1": 34.0, "T12": 32.0, "T11": 30.0, "T10": 28.0, "T9": 27.0,
    "T8": 26.0, "T7": 25.0, "T6": 24.5, "T5": 24.0, "T4": 23.0, "T3": 22.0, "T2": 21.0, "T1": 20.0, "C7": 18.0,
    "C6": 17.0, "C5": 17.0, "C4": 17.0,
}  # fmt: skip
_HALF_WIDTH_DEPTH_DISC = profile(
    (17, 25.5, 17.5, 10), (89, 23.5, 17.5, 10), (159, 21.5, 16, 8), (192, 19.5, 15, 6), (306, 15, 14, 4),
    (380, 14, 12, 4), (468, 15, 9, 4), (540, 12, 8, 5),
)  # fmt: skip


def spine_y(z: Any) -> Any:
    """y of the middle of the vertebral bodies at levels z: lordosis, kyphosis and the neck."""
    return _MIDDLE_Y(z)[..., 0].astype(np.float32)


def _spine() -> dict[str, Vertebra]:
    spine, low = {}, 0.0
    for name, pitch in _PITCH_MM.items():
        z = low + pitch / 2
        half_width, half_depth, disc = _HALF_WIDTH_DEPTH_DISC(z).tolist()
        spine[name] = Vertebra(name, z, pitch, disc, half_width, half_depth)
        low += pitch
    return spine


SPINE: dict[str, Vertebra] = _spine()


def paint_bone(
    canvas: Canvas, box: Box, distance: Any, label: int, marrow_hu: float = MARROW_HU, cortex_hu: float = CORTEX_HU
) -> None:
    """A cortex of about 1.2 mm round cancellous bone."""
    canvas.paint(box, distance, label, cortex_hu)
    canvas.paint(box, distance + np.float32(CORTEX_MM), label, marrow_hu, 0.05)


def paint_spine(canvas: Canvas) -> None:
    """Vertebrae from L5 to the neck with their discs, the sacrum, and the canal through all of them."""
    for vertebra in SPINE.values():
        _paint_body(canvas, vertebra)
        for points, radii, taller in _processes(vertebra):
            part, distance = canvas.tube(*curve(points, radii), taller_mm=taller)
            paint_bone(canvas, part, distance, vertebra.label)
    _paint_sacrum(canvas)
    _paint_canal(canvas)


def _paint_body(canvas: Canvas, v: Vertebra) -> None:
    """A waisted column, hollowed by the canal behind, and the disc that reaches above and below it."""
    reach = np.array([v.half_width + 6, v.half_depth + 6, v.pitch / 2 + 3])
    box = canvas.box(np.array([0, v.y, v.z]) - reach, np.array([0, v.y, v.z]) + reach)
    middle = spine_y(box.z)
    height = np.abs(box.z - v.z)
    waist = 0.9 + 0.1 * np.clip((height / (v.pitch / 2)) ** 2, 0, 1)
    away = np.hypot(box.x / (v.half_width * waist), (box.y - middle) / (v.half_depth * waist))
    column = (away - 1) * np.float32(min(v.half_width, v.half_depth))
    disc_label = LABELS["disc_thoracic" if v.thoracic else "disc_lumbar"]
    canvas.paint(box, smooth_max(column + 1, height - np.float32(v.pitch / 2 + 0.5), 2), disc_label, DISC_HU, 0.05)
    sac = 9.5 - np.hypot(box.x, box.y - middle - np.float32(v.half_depth + 7.5))
    bone = smooth_max(smooth_max(column, height - np.float32((v.pitch - v.disc) / 2), 4), sac, 3)
    paint_bone(canvas, box, bone, v.label, cortex_hu=480)


def _processes(v: Vertebra) -> list[tuple[Path, list[float], float]]:
    """Pedicle and lamina, transverse process and facets of both sides, spinous process: points, radii, half height."""
    back, depth, scale = v.y + v.half_depth, 16.0, v.pitch / 36
    canal, wing, sweep, tail, slope = (10, 26, 16, 26, -20 * scale) if v.thoracic else (13, 38, 6, 30, -5)
    level = v.z + (3 if v.thoracic else 2)
    arch: Path = [
        (v.half_width - 6, back - 5, level),
        (canal + 2.5, back + 4, level),
        (canal - 1, back + depth - 2, level - 4),
        (0.0, back + depth + 2, level - 6),
    ]
    transverse: Path = [(canal + 2, back + 5, level), (wing, back + 5 + sweep, level + 2)]
    facets: Path = [
        (canal + 2, back + depth - 5, level - 12 * scale),
        (canal + 3, back + depth - 5, level + 12 * scale),
    ]
    tip = min(back + depth + tail, float(WALL.at(np.array(v.z))[2]) - 4)
    spinous: Path = [(0, back + depth, level - 6), (0, tip, level - 6 + slope)]
    parts: list[tuple[Path, list[float], float]] = [(spinous, [2.6, 3.0], 3.0 if v.thoracic else 8.0)]
    for sign in (-1.0, 1.0):
        parts += [
            (mirrored(arch, sign), [4.2 * scale + 1.4, 4.0 * scale + 1.4, 2.9, 2.9], 4.5 * scale),
            (mirrored(transverse, sign), [3.4, 3.6 if v.thoracic else 2.6], 2.0),
            (mirrored(facets, sign), [4.6 * scale + 0.8] * 2, 0.0),
        ]
    return parts


def _paint_sacrum(canvas: Canvas) -> None:
    box = canvas.box((-62, 5, -128), (62, 112, 4))
    level = np.clip((box.z + 120) / 120, 0, 1)
    thick = 9 + 13 * level - 8 * np.clip(np.abs(box.x) / 50, 0, 1)
    across = np.sqrt((box.x / (16 + 36 * level)) ** 4 + ((box.y - spine_y(box.z) - 4) / thick) ** 4) ** 0.5
    bone = smooth_max((across - 1) * thick, np.abs(box.z + 62) - np.float32(60), 6)
    paint_bone(canvas, box, bone, LABELS["sacrum"], MARROW_HU - 40)


def _paint_canal(canvas: Canvas) -> None:
    """Dural sac in epidural fat, with the cord in it down to L1."""
    levels = np.arange(-60, 545, 2.0)
    depth = np.interp(levels, [v.z for v in SPINE.values()], [v.half_depth for v in SPINE.values()])
    points = np.stack([np.zeros_like(levels), spine_y(levels) + depth + 8.5, levels], axis=1)
    box, distance = canvas.tube(points, np.interp(levels, [-60, 0, 180, 300], [5, 9, 9.5, 8.5]))
    label = np.where(box.z > 176, LABELS["spinal_canal_thoracic"], LABELS["spinal_canal_lumbar"])
    canvas.paint(box, distance, label, -30.0)
    canvas.paint(box, distance + np.float32(1.5), label, 18.0)
    canvas.paint(box, np.where(box.z > 160, distance + np.float32(4), OUTSIDE), label, 40.0)
