"""Axes and affines: world positions survive; orientation codes agree with nibabel's, narrow types lose nothing."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from semgen_platform import geometry
from semgen_platform.errors import GeometryError
from semgen_platform.volume import FLAGS, REASONS, Refusal, Volume, canonical, narrowest

SHAPE_ZYX = (4, 5, 6)


def affine_of(linear: Any, origin: Any = (11.0, -7.0, 300.0)) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    return affine


SIGNED_PERMUTATIONS = [
    np.eye(3)[:, list(order)] * signs for order in permutations(range(3)) for signs in product((1.0, -1.0), repeat=3)
]


@pytest.mark.parametrize("axes", SIGNED_PERMUTATIONS, ids=range(48))
def test_all_48_axis_orders_become_canonical_with_every_voxel_at_its_place(axes: NDArray[np.float64]) -> None:
    affine = affine_of(axes * [0.7, 0.8, 2.5])
    voxels = np.arange(np.prod(SHAPE_ZYX), dtype=np.int16).reshape(SHAPE_ZYX)
    volume = canonical(Volume(voxels=voxels, ijk_to_lps_mm=affine))
    assert (np.diag(volume.ijk_to_lps_mm)[:3] > 0).all()
    before = {value: geometry.apply_affine(affine, index[::-1]) for index, value in np.ndenumerate(voxels)}
    for (z, y, x), value in np.ndenumerate(volume.voxels):
        assert np.allclose(geometry.apply_affine(volume.ijk_to_lps_mm, (x, y, z)), before[value], atol=1e-9)


@pytest.mark.parametrize("signs", list(product((1.0, -1.0), repeat=3)))
def test_flips_in_place_give_the_same_volume_in_the_memory_of_the_first(signs: tuple[float, float, float]) -> None:
    affine = affine_of(np.diag(signs) * [0.7, 0.8, 2.5])
    for depth in (4, 5):
        voxels = np.arange(depth * 30, dtype=np.int16).reshape(depth, 5, 6)
        expected = canonical(Volume(voxels, affine))
        found = canonical(Volume(voxels, affine), owned=True)
        assert np.array_equal(found.voxels, expected.voxels)
        assert np.array_equal(found.ijk_to_lps_mm, expected.ijk_to_lps_mm)
        assert np.shares_memory(found.voxels, voxels)


def test_what_cannot_be_flipped_in_place_is_flipped_all_the_same() -> None:
    affine = affine_of(np.diag([-0.7, -0.8, -2.5]))
    voxels = np.arange(120).reshape(SHAPE_ZYX)
    kinds: list[NDArray[Any]] = [voxels.astype(np.int32), voxels.astype(">i2"), voxels.astype(np.int16).T.copy().T]
    for kind in kinds:
        before = kind.copy()
        assert np.array_equal(canonical(Volume(kind, affine), owned=True).voxels, voxels[::-1, ::-1, ::-1])
        assert np.array_equal(kind, before)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), left_handed=st.booleans())
def test_oblique_and_left_handed_volumes_keep_their_angles_and_positions(
    angles: tuple[float, float, float], left_handed: bool
) -> None:
    directions = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine = affine_of(directions @ np.diag([-0.7 if left_handed else 0.7, 0.8, 2.5]))
    voxels = np.arange(np.prod(SHAPE_ZYX), dtype=np.int16).reshape(SHAPE_ZYX)
    volume = canonical(Volume(voxels=voxels, ijk_to_lps_mm=affine))
    assert np.linalg.det(volume.ijk_to_lps_mm[:3, :3]) > 0 or geometry.obliquity_deg(affine) > 30
    for value in (0, 37, 119):
        z, y, x = np.argwhere(voxels == value)[0]
        k, j, i = np.argwhere(volume.voxels == value)[0]
        expected = geometry.apply_affine(affine, (x, y, z))
        assert np.allclose(geometry.apply_affine(volume.ijk_to_lps_mm, (i, j, k)), expected, atol=1e-9)


@pytest.mark.parametrize("axes", SIGNED_PERMUTATIONS, ids=range(48))
def test_orientation_codes_are_those_of_nibabel(axes: NDArray[np.float64]) -> None:
    affine = affine_of(Rotation.from_euler("xyz", (4, -6, 8), degrees=True).as_matrix() @ axes * [0.7, 0.8, 2.5])
    assert geometry.orientation_code(affine) == "".join(aff2axcodes(geometry.ras_to_lps(affine)))


def test_the_source_orientation_and_affine_are_kept() -> None:
    affine = affine_of(np.diag([-0.7, -0.8, 2.5]))
    volume = canonical(Volume(voxels=np.zeros(SHAPE_ZYX, np.int16), ijk_to_lps_mm=affine))
    assert volume.attributes["orientation"] == "RAS"
    assert volume.attributes["source_ijk_to_lps_mm"] == affine.ravel().tolist()


@pytest.mark.parametrize(("degrees", "flagged"), [(0.05, False), (0.2, True)])
def test_oblique_means_more_than_a_tenth_of_a_degree(degrees: float, flagged: bool) -> None:
    affine = affine_of(Rotation.from_euler("x", degrees, degrees=True).as_matrix())
    volume = canonical(Volume(voxels=np.zeros(SHAPE_ZYX, np.int16), ijk_to_lps_mm=affine))
    assert ("oblique" in volume.flags) == flagged
    assert geometry.obliquity_deg(affine) == pytest.approx(degrees, rel=1e-4)


def test_spacing_is_the_distance_between_centres_also_where_axes_are_oblique() -> None:
    affine = affine_of(Rotation.from_euler("xyz", (20, 30, 40), degrees=True).as_matrix() @ np.diag([0.7, 0.8, 2.5]))
    assert geometry.spacing_zyx_mm(affine) == pytest.approx((2.5, 0.8, 0.7))
    with pytest.raises(GeometryError, match="re-export"):
        geometry.spacing_zyx_mm(affine_of(np.diag([0.7, 0.0, 2.5])))


@pytest.mark.parametrize(
    ("linear", "reason"),
    [
        (np.diag([0.7, 0.8, 2.5]), None),
        (np.diag([0.7, 0.8, 0.0]), "singular_affine"),
        (np.diag([0.7, np.nan, 2.5]), "singular_affine"),
        (np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1.0]]), "singular_affine"),
        (np.array([[1, 0.0009, 0], [0, 1, 0], [0, 0, 1.0]]), None),
        (np.array([[1, 0.0011, 0], [0, 1, 0], [0, 0, 1.0]]), "sheared_affine"),
    ],
)
def test_a_grid_of_boxes_is_told_from_shear_and_flatness(linear: Any, reason: str | None) -> None:
    fault = geometry.affine_fault(affine_of(linear))
    assert (fault and fault[0]) == reason


def test_reversing_index_axes_and_crossing_between_ras_and_lps_undo_themselves() -> None:
    affine = affine_of(Rotation.from_euler("xyz", (1, 2, 3), degrees=True).as_matrix())
    assert np.array_equal(geometry.reverse_index_axes(geometry.reverse_index_axes(affine)), affine)
    assert np.array_equal(geometry.ras_to_lps(geometry.ras_to_lps(affine)), affine)
    assert np.allclose(
        geometry.apply_affine(geometry.reverse_index_axes(affine), (1, 2, 3)), geometry.apply_affine(affine, (3, 2, 1))
    )


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([-32768, 32767], np.int32), np.int16),
        (np.array([0, 40000], np.uint16), np.float32),
        (np.array([-1024.0, 3071.0]), np.int16),
        (np.array([0.5, 1.0]), np.float32),
        (np.array([0.0, 32768.0]), np.float32),
        (np.array([1, 2], ">i2"), np.int16),
    ],
)
def test_whole_numbers_in_range_are_kept_as_int16_and_all_else_as_float32(values: NDArray[Any], dtype: Any) -> None:
    narrow = narrowest(values.reshape(1, 1, -1))
    assert narrow.dtype == dtype
    assert np.array_equal(narrow.ravel(), values)


def test_a_refusal_puts_the_primary_reason_first_and_names_each_once() -> None:
    refusal = Refusal(("too_few_slices", "gantry_tilt", "truncated", "gantry_tilt"), "a sentence")
    assert refusal.reasons == ("truncated", "gantry_tilt", "too_few_slices")


def test_reason_codes_and_flags_are_unique() -> None:
    assert len(set(REASONS)) == len(REASONS)
    assert len(set(FLAGS)) == len(FLAGS)


def test_a_histogram_is_counted_once_and_kept_where_only_labels_change() -> None:
    volume = Volume(np.full(SHAPE_ZYX, 7, np.int16), np.eye(4))
    counted = volume.histogram
    relabelled = volume.relabelled(padding_hu=-2000.0, flags=("oblique",))
    assert relabelled.histogram is counted
    assert relabelled.voxels is volume.voxels
    assert (relabelled.padding_hu, relabelled.flags) == (-2000.0, ("oblique",))
    assert replace(volume, voxels=np.zeros(SHAPE_ZYX, np.int16)).histogram.percentile(50) == 0
