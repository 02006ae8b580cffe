"""The canonical body: one average adult on a grid, from which every patient is made.

Body coordinates are (x, y, z) millimetres: x to the left from the middle plane, y to posterior from mid depth, z to
superior from the lumbosacral joint. The grid reaches from the pelvis to the neck; arms are absent, as in a scan with
raised arms. `LABELS` names what is where.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.abdomen import paint_abdomen
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.labels import LABELS, NAMES
from semgen_platform.phantom.skeleton import SPINE, paint_skeleton
from semgen_platform.phantom.thorax import paint_airways, paint_heart, paint_lungs, paint_oesophagus, paint_vessels
from semgen_platform.phantom.trunk import HIGH_XYZ_MM, LOW_XYZ_MM, paint_wall

STEP_MM = 1.5

__all__ = ["LABELS", "NAMES", "STEP_MM", "canonical_body", "landmark_xyz_mm"]


@cache
def canonical_body(step_mm: float = STEP_MM) -> Canvas:
    """The body on its grid, built once in a process (some seconds). Callers copy before they paint.

    Everything outside the muscles is subcutaneous fat; skin and air are laid on at each patient's own thickness.
    """
    rng = uniform_stream("canonical body")
    canvas = Canvas.empty(LOW_XYZ_MM, HIGH_XYZ_MM, step_mm)
    paint_wall(canvas, rng)
    paint_abdomen(canvas, rng)
    paint_lungs(canvas, rng)
    paint_heart(canvas)
    paint_vessels(canvas)
    paint_oesophagus(canvas)
    paint_airways(canvas)
    paint_skeleton(canvas)
    for array in (canvas.hu, canvas.uptake, canvas.labels):
        array.setflags(write=False)
    return canvas


def landmark_xyz_mm(name: str) -> tuple[float, float, float]:
    """Middle of a vertebral body, such as L1, in body coordinates."""
    vertebra = SPINE[name]
    return 0.0, vertebra.y, vertebra.z


def label_centre_xyz_mm(canvas: Canvas, label: int) -> np.ndarray:
    """Mean position of a label's grid points in body coordinates."""
    points = np.argwhere(canvas.labels == label).mean(axis=0) * canvas.step_mm + np.array(canvas.low_zyx_mm)
    return points[::-1]
