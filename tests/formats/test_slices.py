"""Slices to a regular grid: what passes, what is refused, and that each refusal has a near miss that passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from semgen_platform.formats.slices import Grid, Plane, regular_grid
from semgen_platform.volume import Refusal


def planes(positions_z_mm: list[float], shift_y_mm: float = 0.0) -> list[Plane]:
    """Axial planes at these heights; `shift_y_mm` moves each further along y, per mm of height."""
    return [
        Plane(
            position_mm=(-20.0, 10.0 + shift_y_mm * (z - positions_z_mm[0]), z),
            orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
            pixel_spacing_mm=(0.8, 0.7),
            shape_yx=(18, 24),
        )
        for z in positions_z_mm
    ]


def grid_of(found: Grid | list[Refusal]) -> Grid:
    assert isinstance(found, Grid), found
    return found


def refusals_of(found: Grid | list[Refusal]) -> dict[str, Refusal]:
    assert isinstance(found, list)
    return {reason: refusal for refusal in found for reason in refusal.reasons}


def even(count: int, step: float = 2.5) -> list[float]:
    return [100.0 + step * n for n in range(count)]


def test_slices_are_ordered_by_position_whatever_order_they_come_in() -> None:
    shuffled = np.random.default_rng(1).permutation(20)
    given = [planes(even(20))[n] for n in shuffled]
    grid = grid_of(regular_grid(given))
    assert [given[n].position_mm for n in grid.order] == [p.position_mm for p in planes(even(20))]


def test_the_affine_says_column_spacing_along_x_row_spacing_along_y_and_the_step_along_z() -> None:
    expected = np.array([[0.7, 0, 0, -20], [0, 0.8, 0, 10], [0, 0, 2.5, 100], [0, 0, 0, 1]])
    assert np.allclose(grid_of(regular_grid(planes(even(20)))).ijk_to_lps_mm, expected)


def test_float_noise_of_1e_15_passes() -> None:
    noisy = [z * (1 + 1e-15 * (-1) ** n) for n, z in enumerate(even(20))]
    exact = grid_of(regular_grid(planes(even(20)))).ijk_to_lps_mm
    assert np.allclose(grid_of(regular_grid(planes(noisy))).ijk_to_lps_mm, exact, rtol=0, atol=1e-9)


@pytest.mark.parametrize("step", [0.5, 2.5])
def test_a_step_may_deviate_by_one_percent_or_a_hundredth_of_a_millimetre_but_not_by_more(step: float) -> None:
    limit = max(0.01, 0.01 * step)
    for factor, passes in ((0.9, True), (1.2, False)):
        positions = even(20, step)
        positions[10:] = [z + factor * limit for z in positions[10:]]
        assert isinstance(regular_grid(planes(positions)), Grid) == passes


def test_steps_that_each_pass_must_not_lead_slices_off_the_grid() -> None:
    """Gaps of 2.5 and then of 2.524 mm: of 20 slices the middle one lies 0.1 mm beside an even grid, of 300 1.8 mm."""
    for count, passes in ((20, True), (300, False)):
        gaps = [2.5 if n < count // 2 else 2.524 for n in range(count)]
        found = regular_grid(planes([0.0, *np.cumsum(gaps).tolist()]))
        assert isinstance(found, Grid) == passes
    assert refusals_of(found)["uneven_spacing"].evidence["drift_mm"] == pytest.approx(150 * 0.012, rel=0.01)


def test_the_pixel_spacing_is_that_of_most_slices_and_the_last_pixel_never_a_tenth_of_a_millimetre_off() -> None:
    """24 columns: 0.0005 mm a pixel is 0.012 mm at the far edge, 0.007 mm is 0.17 mm."""
    for wider, passes in ((0.7005, True), (0.707, False)):
        given = planes(even(20))
        given[0] = replace(given[0], pixel_spacing_mm=(0.8, wider))
        found = regular_grid(given)
        assert isinstance(found, Grid) == passes
        if isinstance(found, Grid):
            assert found.ijk_to_lps_mm[0, 0] == 0.7


def test_a_pixel_spacing_that_some_files_give_with_three_decimals_is_one_spacing() -> None:
    given = [replace(p, pixel_spacing_mm=(0.78125, 0.78125), shape_yx=(512, 512)) for p in planes(even(20))]
    given[:5] = [replace(p, pixel_spacing_mm=(0.781, 0.781)) for p in given[:5]]
    assert grid_of(regular_grid(given)).ijk_to_lps_mm[0, 0] == 0.78125


def test_one_missing_slice_is_found_with_its_gap_as_evidence() -> None:
    positions = even(20)
    del positions[7]
    refusal = refusals_of(regular_grid(planes(positions)))["missing_slices"]
    assert refusal.evidence["missing"] == 1
    assert refusal.evidence["gaps_mm"] == [5.0]
    assert refusal.evidence["step_mm"] == 2.5


def test_a_hole_of_a_hundred_slices_is_missing_slices_too() -> None:
    found = refusals_of(regular_grid(planes([*even(10), *[z + 250.0 for z in even(10, 2.5)]])))
    assert found["missing_slices"].evidence["missing"] == 90
    assert set(found) == {"missing_slices"}


def test_a_gap_that_is_no_multiple_of_the_step_is_uneven_spacing() -> None:
    positions = even(20)
    positions[12:] = [z + 1.0 for z in positions[12:]]
    found = refusals_of(regular_grid(planes(positions)))
    assert set(found) == {"uneven_spacing"}
    assert found["uneven_spacing"].evidence["gaps_mm"] == [3.5]


def test_holes_and_uneven_gaps_are_both_named() -> None:
    positions = even(20)
    positions[12:] = [z + 1.0 for z in positions[12:]]
    del positions[4]
    assert set(refusals_of(regular_grid(planes(positions)))) == {"missing_slices", "uneven_spacing"}


def test_two_slices_at_one_place_are_a_duplicate() -> None:
    refusal = refusals_of(regular_grid(planes([*even(20), 105.0])))["duplicate_position"]
    assert refusal.evidence["duplicates"] == 1
    assert refusal.evidence["at_mm"] == [105.0]


def test_two_interleaved_time_points_are_duplicates_all_over() -> None:
    assert refusals_of(regular_grid(planes(even(20) * 2)))["duplicate_position"].evidence["duplicates"] == 20


def test_gantry_tilt_is_the_angle_between_normal_and_stacking() -> None:
    tilt_deg = 18.5
    refusal = refusals_of(regular_grid(planes(even(20), shift_y_mm=float(np.tan(np.radians(tilt_deg))))))["gantry_tilt"]
    assert refusal.evidence["tilt_deg"] == pytest.approx(tilt_deg, abs=1e-4)


def test_a_tilt_of_a_fiftieth_of_a_degree_passes_and_keeps_the_measured_stacking() -> None:
    grid = grid_of(regular_grid(planes(even(20), shift_y_mm=float(np.tan(np.radians(0.02))))))
    assert grid.ijk_to_lps_mm[1, 2] == pytest.approx(2.5 * np.tan(np.radians(0.02)))


def test_an_oblique_series_whose_slices_are_stacked_along_their_normal_passes() -> None:
    angle = np.radians(20)
    column = np.array([0, np.cos(angle), np.sin(angle)])
    normal = np.cross([1, 0, 0], column)
    tilted = [
        replace(plane, orientation=(1.0, 0.0, 0.0, *column), position_mm=tuple(float(v) for v in normal * 2.5 * n))
        for n, plane in enumerate(planes(even(20)))
    ]
    affine = grid_of(regular_grid(tilted)).ijk_to_lps_mm
    assert np.allclose(affine[:3, 2], normal * 2.5)


def test_a_slice_turned_against_the_others_is_inconsistent_orientation_and_nothing_else() -> None:
    given = planes(even(20))
    given[5] = replace(given[5], orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
    found = refusals_of(regular_grid(given))
    assert set(found) == {"inconsistent_orientation"}
    assert found["inconsistent_orientation"].evidence["turned"] == 1
    assert found["inconsistent_orientation"].evidence["largest_angle_deg"] == pytest.approx(90.0)


def test_a_slice_of_another_shape_or_pixel_spacing_is_inconsistent_shape() -> None:
    for change in ({"shape_yx": (18, 25)}, {"pixel_spacing_mm": (0.8, 0.9)}):
        given = planes(even(20))
        given[3] = replace(given[3], **change)
        assert "inconsistent_shape" in refusals_of(regular_grid(given))


def test_slices_beside_the_line_of_the_others_are_ambiguous() -> None:
    given = planes(even(20))
    given[9] = replace(given[9], position_mm=(-17.0, 10.0, 122.5))
    refusal = refusals_of(regular_grid(given))["ambiguous_split"]
    assert refusal.evidence["lateral_mm"] == pytest.approx(3.0)


def test_row_and_column_that_are_not_at_a_right_angle_are_sheared() -> None:
    given = [replace(plane, orientation=(1.0, 0.0, 0.0, 0.01, 0.99995, 0.0)) for plane in planes(even(20))]
    assert "sheared_affine" in refusals_of(regular_grid(given))


@pytest.mark.parametrize(
    ("field", "tag"),
    [
        ("position_mm", "ImagePositionPatient"),
        ("orientation", "ImageOrientationPatient"),
        ("pixel_spacing_mm", "PixelSpacing"),
    ],
)
def test_a_slice_without_geometry_is_named_by_its_missing_tag(field: str, tag: str) -> None:
    given = planes(even(20))
    given[2] = replace(given[2], **{field: None})  # type: ignore[arg-type]
    assert refusals_of(regular_grid(given))["missing_geometry"].evidence["slices_without"] == {tag: 1}


def test_one_slice_has_no_spacing() -> None:
    assert set(refusals_of(regular_grid(planes([5.0])))) == {"too_few_slices"}
