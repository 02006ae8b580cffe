"""What voxels say: label maps, units, statistics; against values worked out by hand and numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from semgen_platform.formats import values
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.histogram import histogram
from semgen_platform.volume import Refusal, Volume

SPACING = np.diag([0.8, 0.8, 2.0, 1.0])


def volume(
    voxels: NDArray[Any], *, modality: str = "", spacing_z_mm: float = 6.0, padding: float | None = None
) -> Volume:
    affine = SPACING.copy()
    affine[2, 2] = spacing_z_mm
    return Volume(voxels=voxels, ijk_to_lps_mm=affine, modality=modality, padding_hu=padding)


def label_refusal(voxels: NDArray[Any]) -> Refusal | None:
    return values.label_map_refusal(voxels, histogram(voxels))


def regions(count: int, seed: int = 3) -> NDArray[np.int16]:
    """A label map: 1 to `count` by the nearest of as many centres inside a sphere, 0 outside it."""
    centres = np.random.default_rng(seed).uniform(5, 35, (count, 3))
    places = np.indices((40, 40, 40)).reshape(3, -1).T
    nearest = cKDTree(centres).query(places)[1] + 1
    inside = np.linalg.norm(places - 19.5, axis=1) < 18
    return np.where(inside, nearest, 0).reshape(40, 40, 40).astype(np.int16)


@pytest.mark.parametrize("count", [1, 2, 7, 24])
def test_flat_regions_of_few_values_are_a_label_map(count: int) -> None:
    refusal = label_refusal(regions(count))
    assert refusal is not None
    assert refusal.evidence["distinct"] == count + 1


def test_an_empty_mask_is_a_label_map() -> None:
    assert label_refusal(np.zeros((20, 40, 40), np.int16)) is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_a_label_map_in_a_file_is_refused_whatever_its_type(
    dtype: Any, read_one: Callable[..., Volume | Refusal], tmp_path: Path
) -> None:
    import nibabel

    nibabel.save(nibabel.Nifti1Image(regions(7).astype(dtype), SPACING), tmp_path / "mask.nii.gz")
    refusal = read_one(tmp_path)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("label_map",)


def test_a_ct_an_eight_bit_window_of_it_and_an_mr_are_no_label_maps(make_ct: Any) -> None:
    hu = make_ct()
    assert label_refusal(hu) is None
    assert label_refusal(np.clip((hu + 1024) // 8, 0, 255).astype(np.int16)) is None
    rng = np.random.default_rng(1)
    magnetic = (ndimage.gaussian_filter(rng.standard_normal((20, 40, 40)), 1) * 400 + 300).clip(0).astype(np.int16)
    assert label_refusal(magnetic) is None


def test_a_ct_has_no_flag_and_shifted_values_one_that_depends_on_what_the_file_says(make_ct: Any) -> None:
    assert values.voxel_flags(volume(make_ct(), modality="CT", spacing_z_mm=4.0)) == ("low_coverage",)
    shifted = make_ct() + np.int16(1024)
    assert "not_hu_like" in values.voxel_flags(volume(shifted, modality="CT"))
    assert "not_ct" in values.voxel_flags(volume(shifted))


def test_air_alone_is_not_like_a_ct(make_ct: Any) -> None:
    air = np.random.default_rng(2).normal(-1000, 8, (20, 36, 40)).astype(np.int16)
    assert "not_hu_like" in values.voxel_flags(volume(air, modality="CT"))


@pytest.mark.parametrize(
    ("spacing_z_mm", "flags"),
    [(4.0, {"low_coverage"}), (4.9, {"low_coverage", "thick_slices"}), (5.0, {"thick_slices"})],
)
def test_coverage_and_thickness_are_judged_in_millimetres(spacing_z_mm: float, flags: set[str], make_ct: Any) -> None:
    # 20 slices: 80, 98 and 100 mm
    assert set(values.voxel_flags(volume(make_ct(), spacing_z_mm=spacing_z_mm))) == flags


def test_the_histogram_counts_every_voxel_at_its_value(make_ct: Any) -> None:
    hu = make_ct()
    counts = histogram(hu).counts
    expected = dict(zip(*np.unique(hu, return_counts=True), strict=True))
    assert {int(n) - 32768: int(counts[n]) for n in np.flatnonzero(counts)} == expected


def test_statistics_are_those_of_numpy(make_ct: Any) -> None:
    hu = make_ct()
    found = values.statistics(volume(hu))
    for name, percent in (("hu_min", 0), ("hu_p01", 1), ("hu_p50", 50), ("hu_p99", 99), ("hu_max", 100)):
        assert found[name] == np.percentile(hu, percent, method="inverted_cdf")
    assert found["body_fraction"] == pytest.approx((hu > -500).mean())


def test_padding_is_left_out_of_the_statistics(make_ct: Any) -> None:
    hu = make_ct()
    padded = hu.copy()
    padded[:, :10] = -3024
    found = values.statistics(volume(padded, padding=-3024.0))
    assert found["hu_min"] == hu[:, 10:].min()
    assert found["body_fraction"] == pytest.approx((hu[:, 10:] > -500).mean())


def test_the_noise_estimate_is_the_standard_deviation_that_was_put_in() -> None:
    rng = np.random.default_rng(4)
    for sigma in (5.0, 20.0):
        water = np.rint(rng.normal(0, sigma, (30, 64, 64))).astype(np.int16)
        # rounding to whole HU makes the median of absolute differences a whole number
        assert values.noise_hu(water) == pytest.approx(sigma, rel=0.12)
    assert values.noise_hu(np.full((30, 64, 64), -1000, np.int16)) is None


def test_float_volumes_have_statistics_in_whole_units(make_ct: Any) -> None:
    hu = make_ct().astype(np.float32) + np.float32(0.25)
    found = values.statistics(volume(hu))
    assert found["hu_p50"] == np.rint(np.percentile(hu, 50, method="inverted_cdf"))


def test_voxels_and_statistics_survive_an_export(
    make_ct: Any, read_one: Callable[..., Volume | Refusal], tmp_path: Path
) -> None:
    scan = volume(make_ct())
    write_nifti(scan, tmp_path / "a.nii.gz")
    again = read_one(tmp_path)
    assert isinstance(again, Volume)
    assert values.statistics(again) == values.statistics(scan)


def test_a_large_histogram_is_of_every_fourth_row_and_has_exact_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    hu = np.rint(rng.normal(-200, 300, (40, 64, 64))).astype(np.int16)
    hu[7, 1, 5], hu[3, 2, 9], hu[9, 3, 9] = 3000, -2500, -2600
    exact = histogram(hu)
    monkeypatch.setattr("semgen_platform.histogram.SAMPLED_ABOVE", hu.size - 1)
    sampled = histogram(hu)
    assert hu.size // 4 + 3 <= sampled.counts.sum() < hu.size // 4 + 50
    for percent in (0, 100):
        assert sampled.percentile(percent) == exact.percentile(percent)
    for percent in (1, 50, 99):  # 41,000 values of 300 HU standard deviation: their median is off by 1.9 HU
        assert sampled.percentile(percent) == pytest.approx(exact.percentile(percent), abs=25)
    floats = histogram(hu.astype(np.float32) + np.float32(0.25))
    assert np.array_equal(floats.counts, sampled.counts)
