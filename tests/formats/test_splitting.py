"""Several volumes under one SeriesInstanceUID: each comes out whole, and one volume is never cut in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.splitting import Traits, split
from semgen_platform.volume import Refusal, Volume

UIDS = {"SeriesInstanceUID": "1.2.3.4.5", "StudyInstanceUID": "1.2.3.4"}
Edit = Callable[[int, Any], None]


def tagged(**tags: Any) -> Edit:
    """Sets tags in every slice, and one series and study for all."""

    def edit(n: int, dataset: Any) -> None:
        for keyword, value in {**UIDS, **tags}.items():
            setattr(dataset, keyword, value)

    return edit


def volumes_of(root: Path) -> list[Volume]:
    results = [read_source(source) for source in list_sources(root)]
    assert all(isinstance(result, Volume) for result in results), results
    return [result for result in results if isinstance(result, Volume)]


def assert_same_volumes(found: list[Volume], *expected: Any) -> None:
    """Each of the written series is one of the volumes, bit for bit."""
    assert len(found) == len(expected)
    for series in expected:
        assert any(np.array_equal(volume.voxels, series.hu_ZYX) for volume in found)


def hu(seed: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    rng = np.random.default_rng(seed)
    values = rng.normal(-1000, 8, (20, 36, 40))
    values[2:18, 5:24, 6:25] = rng.normal(40, 10, (16, 19, 19))
    return np.clip(np.rint(values), -1024, 3071).astype(np.int16)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]}, {"ImageType": ["DERIVED", "SECONDARY", "AVERAGE"]}),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}),
    ],
)
def test_two_images_of_one_place_are_two_volumes(
    first: dict[str, Any], second: dict[str, Any], series: Any, tmp_path: Path
) -> None:
    one, two = series(hu_ZYX=hu(1), edit=tagged(**first)), series(hu_ZYX=hu(2), edit=tagged(**second))
    one.write(tmp_path / "a")
    two.write(tmp_path / "b")
    assert_same_volumes(volumes_of(tmp_path), one, two)
    names = {source.name_parts for source in list_sources(tmp_path)}
    assert len(names) == 2


def test_two_fields_of_view_are_two_volumes(series: Any, tmp_path: Path) -> None:
    one = series(hu_ZYX=hu(1), edit=tagged())
    two = series(hu_ZYX=hu(2), edit=tagged(), spacing_zyx_mm=(2.5, 0.4, 0.4), origin_xyz_mm=(-10.0, 30.0, 740.0))
    one.write(tmp_path / "a")
    two.write(tmp_path / "b")
    found = volumes_of(tmp_path)
    assert_same_volumes(found, one, two)
    assert sorted(volume.spacing_zyx_mm[2] for volume in found) == pytest.approx([0.4, 0.7])


def test_a_reformatted_copy_is_a_volume_of_its_own(series: Any, tmp_path: Path) -> None:
    one = series(hu_ZYX=hu(1), edit=tagged())
    coronal = series(hu_ZYX=hu(2), edit=tagged(), row=(1.0, 0.0, 0.0), column=(0.0, 0.0, -1.0))
    one.write(tmp_path / "a")
    coronal.write(tmp_path / "b")
    assert len(volumes_of(tmp_path)) == 2


def test_a_scan_numbered_as_two_acquisitions_stays_one(series: Any, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        dataset.AcquisitionNumber = 1 + n // 10

    written = series(edit=edit)
    written.write(tmp_path)
    assert_same_volumes(volumes_of(tmp_path), written)


def test_a_scan_whose_lower_half_has_another_image_type_stays_one(series: Any, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", *(["ADD"] if n < 10 else [])]

    written = series(edit=edit)
    written.write(tmp_path)
    assert_same_volumes(volumes_of(tmp_path), written)


def test_two_phases_that_nothing_tells_apart_are_refused(series: Any, tmp_path: Path) -> None:
    for seed, name in ((1, "a"), (2, "b")):
        series(hu_ZYX=hu(seed), edit=tagged()).write(tmp_path / name)
    (source,) = list_sources(tmp_path)
    result = read_source(source)
    assert isinstance(result, Refusal)
    assert result.reasons == ("duplicate_position",)


def test_two_phases_at_alternating_places_are_two_volumes_and_not_one_of_half_the_step(
    series: Any, tmp_path: Path
) -> None:
    one = series(hu_ZYX=hu(1), edit=tagged(AcquisitionNumber=1))
    two = series(hu_ZYX=hu(2), edit=tagged(AcquisitionNumber=2), origin_xyz_mm=(-31.5, 12.25, 741.25))
    one.write(tmp_path / "a")
    two.write(tmp_path / "b")
    found = volumes_of(tmp_path)
    assert_same_volumes(found, one, two)
    assert {volume.spacing_zyx_mm[0] for volume in found} == {2.5}


def test_one_copied_slice_does_not_cut_a_scan_into_its_acquisitions(series: Any, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        dataset.AcquisitionNumber = 1 + n // 10

    written = series(edit=edit)
    folder = written.write(tmp_path)
    copied = next(folder.glob("*_4"))
    (folder / "copy").write_bytes(copied.read_bytes())
    assert_same_volumes(volumes_of(tmp_path), written)


def test_a_slice_of_another_kernel_in_the_middle_is_refused(series: Any, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        dataset.ConvolutionKernel = "B70f" if n == 7 else "B30f"

    series(edit=edit).write(tmp_path)
    (source,) = list_sources(tmp_path)
    result = read_source(source)
    assert isinstance(result, Refusal)
    assert result.reasons == ("ambiguous_split",)


def test_one_odd_slice_is_no_volume_and_its_series_is_refused(series: Any, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        if n == 19:  # at the end, where the rest would still be a regular stack
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0.866, 0.5]

    series(edit=edit).write(tmp_path)
    (source,) = list_sources(tmp_path)
    result = read_source(source)
    assert isinstance(result, Refusal)
    assert result.reasons == ("inconsistent_orientation",)


def traits(n: int, **changes: Any) -> Traits:
    straight = Traits(
        orientation=(1, 0, 0, 0, 1, 0),
        position_mm=(-31.5, 12.25, 2.5 * n),
        pixel_spacing_mm=(0.8, 0.8),
        shape_yx=(9, 9),
    )
    return replace(straight, **changes)


def test_noise_in_written_positions_never_divides_a_stack() -> None:
    rng = np.random.default_rng(0)
    noisy = [traits(n, position_mm=(-31.5, 12.25 + rng.uniform(-1e-3, 1e-3), 2.5 * n)) for n in range(40)]
    assert split(noisy) == [("", list(range(40)))]


@pytest.mark.parametrize("degrees", [0.5, 1, 5, 18.5, 30])
def test_a_tilted_stack_stays_whole_for_its_tilt_to_be_measured(degrees: float) -> None:
    drift = np.tan(np.deg2rad(degrees)) * 2.5
    tilted = [traits(n, position_mm=(-31.5, 12.25 + drift * n, 2.5 * n)) for n in range(40)]
    assert split(tilted) == [("", list(range(40)))]


def test_a_name_does_not_change_when_another_part_grows() -> None:
    few = [traits(n, kernel="soft") for n in range(5)] + [traits(n, kernel="sharp") for n in range(5)]
    more = few + [traits(5 + n, kernel="sharp") for n in range(5)]
    assert [name for name, _ in split(few)] == [name for name, _ in split(more)]
    assert dict(split(more))["kernel=soft;"] == [0, 1, 2, 3, 4]


def test_slices_without_positions_or_directions_are_left_together() -> None:
    bare = [traits(n, orientation=None, position_mm=None) for n in range(6)]
    assert split([*bare, traits(7)]) == [("", list(range(7)))]
