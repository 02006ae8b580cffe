"""`--geometry repair`: tilted and unevenly spaced series become the grid that the same anatomy has in space.

The anatomy is a ramp, linear in the patient's space, so that right interpolation gives its value at every place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]
RAMP_HU_PER_MM, OFFSET_HU = np.array([4.0, -3.0, 6.0]), -900.0
ORIGIN = np.array([-31.5, 12.25, 740.0])
SHAPE_YX, PIXEL_MM = (36, 40), (0.8, 0.7)
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"


def ramp_hu(places_mm: Any) -> NDArray[np.float64]:
    """HU of the anatomy at LPS places."""
    return np.asarray((np.asarray(places_mm) - ORIGIN) @ RAMP_HU_PER_MM + OFFSET_HU)


def ramp_series(series: Any, heights_mm: Any, tilt_deg: float = 0.0) -> Any:
    """Slices of the ramp, tilted about the x axis, at these heights along the table; values are rounded to whole HU."""
    angle = np.radians(tilt_deg)
    column = np.array([0.0, np.cos(angle), -np.sin(angle)])
    corners = ORIGIN + np.outer(heights_mm, [0, 0, 1])  # the table moves along z whatever the tilt
    y, x = np.mgrid[: SHAPE_YX[0], : SHAPE_YX[1]]
    planes = [
        ramp_hu(corner + np.multiply.outer(x * PIXEL_MM[1], [1, 0, 0]) + np.multiply.outer(y * PIXEL_MM[0], column))
        for corner in corners
    ]

    def placed(n: int, dataset: Any) -> None:
        dataset.ImagePositionPatient = [round(float(v), 6) for v in corners[n]]

    made = series(hu_ZYX=np.rint(planes), spacing_zyx_mm=(1.0, *PIXEL_MM), column=tuple(column), edit=placed)
    made.intercept = -8192.0
    return made


def inside_error_hu(volume: Volume) -> float:
    """Largest difference from the ramp over the voxels that are not fill."""
    index = np.argwhere(volume.voxels != volume.padding_hu)
    places = geometry.apply_affine(volume.ijk_to_lps_mm, index[:, ::-1])
    return float(np.abs(volume.voxels[tuple(index.T)] - ramp_hu(places)).max())


def repaired(read_one: Read, folder: Path) -> Volume:
    found = read_one(folder, repair=True)
    assert isinstance(found, Volume), found
    return found


@pytest.mark.parametrize("tilt_deg", [18.5, -12.0])
def test_a_tilted_series_is_sheared_upright(series: Any, read_one: Read, tmp_path: Path, tilt_deg: float) -> None:
    folder = ramp_series(series, np.arange(20) * 2.5, tilt_deg).write(tmp_path / "s")
    refused = read_one(folder)
    assert isinstance(refused, Refusal)
    assert refused.reasons == ("gantry_tilt",)
    volume = repaired(read_one, folder)
    assert "gantry_tilt_repaired" in volume.flags
    assert "slices_interpolated" not in volume.flags
    assert geometry.affine_fault(volume.ijk_to_lps_mm) is None
    assert volume.spacing_zyx_mm == pytest.approx((2.5 * np.cos(np.radians(tilt_deg)), *PIXEL_MM))
    assert volume.attributes["repair"] == f"sheared by {abs(tilt_deg):.4g} degrees"
    assert inside_error_hu(volume) <= 1.01  # two roundings to whole HU
    assert np.count_nonzero(volume.voxels != volume.padding_hu) > 0.9 * 20 * 35 * 39  # hardly more than borders is lost


def test_uneven_steps_are_interpolated_to_the_most_frequent_one(series: Any, read_one: Read, tmp_path: Path) -> None:
    heights = np.cumsum([0.0, *[2.0] * 12, *[3.1] * 5, 1.0, *[2.0] * 3])
    folder = ramp_series(series, heights).write(tmp_path / "s")
    refused = read_one(folder)
    assert isinstance(refused, Refusal)
    assert refused.reasons == ("uneven_spacing",)
    volume = repaired(read_one, folder)
    assert volume.flags.count("slices_interpolated") == 1
    assert volume.spacing_zyx_mm == pytest.approx((2.0, *PIXEL_MM))
    assert volume.shape_zyx == (int(heights[-1] // 2.0) + 1, *SHAPE_YX)
    assert inside_error_hu(volume) <= 1.01
    assert volume.attributes["steps_mm"] == [1.0, 2.0, 3.1]
    first = geometry.apply_affine(volume.ijk_to_lps_mm, (0, 0, 0))
    assert first == pytest.approx(ORIGIN)


def test_both_faults_are_mended_together_and_both_flagged(series: Any, read_one: Read, tmp_path: Path) -> None:
    heights = np.cumsum([0.0, *[2.0] * 12, *[3.1] * 5, *[2.0] * 3])
    volume = repaired(read_one, ramp_series(series, heights, 15.0).write(tmp_path / "s"))
    assert {"gantry_tilt_repaired", "slices_interpolated"} <= set(volume.flags)
    assert inside_error_hu(volume) <= 1.01


@pytest.mark.parametrize(
    ("heights_mm", "tilt_deg"),
    [
        ([0.0, *np.arange(4, 26) * 2.0], 0.0),  # a gap of four steps
        ([*np.arange(20) * 2.0, 42.5], 0.0),  # of more than two
        (np.arange(20) * 2.5, 40.0),  # no gantry tilts so far
    ],
)
def test_what_would_be_invented_is_not_repaired(
    series: Any, read_one: Read, tmp_path: Path, heights_mm: Any, tilt_deg: float
) -> None:
    folder = ramp_series(series, heights_mm, tilt_deg).write(tmp_path / "s")
    found = read_one(folder, repair=True)
    assert isinstance(found, Refusal)
    assert found == read_one(folder)


def test_a_regular_series_is_the_same_with_and_without_repair(series: Any, read_one: Read, tmp_path: Path) -> None:
    folder = series().write(tmp_path / "s")
    strict, repaired_ = read_one(folder), read_one(folder, repair=True)
    assert isinstance(strict, Volume)
    assert isinstance(repaired_, Volume)
    assert np.array_equal(strict.voxels, repaired_.voxels)
    assert (strict.flags, dict(strict.attributes)) == (repaired_.flags, dict(repaired_.attributes))


def test_nothing_is_made_out_of_padding(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = ramp_series(series, np.arange(20) * 2.5, 18.5)
    made.hu_ZYX[:, :, :5] = -2000

    def placed(n: int, dataset: Any, before: Any = made.edit) -> None:
        before(n, dataset)
        dataset.PixelPaddingValue = int(-2000 - made.intercept)

    made.edit = placed
    volume = repaired(read_one, made.write(tmp_path / "s"))
    assert volume.padding_hu == -2000
    assert inside_error_hu(volume) <= 1.01  # a mixture of ramp and padding would be far off


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files (../shared/data/real) are not here")
def test_a_real_series_with_tilt_and_uneven_steps_is_resampled_with_both_flags(read_one: Read) -> None:
    volume = repaired(read_one, REAL / "dcmqa_ge_hispeed_tilt_uneven.tar.gz")
    assert {"gantry_tilt_repaired", "slices_interpolated"} <= set(volume.flags)
    assert volume.spacing_zyx_mm == pytest.approx((4.002, 0.488281, 0.488281), abs=1e-3)
