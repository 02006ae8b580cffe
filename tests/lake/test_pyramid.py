"""Levels, their places and their values."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.lake.pyramid import block_mean, level_affine, plan_levels


def _by_hand(voxels: NDArray[Any], step: tuple[int, int, int], padding: float | None) -> NDArray[Any]:
    """Block means voxel by voxel in exact fractions; Python rounds halves to even."""
    shape = [-(-n // s) for n, s in zip(voxels.shape, step, strict=True)]
    out = np.empty(shape, voxels.dtype)
    for corner in itertools.product(*map(range, shape)):
        block = voxels[tuple(slice(c * s, c * s + s) for c, s in zip(corner, step, strict=True))]
        counted = [Fraction(int(v)) for v in block.ravel() if v != padding]
        out[corner] = round(sum(counted) / len(counted)) if counted else padding
    return out


def test_a_small_block_mean_done_on_paper() -> None:
    voxels = np.array([[[1, 2, -2000], [4, 4, -2000], [7, -2000, 9]]], np.int16)
    # 11/4 = 2.75 -> 3; the column of padding stays; 7 alone; 9 alone
    assert block_mean(voxels, (1, 2, 2), -2000).tolist() == [[[3, -2000], [7, 9]]]
    # halves go to even: (1 + 2) / 2 = 1.5 -> 2 and (4 + 5) / 2 = 4.5 -> 4
    assert block_mean(np.array([[[1, 2, 4, 5]]], np.int16), (1, 1, 2), None).tolist() == [[[2, 4]]]


@pytest.mark.parametrize("shape", [(8, 6, 10), (7, 5, 9), (1, 3, 2), (65, 3, 3)])
@pytest.mark.parametrize("step", [(2, 2, 2), (1, 2, 2), (2, 1, 1)])
@pytest.mark.parametrize("span", [(-1024, 3071), (-32768, 32767)])
@pytest.mark.parametrize("share_of_padding", [0.0, 0.4])
def test_block_means_are_the_exact_means_rounded_half_to_even(
    shape: tuple[int, int, int], step: tuple[int, int, int], span: tuple[int, int], share_of_padding: float
) -> None:
    rng = np.random.default_rng(hash((shape, step)) % 2**32)
    voxels = rng.integers(span[0], span[1], shape, endpoint=True).astype(np.int16)
    voxels[rng.random(shape) < share_of_padding] = span[0]
    result = block_mean(voxels, step, span[0])
    assert result.dtype == np.int16
    np.testing.assert_array_equal(result, _by_hand(voxels, step, span[0]))


def test_means_of_extreme_values_do_not_overflow() -> None:
    for value in (-32768, 32767, 4095, -4096):
        full = np.full((2, 2, 2), value, np.int16)
        assert block_mean(full, (2, 2, 2), None).item() == value


def test_float_volumes_are_averaged_without_rounding() -> None:
    voxels = np.array([[[0.25, 0.5, 7.0]]], np.float32)
    result = block_mean(voxels, (1, 1, 2), 7.0)
    assert result.dtype == np.float32
    assert result.tolist() == [[[0.375, 7.0]]]


def test_the_input_is_left_as_it_is() -> None:
    voxels = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    block_mean(voxels, (2, 2, 2), 3)
    np.testing.assert_array_equal(voxels, np.arange(27).reshape(3, 3, 3))


def test_thick_slices_are_not_thinned_until_the_plane_is_as_coarse() -> None:
    levels = plan_levels((120, 512, 512), (2.5, 0.7, 0.7))
    # spacing 2.5/0.7 -> 2.5/1.4 -> 2.5/2.8 (now z is within 1.5 times the finest, and halves too) -> 5/5.6
    assert [level.factor_zyx for level in levels] == [(1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8)]
    assert [level.shape_zyx for level in levels] == [(120, 512, 512), (120, 256, 256), (120, 128, 128), (60, 64, 64)]


def test_halving_ends_when_every_axis_is_at_most_64() -> None:
    assert [level.shape_zyx for level in plan_levels((64, 64, 64), (1, 1, 1))] == [(64, 64, 64)]
    assert [level.shape_zyx for level in plan_levels((65, 20, 33), (1, 1, 1))] == [(65, 20, 33), (33, 10, 17)]


def test_one_and_a_half_times_the_finest_spacing_is_still_halved() -> None:
    assert plan_levels((100, 100, 100), (1.5, 1.0, 1.0))[1].factor_zyx == (2, 2, 2)
    assert plan_levels((100, 100, 100), (1.51, 1.0, 1.0))[1].factor_zyx == (1, 2, 2)


def test_planning_ends_for_any_shape_and_spacing() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        shape = tuple(int(n) for n in np.maximum(1, rng.lognormal(3.5, 1.5, 3)))
        spacing = tuple(float(s) for s in rng.lognormal(0, 1, 3))
        assert max(plan_levels(shape, spacing)[-1].shape_zyx) <= 64  # type: ignore[arg-type]


def test_a_coarse_voxel_lies_in_the_middle_of_its_block() -> None:
    fine = geometry.reverse_index_axes(geometry.affine_from((0.7, 0.8, 2.0), (5, 6, 7)))
    coarse = level_affine(fine, (1, 2, 4))
    # block (z, y, x) = (3, 1, 2) averages y = 2, 3 and x = 8 .. 11
    expected = geometry.apply_affine(fine, (3, 2.5, 9.5))
    np.testing.assert_allclose(geometry.apply_affine(coarse, (3, 1, 2)), expected)
