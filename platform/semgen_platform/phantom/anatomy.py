"""The canonical body: one average adult on a grid, from which every patient is made.

Body coordinates are (x, y, z) millimetres: x to the left from the middle plane, y to posterior from mid depth, z to
superior from the lumbosacral joint. The grid reaches from the pelvis to the neck; arms are absent, as in a scan with
raised arms. `LABELS` names what is where.
"""

from __future__ import annotations

from functools import cache

from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.abdomen import paint_abdomen
from semgen_platform.phantom.canvas import Canvas, Point
from semgen_platform.phantom.heart import paint_great_vessels, paint_heart, paint_oesophagus
from semgen_platform.phantom.labels import LABELS, NAMES
from semgen_platform.phantom.lungs import paint_airways, paint_lungs
from semgen_platform.phantom.skeleton import paint_skeleton
from semgen_platform.phantom.spine import SPINE, paint_spine
from semgen_platform.phantom.trunk import HIGH_XYZ_MM, LOW_XYZ_MM, paint_wall

STEP_MM = 1.5
"""Grid step; edges are smooth below it, since painting keeps partial volume."""

__all__ = ["LABELS", "NAMES", "STEP_MM", "canonical_body", "vertebra_xyz_mm"]


@cache
def canonical_body() -> Canvas:
    """The body on its grid, read-only, built once in a process (some seconds).

    Everything outside the muscles is subcutaneous fat; skin and air are laid on at each patient's own thickness.
    """
    rng = uniform_stream("canonical body")
    canvas = Canvas.empty(LOW_XYZ_MM, HIGH_XYZ_MM, STEP_MM)
    paint_wall(canvas, rng)
    paint_abdomen(canvas, rng)
    paint_lungs(canvas, rng)
    paint_heart(canvas)
    paint_great_vessels(canvas)
    paint_oesophagus(canvas)
    paint_airways(canvas)
    paint_spine(canvas)
    paint_skeleton(canvas)
    for array in (canvas.hu, canvas.uptake, canvas.labels):
        array.setflags(write=False)
    return canvas


def vertebra_xyz_mm(name: str) -> Point:
    """Middle of a vertebral body, such as L1, in body coordinates."""
    vertebra = SPINE[name]
    return 0.0, vertebra.y, vertebra.z
