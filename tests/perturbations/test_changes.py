"""Intensity, shuffling, in-painting and out-painting against the published statistics (METHOD.md section 4.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semgen_platform.perturbations.intensity import IntensityMap, draw_intensity, map_intensity
from semgen_platform.perturbations.painting import draw_in_paint, draw_out_paint, in_paint, out_paint
from semgen_platform.perturbations.shuffling import draw_shuffle, shuffle

SHAPE = (32, 64, 64)
VOXELS = 32 * 64 * 64


@pytest.fixture
def crop_ZYX() -> torch.Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tables() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([draw_intensity(rng).table.numpy() for _ in range(2000)])


def test_intensity_maps_are_monotone_between_nought_and_one_and_half_of_them_fall(tables: np.ndarray) -> None:
    rises = tables[:, -1] > tables[:, 0]
    assert rises.mean() == pytest.approx(0.5, abs=3 * 0.5 / np.sqrt(2000))
    assert (np.diff(tables[rises], axis=1) >= -1e-7).all()
    assert (np.diff(tables[~rises], axis=1) <= 1e-7).all()
    np.testing.assert_allclose(tables[rises][:, [0, -1]], np.tile([0.0, 1.0], (rises.sum(), 1)), atol=1e-6)
    np.testing.assert_allclose(tables[~rises][:, [0, -1]], np.tile([1.0, 0.0], ((~rises).sum(), 1)), atol=1e-6)


def test_intensity_maps_have_the_published_middle(tables: np.ndarray) -> None:
    rising = tables[tables[:, -1] > 0.5]
    middle = rising[:, 1000]
    assert middle.mean() == pytest.approx(0.506, abs=3 * 0.196 / np.sqrt(len(middle)))
    assert middle.std() == pytest.approx(0.196, rel=0.08)
    assert np.abs(rising - np.linspace(0, 1, 2001)).mean() == pytest.approx(0.117, abs=0.008)


def test_intensity_map_follows_the_bezier_curve_solved_by_bisection() -> None:
    """The oracle solves X(s) = v for s by bisection in float64 and takes Y(s), or Y(1 - s) for a falling map."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        (x1, y1), (x2, y2) = rng.uniform(size=(2, 2))
        falls = rng.uniform() < 0.5
        values = np.linspace(0.01, 0.99, 57)
        low, high = np.zeros_like(values), np.ones_like(values)
        for _ in range(60):
            s = (low + high) / 2
            below = 3 * x1 * s * (1 - s) ** 2 + 3 * x2 * s**2 * (1 - s) + s**3 < values
            low, high = np.where(below, s, low), np.where(below, high, s)
        t = 1 - low if falls else low
        expected = 3 * y1 * t * (1 - t) ** 2 + 3 * y2 * t**2 * (1 - t) + t**3
        mapped = map_intensity(torch.tensor(values, dtype=torch.float32), draw_intensity(np.random.default_rng(seed)))
        np.testing.assert_allclose(mapped.numpy(), expected, atol=2e-4)


def test_intensity_map_is_constant_outside_its_range() -> None:
    table = IntensityMap(torch.linspace(0.25, 0.75, 2001))
    torch.testing.assert_close(map_intensity(torch.tensor([-3.0, 0.5, 9.0]), table), torch.tensor([0.25, 0.5, 0.75]))


def test_intensity_map_passes_a_nan_on_for_the_loop_to_find() -> None:
    mapped = map_intensity(torch.tensor([0.0, float("nan")]), IntensityMap(torch.linspace(0.25, 0.75, 2001)))
    assert mapped.isnan().tolist() == [False, True]


def test_one_shuffled_block_keeps_the_multiset_of_values(crop_ZYX: torch.Tensor) -> None:
    changed = shuffle(crop_ZYX, draw_shuffle(np.random.default_rng(3), SHAPE, blocks=1))
    assert not torch.equal(changed, crop_ZYX)
    assert torch.equal(changed.flatten().sort().values, crop_ZYX.flatten().sort().values)


def test_shuffling_stays_inside_small_blocks() -> None:
    """A voxel comes from at most 2, 5, 5 voxels away: blocks have up to 3, 6, 6."""
    changes = [draw_shuffle(np.random.default_rng(seed), SHAPE, blocks=1) for seed in range(100)]

    def place(flat: torch.Tensor) -> np.ndarray:
        return np.array(np.unravel_index(flat.numpy(), SHAPE))

    moved = np.stack([np.abs(place(c.to) - place(c.source)).max(axis=1) for c in changes if len(c.to)])
    assert (moved.max(axis=0) == (2, 5, 5)).all()


def test_five_shuffled_blocks_change_almost_nothing_as_published() -> None:
    """They cover 121 +- 47 voxels, at most 540; a permutation leaves on average one voxel of a block in place."""
    rng = np.random.default_rng(3)
    counts = [len(draw_shuffle(rng, SHAPE, blocks=5).to) for _ in range(2000)]
    assert max(counts) <= 540
    assert np.mean(counts) == pytest.approx(121 - 5, abs=3 * 47 / np.sqrt(2000))


def test_in_painting_replaces_1_375_percent_with_uniform_noise(crop_ZYX: torch.Tensor) -> None:
    rng = np.random.default_rng(4)
    shares, values = [], []
    for _ in range(1000):
        change = draw_in_paint(rng, SHAPE)
        shares.append(change.noise.numel() / VOXELS)
        values.append(change.noise.flatten()[:20])
        starts = np.array([side.start for side in change.box])
        assert (starts >= 3).all()
        assert all(side.stop <= size - 3 for side, size in zip(change.box, SHAPE, strict=True))
    # mean sides 7.5, 15.5, 15.5 of 32, 64, 64; the share's sd is 0.62 %, so 1000 draws give it to 0.06 % (3 sigma)
    assert np.mean(shares) == pytest.approx(0.01375, abs=0.0006)
    assert min(shares) >= 5 * 10 * 10 / VOXELS
    assert max(shares) <= 10 * 21 * 21 / VOXELS
    noise = torch.cat(values)
    assert noise.mean() == pytest.approx(0.5, abs=3 * 0.2887 / np.sqrt(len(noise)))
    assert noise.std() == pytest.approx(0.2887, rel=0.02)


def test_in_painting_touches_nothing_outside_its_box(crop_ZYX: torch.Tensor) -> None:
    change = draw_in_paint(np.random.default_rng(5), SHAPE)
    painted = in_paint(crop_ZYX, change)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[change.box] = False
    assert torch.equal(painted[outside], crop_ZYX[outside])
    assert torch.equal(painted[change.box], change.noise)


def test_out_painting_keeps_13_3_percent(crop_ZYX: torch.Tensor) -> None:
    rng = np.random.default_rng(6)
    sides = np.array([[s.stop - s.start for s in draw_out_paint(rng, SHAPE).kept] for _ in range(1000)])
    assert (sides.min(axis=0) == (14, 28, 28)).all()
    assert (sides.max(axis=0) == (19, 37, 37)).all()
    assert (sides.prod(axis=1) / VOXELS).mean() == pytest.approx(0.133, abs=0.002)


def test_out_painting_replaces_all_but_the_kept_box(crop_ZYX: torch.Tensor) -> None:
    change = draw_out_paint(np.random.default_rng(7), SHAPE)
    painted = out_paint(crop_ZYX, change)
    outside = torch.ones(SHAPE, dtype=torch.bool)
    outside[change.kept] = False
    assert torch.equal(painted[change.kept], crop_ZYX[change.kept])
    assert (painted[outside] != crop_ZYX[outside]).float().mean() > 0.99


def test_sizes_follow_the_crop_by_the_published_formulas() -> None:
    """A crop of 16x32x32 (the tiny recipe): in-painting 2..5, 5..10; out-painting 7..10, 14..19; shuffling 1, 1..3."""
    shape, rng = (16, 32, 32), np.random.default_rng(8)
    painted = np.array([[s.stop - s.start for s in draw_in_paint(rng, shape).box] for _ in range(300)])
    kept = np.array([[s.stop - s.start for s in draw_out_paint(rng, shape).kept] for _ in range(300)])
    assert painted.min(axis=0).tolist() == [2, 5, 5]
    assert painted.max(axis=0).tolist() == [5, 10, 10]
    assert kept.min(axis=0).tolist() == [7, 14, 14]
    assert kept.max(axis=0).tolist() == [10, 19, 19]
    assert max(len(draw_shuffle(rng, shape, blocks=1).to) for _ in range(300)) <= 9
