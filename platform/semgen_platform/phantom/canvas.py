"""A grid of the canonical body that solids are painted on, edge by edge with partial volume.

A solid is a signed distance in millimetres on a box of the grid, negative inside. Painting mixes its HU over a border
of one grid step, so that edges stay smooth when a scanner samples the grid between its points. Points of the body are
(x, y, z) millimetres with x to the patient's left, y to posterior and z to superior; arrays are z, y, x.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

Field = NDArray[np.float32]
Point = tuple[float, float, float]
Path = list[Point]

FAR_MM = 1e3
OUTSIDE = np.float32(9.0)
"""A distance that paints nothing, for parts of a box that a solid must leave alone."""


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
        """The same picture to paint on."""
        return Canvas(self.step_mm, self.low_zyx_mm, self.hu.copy(), self.uptake.copy(), self.labels.copy())

    def box(self, low_xyz_mm: Sequence[float], high_xyz_mm: Sequence[float]) -> Box:
        """The grid points between two corners, cut at the canvas's border."""
        window, grids = [], []
        for axis, size in enumerate(self.hu.shape):
            low = max(0, int(np.floor((low_xyz_mm[2 - axis] - self.low_zyx_mm[axis]) / self.step_mm)))
            high = min(size, int(np.ceil((high_xyz_mm[2 - axis] - self.low_zyx_mm[axis]) / self.step_mm)) + 1)
            window.append(slice(low, max(low, high)))
            points = self.low_zyx_mm[axis] + self.step_mm * np.arange(low, max(low, high))
            grids.append(points.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)]))
        return Box((window[0], window[1], window[2]), grids[0], grids[1], grids[2])

    def whole(self) -> Box:
        """All grid points."""
        return self.box((-FAR_MM,) * 3, (FAR_MM,) * 3)

    def slabs(self, layers: int = 12) -> Iterator[Box]:
        """The whole canvas in slabs small enough for the processor's cache."""
        for low in range(0, self.hu.shape[0], layers):
            z = [self.low_zyx_mm[0] + self.step_mm * n for n in (low, min(low + layers, self.hu.shape[0]) - 1)]
            yield self.box((-FAR_MM, -FAR_MM, z[0] + 1e-3), (FAR_MM, FAR_MM, z[1] - 1e-3))

    def paint(self, box: Box, distance_mm: Any, label: Any, hu: Any, uptake: Any = 0.0) -> None:
        """Lay a solid over what is there. `label`, `hu` and `uptake` are numbers or arrays on the box."""
        share = np.clip(0.5 - np.asarray(distance_mm, np.float32) / np.float32(self.step_mm), 0, 1)
        if not share.any():
            return
        for canvas, value in ((self.hu, hu), (self.uptake, uptake)):
            part = canvas[box.window]
            part += share * (np.asarray(value, np.float32) - part)
        labels = self.labels[box.window]
        inside = np.broadcast_to(distance_mm < 0, labels.shape)
        np.copyto(labels, np.asarray(label, np.uint8), where=inside)

    def tube(
        self, points_xyz_mm: Any, radii_mm: Any, *, taller_mm: float = 0.0, box: Box | None = None
    ) -> tuple[Box, Field]:
        """Distance to a tube along points (N, 3), on a box round it or on the one given.

        Points must lie closer together than the radius (`curve` sees to it); `taller_mm` stretches the section along z.
        Farther than two grid steps outside, the distance is `FAR_MM`.
        """
        points = np.asarray(points_xyz_mm, dtype=np.float64).reshape(-1, 3)
        radii = np.broadcast_to(np.asarray(radii_mm, dtype=np.float64), len(points))
        reach = radii.max() + 3 * self.step_mm + np.array([0.0, 0.0, taller_mm])
        box = box or self.box(points.min(0) - reach, points.max(0) + reach)
        distance = np.full(box.shape, FAR_MM, np.float32)
        if not distance.size:
            return box, distance
        corner = np.array([grid.flat[0] for grid in (box.z, box.y, box.x)])
        near = radii[:, None] + 2 * self.step_mm + np.array([taller_mm, 0.0, 0.0])
        lows = np.maximum(np.floor((points[:, ::-1] - near - corner) / self.step_mm).astype(int), 0)
        highs = np.maximum(np.ceil((points[:, ::-1] + near - corner) / self.step_mm).astype(int) + 1, lows)
        for (px, py, pz), radius, low, high in zip(points, radii, lows.tolist(), highs.tolist(), strict=True):
            z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
            dz = np.maximum(np.abs(box.z[z] - np.float32(pz)) - np.float32(taller_mm), 0)
            squares = dz**2 + (box.y[:, y] - np.float32(py)) ** 2 + (box.x[:, :, x] - np.float32(px)) ** 2
            part = distance[z, y, x]
            np.minimum(part, np.sqrt(squares) - np.float32(radius), out=part)
        return box, distance

    def paint_tube(
        self, path: Any, radii_mm: Any, label: int, hu: float, uptake: float = 0.0, *, taller_mm: float = 0.0
    ) -> None:
        """Lay a smooth tube through the points of `path` over what is there."""
        box, distance = self.tube(*curve(path, radii_mm), taller_mm=taller_mm)
        self.paint(box, distance, label, hu, uptake)


def inset(outer: Box, inner: Box) -> tuple[slice, slice, slice]:
    """Where the part of `inner` that lies in `outer` is found in an array on `outer`; `inner` must lie inside it."""
    z, y, x = (slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner.window, outer.window, strict=True))
    return z, y, x


def curve(
    points_xyz_mm: Any, radii_mm: Any = 1.0, *, spacing_mm: float = 1.5
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A cubic spline through points (N, 3) and its radii, sampled about every `spacing_mm`."""
    points = np.asarray(points_xyz_mm, dtype=np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    fine = np.linspace(0, along[-1], max(2, round(along[-1] / spacing_mm) + 1))
    radii = np.interp(fine, along, np.broadcast_to(np.asarray(radii_mm, dtype=np.float64), len(points)))
    return CubicSpline(along, points)(fine), radii


def mirrored(path: Path, sign: float) -> Path:
    """The path on the left (sign 1) or the right side (-1) of the body."""
    return [(sign * x, y, z) for x, y, z in path]


def profile(*knots: tuple[float, ...]) -> PchipInterpolator:
    """Smooth values along z from knots (z, value, ...) in any order; clip z to the knots' range before asking."""
    table = np.array(sorted(knots))
    return PchipInterpolator(table[:, 0], table[:, 1:], axis=0, extrapolate=True)


def ellipsoid(box: Box, centre_xyz_mm: Point, radii_xyz_mm: Point, axes: NDArray[np.float64] | None = None) -> Field:
    """Distance to an ellipsoid, exact at its surface to first order; `axes` holds its own directions as columns."""
    grids = (box.x, box.y, box.z)
    offset = [grid - np.float32(centre) for grid, centre in zip(grids, centre_xyz_mm, strict=True)]
    if axes is not None:
        turned = np.asarray(axes, dtype=np.float32)
        offset = [offset[0] * turned[0, n] + offset[1] * turned[1, n] + offset[2] * turned[2, n] for n in range(3)]
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
    return -smooth_max(-a, -b, width_mm)
