"""The elastic warp against SciPy and against the published field's statistics (METHOD.md section 4.3)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from semgen_platform.perturbations.elastic import ElasticConfig, displacement, draw_elastic, warp

SHAPE = (32, 64, 64)
PUBLISHED = ElasticConfig()


def one_field(seed: int, shape: tuple[int, int, int] = SHAPE, config: ElasticConfig = PUBLISHED) -> torch.Tensor:
    return displacement(draw_elastic(np.random.default_rng(seed), shape, config), shape, config)


@pytest.fixture(scope="module")
def fields_NKZYX() -> np.ndarray:
    """300 draws of both components: a sample sd is then within 3 / sqrt(2 * 600) = 8.7 % of the true one (3 sigma)."""
    return torch.stack([one_field(seed) for seed in range(300)]).numpy()


def test_warp_equals_scipy_map_coordinates_on_a_drawn_field() -> None:
    crop = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    moved = one_field(1)
    z, y, x = np.meshgrid(*(np.arange(n, dtype=np.float64) for n in SHAPE), indexing="ij")
    places = [z, y + moved[0].numpy(), x + moved[1].numpy()]
    expected = ndimage.map_coordinates(crop.numpy(), places, order=1, mode="reflect")
    # float32 coordinates of up to 64 + 12 voxels are good to 1e-5 of a voxel, and white noise changes by 1 a voxel
    np.testing.assert_allclose(warp(crop, moved).numpy(), expected, atol=5e-5)


def test_field_equals_scipy_gaussian_filter_where_the_noise_grid_is_that_of_the_voxels() -> None:
    config = ElasticConfig(sigma_voxels=2, alpha=30)  # half a sigma is one voxel
    noise = draw_elastic(np.random.default_rng(2), (16, 24, 20), config)
    assert noise.shape == (2, 16, 24, 20)
    smooth = [ndimage.gaussian_filter(n, sigma=2, mode="constant", cval=0, truncate=4) for n in noise.numpy()]
    np.testing.assert_allclose(displacement(noise, (16, 24, 20), config).numpy(), 30 * np.array(smooth), atol=1e-5)


def test_slices_never_exchange_voxels() -> None:
    """No displacement along z: a crop whose slices are constant stays as it is."""
    crop = torch.arange(32.0).view(-1, 1, 1).expand(SHAPE) / 32
    torch.testing.assert_close(warp(crop, one_field(3)), crop)


def test_first_component_moves_along_y_and_second_along_x() -> None:
    ramp_y = torch.arange(64.0).view(1, -1, 1).expand(SHAPE)
    shift = torch.zeros(2, *SHAPE)
    shift[0] = 2.5
    inside = warp(ramp_y, shift)[:, :60]
    torch.testing.assert_close(inside, ramp_y[:, :60] + 2.5)
    torch.testing.assert_close(warp(ramp_y, shift.flip(0)), ramp_y)


@pytest.mark.parametrize(
    ("place", "sd_voxels"),
    [("centre", 3.78), ("mid-face", 2.77), ("corner", 1.48)],
)
def test_field_sd_in_the_crop_is_the_published_one(fields_NKZYX: np.ndarray, place: str, sd_voxels: float) -> None:
    z, y, x = {"centre": (16, 32, 32), "mid-face": (16, 32, 0), "corner": (0, 0, 0)}[place]
    assert fields_NKZYX[:, :, z, y, x].std() == pytest.approx(sd_voxels, rel=0.087)


def test_field_sd_in_an_infinite_volume_is_that_of_the_formula() -> None:
    """alpha sqrt(1/3) (2 sqrt(pi) sigma)^-1.5 = 3.789 voxels, read in the middle of a crop wider than the Gaussian.

    64^3 voxels times 9 sigma^3 of correlation leave about 8 independent places a draw, so 40 draws of two components
    give sd within 3 / sqrt(2 * 640) = 8.4 %.
    """
    assert 991 * np.sqrt(1 / 3) * (2 * np.sqrt(np.pi) * 8) ** -1.5 == pytest.approx(3.789, abs=1e-3)
    inner = [one_field(seed, (96, 96, 96))[:, 32:64, 32:64, 32:64] for seed in range(40)]
    assert torch.stack(inner).std() == pytest.approx(3.789, rel=0.084)


def test_field_correlates_by_0_78_over_eight_voxels(fields_NKZYX: np.ndarray) -> None:
    one, other = fields_NKZYX[:, :, 16, 28, 32].ravel(), fields_NKZYX[:, :, 16, 36, 32].ravel()
    # exp(-64 / 256); the standard error of a correlation from 600 pairs is (1 - r^2) / sqrt(600) = 0.016
    assert np.corrcoef(one, other)[0, 1] == pytest.approx(np.exp(-64 / 256), abs=0.05)


def test_root_mean_square_and_largest_displacement_of_a_crop_are_the_published_ones(fields_NKZYX: np.ndarray) -> None:
    assert np.sqrt((fields_NKZYX**2).mean()) == pytest.approx(3.27, rel=0.05)
    largest = np.abs(fields_NKZYX).max(axis=(2, 3, 4)).ravel()
    assert np.median(largest) == pytest.approx(9.3, abs=0.4)
    # the published-side figures come from 60 draws, so their 5 % and 95 % are the third value from either end
    assert np.quantile(largest, [0.05, 0.95]) == pytest.approx([6.8, 12.4], abs=0.9)


def test_components_are_independent(fields_NKZYX: np.ndarray) -> None:
    centre = fields_NKZYX[:, :, 16, 32, 32]
    assert abs(np.corrcoef(centre.T)[0, 1]) < 3 / np.sqrt(300)


def test_half_the_sigma_and_alpha_over_2_to_the_2_5_is_the_same_warp_at_twice_the_spacing() -> None:
    """sigma 4 and alpha 175 (the tiny recipe): the field in millimetres keeps its size, in voxels it halves."""
    small = ElasticConfig(sigma_voxels=4, alpha=175)
    inner = torch.stack([one_field(seed, (48, 48, 48), small)[:, 16:32, 16:32, 16:32] for seed in range(60)])
    assert inner.std() == pytest.approx(3.789 / 2, rel=0.084)
