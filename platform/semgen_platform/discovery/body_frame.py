"""Every scan on one kind of grid: LPS axes, 4 mm cells, body apart from table and air, measured apart from not.

Step 1 of METHOD.md 5b, and the fixed input of the auto-encoder (step 0). Takes a coarse level as arrays; which level
that is, is the caller's choice (spacings up to 4 mm serve well).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from semgen_platform.config import Config
from semgen_platform.discovery.resampling import (
    AIR_HU,
    BoolArray,
    Float32Array,
    FloatArray,
    Grid,
    Shape,
    extent_zyx_mm,
    grid_over,
    halved,
    mean_over_cells,
)

FRAME_SPACING_MM = 4.0
CLIP_HU = (AIR_HU, 400.0)
ENCODER_WINDOW_HU = (-1000.0, 1000.0)
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


class BodyConfig(Config):
    """How a body is told from table and air."""

    tissue_hu: float = -300.0
    """Above it is body; the skin and fat (-100) are in, foam and clothes are out."""

    opening_mm: float = 12.0
    """Structures thinner than this in an axial plane are taken away: table tops, blankets, cables."""

    lung_hu: float = -500.0
    """Below it, inside the body, is lung (or bowel gas, which is told by its size)."""

    least_lung_ml: float = 200.0
    """Smaller pockets of air are no lung."""

    least_lung_area_mm2: float = 1500.0
    """A slice belongs to the lungs' height if it holds this much lung."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One scan on `grid` (4 mm, or 8 mm after `coarse`).

    hu_ZYX : float32, clipped to [-1000, 400], air where there is no body (the table is gone).
    valid_ZYX : measured there (inside the volume and the scanner's round field of view).
    body_ZYX : body, holes filled.
    body_box_zyx_mm : lower and upper corner of the body, or None in an empty scan.
    lung_bottom_mm, lung_top_mm : heights of the lungs' ends, each None where the scan does not show it.
    """

    grid: Grid
    hu_ZYX: Float32Array
    valid_ZYX: BoolArray
    body_ZYX: BoolArray
    body_box_zyx_mm: tuple[FloatArray, FloatArray] | None
    lung_bottom_mm: float | None
    lung_top_mm: float | None

    def coarse(self) -> Frame:
        """The same at twice the spacing, by means."""
        hu, valid = halved(self.hu_ZYX, self.valid_ZYX)
        body, _ = halved(self.body_ZYX, self.valid_ZYX)
        spacing = self.grid.spacing_mm
        z, y, x = (o + spacing / 2 for o in self.grid.origin_zyx_mm)
        grid = Grid((z, y, x), 2 * spacing, (valid.shape[0], valid.shape[1], valid.shape[2]))
        hu = np.where(valid, hu, np.float32(AIR_HU))
        return Frame(grid, hu, valid, body >= 0.5, self.body_box_zyx_mm, self.lung_bottom_mm, self.lung_top_mm)


def body_frame(voxels_ZYX: NDArray[Any], zyx_to_lps_mm: Any, padding_hu: float | None, config: BodyConfig) -> Frame:
    """The frame of a scan.

    voxels_ZYX : HU. zyx_to_lps_mm : (4, 4), voxel index to LPS. padding_hu : value outside the field of view, or None.
    """
    grid = grid_over(*extent_zyx_mm(_shape(voxels_ZYX), zyx_to_lps_mm), FRAME_SPACING_MM)
    hu, valid = mean_over_cells(voxels_ZYX, zyx_to_lps_mm, padding_hu, grid)
    body = body_mask(hu, FRAME_SPACING_MM, config)
    rim = ndimage.binary_dilation(body, IN_PLANE)  # the skin's partial volume stays with the body
    clipped = np.where(rim, np.clip(hu, *CLIP_HU), np.float32(AIR_HU))
    bottom, top = lung_ends_mm(hu, body, valid, grid, config)
    return Frame(grid, clipped, valid, body, _box(body, grid), bottom, top)


def body_mask(hu_ZYX: Float32Array, spacing_mm: float, config: BodyConfig) -> BoolArray:
    """The largest connected body with its lungs and bowels, without table; empty if nothing is above the threshold."""
    side = max(1, round(config.opening_mm / spacing_mm))
    opened = ndimage.binary_opening(hu_ZYX > config.tissue_hu, np.ones((1, side, side), bool))
    return _fill_in_plane(_largest_component(opened))


def _largest_component(mask_ZYX: BoolArray) -> BoolArray:
    labels, _ = ndimage.label(mask_ZYX)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: BoolArray = (labels == sizes.argmax()) if sizes.max(initial=0) else np.zeros_like(mask_ZYX)
    return largest


def _fill_in_plane(mask_ZYX: BoolArray) -> BoolArray:
    """Holes of every axial slice filled: background that does not reach the slice's border."""
    labels, count = ndimage.label(~mask_ZYX, IN_PLANE)
    outside = np.zeros(count + 1, bool)
    for border in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        outside[np.unique(border)] = True
    outside[0] = False
    filled: BoolArray = ~outside[labels]
    return filled


def lung_ends_mm(
    hu_ZYX: Float32Array, body_ZYX: BoolArray, valid_ZYX: BoolArray, grid: Grid, config: BodyConfig
) -> tuple[float | None, float | None]:
    """Heights of the lungs' lower and upper end; None where there is no lung or where it runs out of the scan."""
    labels, _ = ndimage.label((hu_ZYX < config.lung_hu) & body_ZYX & valid_ZYX)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    lung = (sizes * grid.spacing_mm**3 / 1000 >= config.least_lung_ml)[labels]
    area_mm2 = lung.sum(axis=(1, 2)) * grid.spacing_mm**2
    slices = np.flatnonzero(area_mm2 >= config.least_lung_area_mm2)
    measured = np.flatnonzero(valid_ZYX.any(axis=(1, 2)))
    if len(slices) == 0:
        return None, None
    bottom, top = (float(grid.origin_zyx_mm[0] + s * grid.spacing_mm) for s in (slices[0], slices[-1]))
    return (bottom if slices[0] > measured[0] + 1 else None), (top if slices[-1] < measured[-1] - 1 else None)


def _box(mask_ZYX: BoolArray, grid: Grid) -> tuple[FloatArray, FloatArray] | None:
    found = [np.flatnonzero(mask_ZYX.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    if any(len(f) == 0 for f in found):
        return None
    return grid.to_mm([f[0] - 0.5 for f in found]), grid.to_mm([f[-1] + 0.5 for f in found])


def _shape(voxels_ZYX: NDArray[Any]) -> Shape:
    z, y, x = voxels_ZYX.shape
    return z, y, x


def encoder_input(
    voxels_ZYX: NDArray[Any], zyx_to_lps_mm: Any, padding_hu: float | None, shape_zyx: Shape, spacing_mm: float
) -> Float32Array:
    """(z, y, x) float32 in [0, 1]: the scan's means on a fixed grid round the centre of its body box.

    Never stretched; air where there is no scan; HU -1000 is 0 and 1000 is 1. Real archives take (128, 96, 112) at 4 mm,
    a demo (64, 48, 56) at 8 mm. A scan without a body is centred on its own middle.
    """
    low, high = extent_zyx_mm(_shape(voxels_ZYX), zyx_to_lps_mm)
    box_grid = grid_over(low, high, FRAME_SPACING_MM)
    body = body_mask(
        mean_over_cells(voxels_ZYX, zyx_to_lps_mm, padding_hu, box_grid)[0], FRAME_SPACING_MM, BodyConfig()
    )
    box = _box(body, box_grid) or (low, high)
    half = np.array(shape_zyx) * spacing_mm / 2
    centre = (box[0] + box[1]) / 2
    hu, valid = mean_over_cells(
        voxels_ZYX, zyx_to_lps_mm, padding_hu, grid_over(centre - half, centre + half, spacing_mm)
    )
    window_low, window_high = ENCODER_WINDOW_HU
    hu = np.where(valid, hu, np.float32(AIR_HU))
    scaled: Float32Array = np.clip((hu - window_low) / (window_high - window_low), 0, 1, dtype=np.float32)
    return scaled
