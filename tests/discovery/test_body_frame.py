"""What the frame of a scan must hold, against brute-force means and shapes known by construction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from semgen_platform.discovery.body_frame import BodyConfig, body_frame, encoder_input
from semgen_platform.discovery.resampling import Grid, extent_zyx_mm, field, grid_over, mean_over_cells, sample

FloatArray = NDArray[np.float64]


def affine(spacing_zyx: Any, first_xyz: Any, rotation: FloatArray | None = None) -> FloatArray:
    """zyx_to_lps_mm from spacing along (z, y, x), the LPS place of voxel 0 and a rotation of the x, y, z axes."""
    turned = np.eye(3) if rotation is None else rotation
    out = np.eye(4)
    out[:3, :3] = turned[:, ::-1] * np.asarray(spacing_zyx)
    out[:3, 3] = first_xyz
    return out


def test_a_cell_holds_the_mean_of_the_interpolated_scan_over_it() -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(size=(7, 9, 8))
    spacing = np.array([5.0, 1.3, 2.1])  # slices thicker than cells, pixels finer
    grid = Grid((6.0, 3.0, 4.0), 4.0, (5, 2, 3))
    mean, valid = mean_over_cells(voxels, affine(spacing, (0, 0, 0)), None, grid)
    # oracle: order-1 samples at 40 places along each axis of every cell
    inside = (np.arange(40) + 0.5) / 40 * 4 - 2
    axes = [(np.arange(n)[:, None] * 4 + o + inside).ravel() for n, o in zip((5, 2, 3), (6, 3, 4), strict=True)]
    places = np.stack(np.meshgrid(*axes, indexing="ij")) / spacing[:, None, None, None]
    fine = ndimage.map_coordinates(voxels, places, order=1, mode="nearest")
    expected = fine.reshape(5, 40, 2, 40, 3, 40).mean(axis=(1, 3, 5))
    assert valid.all()
    np.testing.assert_allclose(mean, expected, atol=2e-3)


@pytest.mark.parametrize("turn_deg", [0.0, 9.0])
@pytest.mark.parametrize("flip_xyz", [(1, 1, 1), (-1, 1, -1)])
def test_a_ramp_in_patient_space_stays_that_ramp_whatever_the_scans_axes(
    turn_deg: float, flip_xyz: tuple[int, int, int]
) -> None:
    rotation = Rotation.from_rotvec(np.radians(turn_deg) * np.array([0.6, 0.0, 0.8])).as_matrix() * np.array(flip_xyz)
    zyx_to_lps = affine((3.0, 1.5, 2.0), (10.0, -20.0, 30.0), rotation)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in (30, 60, 45)], indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ zyx_to_lps[:3, :3].T + zyx_to_lps[:3, 3], -1, 0)
    grid = grid_over(*extent_zyx_mm((30, 60, 45), zyx_to_lps), 4.0)
    mean, valid = mean_over_cells(3 * x - 2 * y + 5 * z, zyx_to_lps, None, grid)
    points = grid.centres_zyx_mm().reshape(*grid.shape_zyx, 3)
    expected = points @ np.array([5.0, -2.0, 3.0])
    deep = ndimage.binary_erosion(valid, iterations=3)  # the outermost voxels are held constant
    assert deep.sum() > 500
    np.testing.assert_allclose(mean[deep], expected[deep], atol=0.05)


def test_padding_does_not_count_and_leaves_its_cells_invalid() -> None:
    voxels = np.full((4, 16, 16), 50, np.int16)
    voxels[:, :, :7] = -2000
    mean, valid = mean_over_cells(voxels, affine((4, 1, 1), (0, 0, 0)), -2000, Grid((6.0, 1.5, 1.5), 4.0, (2, 4, 4)))
    assert not valid[:, :, 0].any()
    assert valid[:, :, 2:].all()
    np.testing.assert_allclose(mean[valid], 50, atol=1e-3)
    assert (mean[~valid] == -1000).all()


def test_sampling_between_cells_agrees_with_scipy() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(6, 7, 8))
    grid = Grid((10.0, -5.0, 3.0), 2.0, (6, 7, 8))
    index = rng.uniform(0, [5, 6, 7], (50, 3))
    found = sample(field(values), grid, grid.to_mm(index))[0]
    np.testing.assert_allclose(found, ndimage.map_coordinates(values, index.T, order=1), atol=1e-5)


def trunk(height_mm: float = 240.0, table: bool = True) -> tuple[NDArray[np.int16], FloatArray]:
    """An elliptic cylinder of tissue with two lungs from z = 60 to 180 mm over a thin table, at 4 x 3 x 3 mm."""
    z, y, x = np.meshgrid(np.arange(0, height_mm, 4), np.arange(-150, 150, 3), np.arange(-200, 200, 3), indexing="ij")
    hu = np.full(z.shape, -1000, np.int16)
    hu[(x / 150) ** 2 + (y / 90) ** 2 < 1] = 40
    for side in (-60, 60):
        hu[(((x - side) / 45) ** 2 + (y / 55) ** 2 < 1) & (z >= 60) & (z <= 180)] = -850
    if table:
        hu[(np.abs(y - 97) <= 3) & (np.abs(x) < 180)] = 100
    return hu, affine((4, 3, 3), (-200, -150, 0))


def test_the_body_is_whole_and_the_table_gone() -> None:
    hu, zyx_to_lps = trunk()
    frame = body_frame(hu, zyx_to_lps, None, BodyConfig())
    points = frame.grid.centres_zyx_mm().reshape(*frame.grid.shape_zyx, 3)
    y, x = points[..., 1], points[..., 2]
    ellipse = (x / 150) ** 2 + (y / 90) ** 2
    assert frame.body_ZYX[ellipse < 0.9].all(), "lungs and all"
    assert not frame.body_ZYX[ellipse > 1.15].any(), "no table"
    assert (frame.hu_ZYX[y > 102] == -1000).all()
    assert frame.body_box_zyx_mm is not None
    low, high = frame.body_box_zyx_mm
    np.testing.assert_allclose(high[1:] - low[1:], [180, 300], atol=10)


def test_lung_ends_are_found_where_they_are() -> None:
    hu, zyx_to_lps = trunk()
    frame = body_frame(hu, zyx_to_lps, None, BodyConfig())
    assert frame.lung_bottom_mm == pytest.approx(60, abs=4)
    assert frame.lung_top_mm == pytest.approx(180, abs=4)


def test_a_lung_that_runs_out_of_the_scan_has_no_end_there() -> None:
    hu, zyx_to_lps = trunk(height_mm=140)
    frame = body_frame(hu, zyx_to_lps, None, BodyConfig())
    assert frame.lung_bottom_mm == pytest.approx(60, abs=4)
    assert frame.lung_top_mm is None


def test_an_empty_scan_has_no_body() -> None:
    frame = body_frame(np.full((10, 40, 40), -1000, np.int16), affine((4, 4, 4), (0, 0, 0)), None, BodyConfig())
    assert frame.body_box_zyx_mm is None
    assert not frame.body_ZYX.any()


def test_the_coarse_frame_holds_means_of_eight_cells_at_the_same_places() -> None:
    hu, zyx_to_lps = trunk(table=False)
    frame = body_frame(hu, zyx_to_lps, None, BodyConfig())
    coarse = frame.coarse()
    z, y, x = (n // 2 * 2 for n in frame.grid.shape_zyx)
    expected = frame.hu_ZYX[:z, :y, :x].reshape(z // 2, 2, y // 2, 2, x // 2, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(coarse.hu_ZYX[: z // 2, : y // 2, : x // 2], expected, atol=1e-3)
    np.testing.assert_allclose(coarse.grid.edges_zyx_mm[0], frame.grid.edges_zyx_mm[0])


def test_the_encoder_sees_the_body_in_the_middle_at_its_true_size() -> None:
    hu, zyx_to_lps = trunk(table=False)
    picture = encoder_input(hu, zyx_to_lps, None, (48, 48, 56), 8.0)
    assert picture.shape == (48, 48, 56)
    assert picture.min() >= 0
    assert picture.max() <= 1
    tissue = picture[24] > 0.4  # 40 HU is 0.52, lung 0.08, air 0
    rows, columns = np.flatnonzero(tissue.any(axis=1)), np.flatnonzero(tissue.any(axis=0))
    assert np.ptp(rows) * 8 + 8 == pytest.approx(180, abs=12)
    assert np.ptp(columns) * 8 + 8 == pytest.approx(300, abs=12)
    assert rows.mean() == pytest.approx(23.5, abs=0.6)
    assert columns.mean() == pytest.approx(27.5, abs=0.6)


def test_the_encoder_input_does_not_depend_on_where_the_patient_lies() -> None:
    hu, zyx_to_lps = trunk(table=False)
    moved = zyx_to_lps.copy()
    moved[:3, 3] += (16.0, -24.0, 8.0)
    first, second = (encoder_input(hu, a, None, (32, 24, 28), 16.0) for a in (zyx_to_lps, moved))
    np.testing.assert_allclose(first, second, atol=1e-5)
