"""Places come from truth that lies on the scan's grid, and carry the label that fills them."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.errors import InputError
from semgen_platform.evaluation.labelled import Places, candidates, drawn, joined, read_labels, truth_by_scan
from semgen_platform.lake.selection import Scan

OBLIQUE = geometry.affine_from(
    (0.8, 0.8, 2.5), (-120.0, -90.0, 40.0), np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.0]])
)


def _scan(name: str, shape: tuple[int, int, int], affine: NDArray[np.float64]) -> Scan:
    return Scan(name, "c" + name, "p" + name, "g" + name, "held-out", "CT", shape, affine, (), "0", (), None, "int16")


def _write_truth(path: Path, labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> None:
    np.savez_compressed(path, labels_ZYX=labels, zyx_to_lps_mm=geometry.reverse_index_axes(affine))


def test_truth_is_found_by_the_grid_whatever_the_files_are_called(tmp_path: Path) -> None:
    shape = (10, 20, 30)
    moved = OBLIQUE.copy()
    moved[0, 3] += 1.0
    _write_truth(tmp_path / "zz.npz", np.full(shape, 7, np.uint8), OBLIQUE)
    _write_truth(tmp_path / "aa.npz", np.full(shape, 9, np.uint8), moved)
    single = OBLIQUE.astype(np.float32).astype(np.float64)
    found = truth_by_scan([_scan("s1", shape, single), _scan("s2", shape, moved)], tmp_path)
    assert {name: int(read_labels(path).max()) for name, path in found.items()} == {"s1": 7, "s2": 9}


def test_a_scan_without_truth_or_with_two_is_refused(tmp_path: Path) -> None:
    shape = (10, 20, 30)
    with pytest.raises(InputError, match="holds no truth"):
        truth_by_scan([_scan("s1", shape, OBLIQUE)], tmp_path)
    _write_truth(tmp_path / "a.npz", np.zeros(shape, np.uint8), OBLIQUE)
    with pytest.raises(InputError, match="0 truth files"):
        truth_by_scan([_scan("s1", (10, 20, 31), OBLIQUE)], tmp_path)
    _write_truth(tmp_path / "b.npz", np.zeros(shape, np.uint8), OBLIQUE)
    with pytest.raises(InputError, match="2 truth files"):
        truth_by_scan([_scan("s1", shape, OBLIQUE)], tmp_path)


def test_a_file_that_is_no_truth_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no truth file"):
        truth_by_scan([_scan("s1", (10, 20, 30), OBLIQUE)], tmp_path)


def test_candidates_are_what_a_plain_loop_finds() -> None:
    labels = np.random.default_rng(0).integers(0, 3, (9, 14, 13)).astype(np.uint8)
    labels[:5, :9, :8] = 2
    labels[5:, 9:, 8:] = 1
    zyx_to_lps = geometry.reverse_index_axes(OBLIQUE)
    centres, found = candidates(labels, zyx_to_lps, region_mm=4.0, least_share=0.7)
    size, expected = (2, 5, 5), []  # 4 mm of 2.5, 0.8 and 0.8 mm
    for z in range(0, 8, 2):
        for y in range(0, 10, 5):
            for x in range(0, 10, 5):
                counts = np.bincount(labels[z : z + 2, y : y + 5, x : x + 5].ravel(), minlength=3)
                if counts.max() >= 0.7 * np.prod(size):
                    world = zyx_to_lps @ [z + 0.5, y + 2, x + 2, 1]
                    expected.append([*world[2::-1], counts.argmax()])
    assert len(expected) > 4
    np.testing.assert_allclose(np.column_stack([centres, found]), expected)


def test_a_scan_smaller_than_a_region_has_no_place() -> None:
    centres, labels = candidates(np.ones((2, 3, 3), np.uint8), np.diag([1.0, 1, 1, 1]), 12.0, 0.5)
    assert (len(centres), len(labels)) == (0, 0)


def test_drawn_places_are_few_of_each_label_and_the_same_again() -> None:
    labels = np.repeat(np.array([0, 4, 5, 6]), [50, 40, 2, 9])
    centres = np.arange(len(labels) * 3, dtype=np.float64).reshape(-1, 3)
    scan = _scan("s1", (1, 1, 1), np.eye(4))
    places = drawn(scan, centres, labels, per_label=4, ignored=(0,), seed=3)
    assert {int(v): int(n) for v, n in zip(*np.unique(places.labels, return_counts=True), strict=True)} == {
        4: 4,
        5: 2,
        6: 4,
    }
    assert set(places.scan_ids) == {"s1"}
    assert set(places.groups) == {"gs1"}
    np.testing.assert_array_equal(places.centres_zyx_mm, drawn(scan, centres, labels, 4, (0,), 3).centres_zyx_mm)
    assert not np.array_equal(places.centres_zyx_mm, drawn(scan, centres, labels, 4, (0,), 4).centres_zyx_mm)


def test_a_label_that_few_patients_show_is_no_class() -> None:
    def part(name: str, labels: list[int]) -> Places:
        count = len(labels)
        return Places(np.full(count, name), np.full(count, name), np.zeros((count, 3)), np.array(labels))

    places = joined([part("a", [1, 2]), part("b", [1, 2]), part("c", [1, 3])], least_groups=0.6)
    assert places.labels.tolist() == [1, 2, 1, 2, 1]
    assert places.scan_ids.tolist() == ["a", "a", "b", "b", "c"]
