"""Rescaling against exact integers and numpy's float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from semgen_platform.formats.scaling import Stack, rescaled


def filled(stored: Any, slope: float, intercept: float) -> Any:
    stack = Stack((1, *stored.shape))
    stack.fill(0, stored, slope, intercept)
    return stack.voxels[0]


@pytest.mark.parametrize("dtype", ["<i2", "<u2", ">i2", ">u2", "i1", "u1", "<i4", "<u4"])
@pytest.mark.parametrize("slope", [1, 2, -1, -3, 7])
@pytest.mark.parametrize("intercept", [0, -1024, 1024, -32768, 32767, 70_000])
def test_whole_numbers_are_exact_or_become_float32(dtype: str, slope: int, intercept: int) -> None:
    rng = np.random.default_rng(3)
    limits = np.iinfo(dtype)
    for low, high in ((limits.min, limits.max), (0, 3000), (0, 0)):
        stored = rng.integers(max(low, limits.min), min(high, limits.max), (6, 7), endpoint=True).astype(dtype)
        exact = stored.astype(object) * slope + intercept
        found = filled(stored, slope, intercept)
        fits = exact.min() >= -32768 and exact.max() <= 32767
        assert found.dtype == (np.int16 if fits else np.float32)
        assert np.array_equal(found, exact.astype(found.dtype))


@pytest.mark.parametrize("end", [-32768, 32767])
def test_the_last_value_that_fits_stays_and_the_next_does_not(end: int) -> None:
    stored = np.array([[0, 1000]], np.uint16)
    step = 1 if end > 0 else -1
    assert filled(stored, step, end - 1000 * step).dtype == np.int16
    assert filled(stored, step, end - 1000 * step + step).dtype == np.float32


def test_fractions_are_computed_in_float64_and_whole_results_are_integers() -> None:
    stored = np.arange(12, dtype=np.int16).reshape(3, 4)
    assert np.array_equal(filled(stored, 0.1, -3.0), (stored * 0.1 - 3.0).astype(np.float32))
    halves = filled(stored * np.int16(2), 0.5, 1.0)
    assert halves.dtype == np.int16
    assert np.array_equal(halves, stored + 1)


def test_a_volume_is_rescaled_as_its_slices_are_and_left_alone_where_nothing_is_to_do() -> None:
    stored = np.random.default_rng(1).integers(0, 4095, (5, 6, 7)).astype(np.uint16)
    assert rescaled(stored, 1, 0) is stored
    found = rescaled(stored, 1, -1024)
    assert found.dtype == np.int16
    assert np.array_equal(found, stored.astype(np.int64) - 1024)
    assert np.array_equal(stored, np.random.default_rng(1).integers(0, 4095, (5, 6, 7)))
