"""A grid of the canonical body that solids are painted on, edge by edge with partial volume.

A solid is a signed distance in millimetres on a box of the grid, negative inside. Painting mixes its HU over a border
of one grid step, so that edges stay smooth when a scanner samples the grid between its points. Points of the body are
(x, y, z) millimetres with x to the patient's left, y to posterior and z to superior; arrays are z, y, x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

Field = NDArray[np.float32]
Point = tuple[float, float, float]

FAR_MM = 1e3


@dataclass(frozen=True)
class Box:
    """A part of a canvas: its slices and the open (z, y, x) coordinates of its points in mm."""

    window: tuple[slice, slice, slice]
    z: Field
    y: Field
    x: Field

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.z.shape[0], self.y.shape[1], self.x.shape[2]


@dataclass(frozen=True, eq=False)
class Canvas:
    """HU without contrast medium, uptake of contrast medium (0 to 1) and labels on a grid; axes z, y, x.

    low_zyx_mm : body coordinate of grid point (0, 0, 0).
    """

    step_mm: float
    low_zyx_mm: tuple[float, float, float]
    hu: Field
    uptake: Field
    labels: NDArray[np.uint8]

    @classmethod
    def empty(cls, low_xyz_mm: Point, high_xyz_mm: Point, step_mm: float) -> Canvas:
        """Air (label 0, -1000 HU) between two corners."""
        shape = tuple(round((high_xyz_mm[a] - low_xyz_mm[a]) / step_mm) + 1 for a in (2, 1, 0))
        hu = np.full(shape, -1000.0, np.float32)
        return cls(step_mm, low_xyz_mm[::-1], hu, np.zeros(shape, np.float32), np.zeros(shape, np.uint8))

    def copy(self) -> Canvas:
        return Canvas(self.step_mm, self.low_zyx_mm, self.hu.copy(), self.uptake.copy(), self.labels.copy())

    def box(self, low_xyz_mm: Sequence[float], high_xyz_mm: Sequence[float]) -> Box:
        """The grid points between two corners, cut at the canvas's border."""
        window, grids = [], []
        for axis, size in enumerate(self.hu.shape):
            low = max(0, int(np.floor((low_xyz_mm[2 - axis] - self.low_zyx_mm[axis]) / self.step_mm)))
            high = min(size, int(np.ceil((high_xyz_mm[2 - axis] - self.low_zyx_mm[axis]) / self.step_mm)) + 1)
            window.append(slice(low, max(low, high)))
            points = self.low_zyx_mm[axis] + self.step_mm * np.arange(low, max(low, high), dtype=np.float32)
            grids.append(points.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]))
        return Box((window[0], window[1], window[2]), *grids)

    def whole(self) -> Box:
        return self.box((-FAR_MM,) * 3, (FAR_MM,) * 3)

    def paint(self, box: Box, distance_mm: Field, label: Any, hu: Any, uptake: Any = 0.0) -> None:
        """Lay a solid over what is there. `label`, `hu` and `uptake` are numbers or arrays on the box."""
        share = np.clip(0.5 - distance_mm / np.float32(self.step_mm), 0, 1)
        if not share.any():
            return
        for canvas, value in ((self.hu, hu), (self.uptake, uptake)):
            part = canvas[box.window]
            part += share * (np.float32(value) - part if np.isscalar(value) else value - part)
        labels = self.labels[box.window]
        inside = np.broadcast_to(distance_mm < 0, labels.shape)
        labels[inside] = label if np.isscalar(label) else np.broadcast_to(label, labels.shape)[inside]

    def tube(self, points_xyz_mm: Any, radii_mm: Any, *, taller_mm: float = 0.0) -> tuple[Box, Field]:
        """Distance to a tube along points (N, 3), on a box round it; `taller_mm` stretches its section along z.

        Points must lie closer together than the radius (`curve` sees to it). Farther than about two grid steps outside
        the distance is `FAR_MM`.
        """
        points = np.asarray(points_xyz_mm, dtype=np.float64).reshape(-1, 3)
        radii = np.broadcast_to(np.asarray(radii_mm, dtype=np.float64), len(points))
        margin = radii.max() + 3 * self.step_mm
        reach = np.array([margin, margin, margin + taller_mm])
        box = self.box(points.min(0) - reach, points.max(0) + reach)
        distance = np.full(box.shape, FAR_MM, np.float32)
        corner = np.array([g.flat[0] if g.size else 0.0 for g in (box.z, box.y, box.x)])
        for point, radius in zip(points[:, ::-1], radii, strict=True):
            near = radius + 2 * self.step_mm
            half = np.array([near + taller_mm, near, near])
            low = np.maximum(np.floor((point - half - corner) / self.step_mm).astype(int), 0)
            high = np.ceil((point + half - corner) / self.step_mm).astype(int) + 1
            z, y, x = (slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
            dz = np.maximum(np.abs(box.z[z] - np.float32(point[0])) - np.float32(taller_mm), 0)
            squares = dz**2 + (box.y[:, y] - np.float32(point[1])) ** 2 + (box.x[:, :, x] - np.float32(point[2])) ** 2
            part = distance[z, y, x]
            np.minimum(part, np.sqrt(squares) - np.float32(radius), out=part)
        return box, distance


def curve(
    points_xyz_mm: Any, radii_mm: Any = 1.0, *, spacing_mm: float = 1.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A cubic spline through points (N, 3) and its radii, sampled about every `spacing_mm`."""
    points = np.asarray(points_xyz_mm, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, along[-1], max(2, round(along[-1] / spacing_mm) + 1))
    radii = np.interp(fine, along, np.broadcast_to(np.asarray(radii_mm, dtype=np.float64), len(points)))
    return CubicSpline(along, points)(fine), radii


def profile(*knots: tuple[float, ...]) -> PchipInterpolator:
    """Smooth values along z from knots (z, value, ...), z in any order; constant beyond the ends when z is clipped there."""
    table = np.array(sorted(knots))
    return PchipInterpolator(table[:, 0], table[:, 1:], axis=0, extrapolate=True)


def ellipsoid(box: Box, centre_xyz_mm: Point, radii_xyz_mm: Point, axes: NDArray[np.float64] | None = None) -> Field:
    """Distance to an ellipsoid, exact at its surface to first order; `axes` holds its own x, y, z directions as columns."""
    offset = (
        box.x - np.float32(centre_xyz_mm[0]),
        box.y - np.float32(centre_xyz_mm[1]),
        box.z - np.float32(centre_xyz_mm[2]),
    )
    if axes is not None:
        turned = np.asarray(axes, dtype=np.float32)
        offset = tuple(offset[0] * turned[0, n] + offset[1] * turned[1, n] + offset[2] * turned[2, n] for n in range(3))  # type: ignore[assignment]
    scaled = [o / np.float32(r) for o, r in zip(offset, radii_xyz_mm, strict=True)]
    length = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
    steep = [s / np.float32(r) for s, r in zip(scaled, radii_xyz_mm, strict=True)]
    slope = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
    return np.asarray(length * (length - 1) / np.maximum(slope, np.float32(1e-6)), np.float32)


def smooth_max(a: Any, b: Any, width_mm: float) -> Field:
    """Intersection of two solids with a rounded edge."""
    gap = np.maximum(np.float32(width_mm) - np.abs(a - b), 0)
    return np.asarray(np.maximum(a, b) + gap * gap / np.float32(4 * width_mm), np.float32)


def smooth_min(a: Any, b: Any, width_mm: float) -> Field:
    """Union of two solids with a rounded seam."""
    gap = np.maximum(np.float32(width_mm) - np.abs(a - b), 0)
    return np.asarray(np.minimum(a, b) - gap * gap / np.float32(4 * width_mm), np.float32)
