"""Solids on the canvas: volumes and distances against formulas, interpolation against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from semgen_platform.phantom.canvas import Canvas, curve, ellipsoid, smooth_max, smooth_min
from semgen_platform.phantom.fields import linear_weights, smooth_noise, spread


def canvas() -> Canvas:
    return Canvas.empty((-40, -30, -20), (40, 30, 20), 2.0)


def painted_ml(picture: Canvas) -> float:
    """Volume of what was painted with 0 HU on air, partial volume counted."""
    return float((picture.hu / 1000 + 1).sum() * picture.step_mm**3 / 1000)


def test_a_painted_sphere_has_the_volume_of_a_sphere() -> None:
    picture = canvas()
    box = picture.whole()
    picture.paint(box, ellipsoid(box, (3, -2, 1), (15, 15, 15)), 7, 0.0)
    # 4/3 pi 1.5^3 ml = 14.14 ml; the border is spread over one grid step, which adds pi/3 r h^2 / ... below 1 %
    assert painted_ml(picture) == pytest.approx(14.14, rel=0.01)
    assert (picture.labels == 7).sum() * 8e-3 == pytest.approx(14.14, rel=0.02)


def test_a_turned_ellipsoid_has_its_volume_and_its_long_axis() -> None:
    picture = canvas()
    box = picture.whole()
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
    picture.paint(box, ellipsoid(box, (0, 0, 0), (24, 8, 10), turn), 1, 0.0)
    assert painted_ml(picture) == pytest.approx(4 / 3 * np.pi * 2.4 * 0.8 * 1.0, rel=0.02)
    zyx = np.argwhere(picture.labels == 1)
    long_axis = np.linalg.eigh(np.cov(zyx.T))[1][:, -1][::-1]
    assert abs(long_axis @ turn[:, 0]) == pytest.approx(1, abs=0.01)


def test_a_straight_tube_has_the_volume_of_a_capsule() -> None:
    picture = canvas()
    points, radii = curve([(-20, 0, 0), (20, 0, 0)], 6.0)
    picture.paint(*picture.tube(points, radii), 3, 0.0)
    assert painted_ml(picture) == pytest.approx(np.pi * 0.36 * 4 + 4 / 3 * np.pi * 0.216, rel=0.02)


def test_a_tube_on_a_box_of_ones_choice_is_the_same_tube() -> None:
    picture = canvas()
    points, radii = curve([(-60, 0, 0), (20, 10, 5)], 6.0)  # begins outside the canvas
    box, distance = picture.tube(points, radii)
    whole = picture.tube(points, radii, box=picture.whole())[1]
    np.testing.assert_array_equal(whole[box.window], distance)


def test_paint_reaches_only_the_label_that_it_covers_and_mixes_hu_at_the_border() -> None:
    picture = canvas()
    box = picture.box((-10, -10, -10), (10, 10, 10))
    picture.paint(box, np.abs(box.x) + 0 * box.y + 0 * box.z - np.float32(4), 2, 100.0)
    row = picture.hu[10, 15]
    # grid points at x = ... 2, 4, 6: inside, on the border (half), outside
    assert row[21:24].tolist() == [100.0, -450.0, -1000.0]
    assert picture.labels[10, 15, 21:24].tolist() == [2, 0, 0]


def test_rounded_union_and_intersection_agree_with_the_sharp_ones_away_from_the_edge() -> None:
    a, b = np.array([-9.0, 0.0, 5.0]), np.array([5.0, 0.0, -9.0])
    assert smooth_max(a, b, 4).tolist() == [5.0, 1.0, 5.0]
    assert smooth_min(a, b, 4).tolist() == [-9.0, -1.0, -9.0]


def test_slabs_cover_every_layer_once() -> None:
    picture = canvas()
    layers = [n for box in picture.slabs(6) for n in range(box.window[0].start, box.window[0].stop)]
    assert layers == list(range(picture.hu.shape[0]))


def test_spreading_a_lattice_is_linear_interpolation() -> None:
    rng = np.random.default_rng(3)
    coarse = rng.standard_normal((4, 5, 6)).astype(np.float32)
    places = [np.linspace(0, n - 1, 9) for n in coarse.shape]
    fine = spread(coarse, [linear_weights(p, n) for p, n in zip(places, coarse.shape, strict=True)])
    expected = map_coordinates(coarse, np.stack(np.meshgrid(*places, indexing="ij")), order=1)
    np.testing.assert_allclose(fine, expected, atol=1e-5)


def test_smooth_noise_has_no_mean_unit_spread_and_changes_over_its_cell() -> None:
    noise = smooth_noise((60, 60, 60), 5.0, np.random.default_rng(1))
    assert noise.mean() == pytest.approx(0, abs=0.1)
    assert noise.std() == pytest.approx(1, abs=0.25)
    near = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    far = np.corrcoef(noise[:-20].ravel(), noise[20:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.1
