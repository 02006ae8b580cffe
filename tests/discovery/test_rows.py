"""A row's matrix is a box in millimetres: its centre, size and faces, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from semgen_platform.discovery.rows import BASE_SHAPE_ZYX, box_matrix, centre_lps_mm, is_base, matrix_for_shape


def faces(matrix: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    low = matrix @ [-0.5, -0.5, -0.5, 1]
    high = matrix @ [*(np.array(shape) - 0.5), 1]
    return low[:3], high[:3]


def test_the_base_crop_is_48_by_44_8_by_44_8_mm_round_its_place() -> None:
    matrix = box_matrix(np.eye(4), (100.0, 20.0, -30.0), 1.0)
    low, high = faces(matrix, BASE_SHAPE_ZYX)
    np.testing.assert_allclose((low + high) / 2, [-30, 20, 100])  # LPS is x, y, z
    np.testing.assert_allclose(high - low, [44.8, 44.8, 48])
    np.testing.assert_allclose(centre_lps_mm(matrix), [-30, 20, 100])
    np.testing.assert_allclose(np.linalg.norm(matrix[:3, :3], axis=0), [1.5, 0.7, 0.7])  # index axes z, y, x


def test_a_pose_turns_and_stretches_the_crop_with_the_patient() -> None:
    quarter = np.eye(4)
    quarter[:3, :3] = [[1.1, 0, 0], [0, 0, -0.9], [0, 0.9, 0]]  # z stretched; y to x, x to -y
    quarter[:3, 3] = (5, 6, 7)
    matrix = box_matrix(quarter, (10.0, 20.0, 30.0), 1.0)
    np.testing.assert_allclose(centre_lps_mm(matrix), [0.9 * 20 + 7, -0.9 * 30 + 6, 1.1 * 10 + 5])
    np.testing.assert_allclose(matrix[:3, 1], [0.9 * 0.7, 0, 0])  # the crop's y runs along the scan's x


def test_a_scale_keeps_the_centre() -> None:
    small, large = (box_matrix(np.eye(4), (1.0, 2.0, 3.0), s) for s in (0.8, 1.25))
    np.testing.assert_allclose(centre_lps_mm(small), centre_lps_mm(large))
    np.testing.assert_allclose(large[:3, :3], small[:3, :3] * 1.25 / 0.8)


@pytest.mark.parametrize("shape", [(16, 32, 32), (12, 11, 11), (1, 32, 32)])
def test_another_number_of_voxels_fills_the_same_box(shape: tuple[int, int, int]) -> None:
    matrix = box_matrix(np.eye(4), (40.0, 5.0, -8.0), 1.25)
    for a, b in zip(faces(matrix, BASE_SHAPE_ZYX), faces(matrix_for_shape(matrix.ravel(), shape), shape), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_only_scale_1_without_jitter_is_a_base_row() -> None:
    assert is_base({"scale": 1.0, "jitter": 0})
    assert not is_base({"scale": 1.0, "jitter": 1})
    assert not is_base({"scale": 0.8, "jitter": 0})
