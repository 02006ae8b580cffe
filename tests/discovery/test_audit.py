"""The measures, on rows whose right answer can be counted by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from semgen_platform.discovery.audit import Truth, audit, audit_poses, crop_points_lps_mm, random_centres
from semgen_platform.discovery.rows import BASE_BOX_ZYX_MM, box_matrix, member_row
from semgen_platform.phantom.labels import LABELS

LIVER, SPLEEN = LABELS["liver_left"], LABELS["spleen"]
SIDE = 40  # voxels of 5 mm


def truth(shift_xyz_mm: Any = (0.0, 0.0, 0.0)) -> Truth:
    """A block of liver below and spleen above z = 100 mm, 200 mm wide; canonical = LPS - shift."""
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = (5, 5, 5, 1)
    affine[:3, 3] = np.asarray(shift_xyz_mm) + 2.5  # outer face of voxel 0 at the shift
    labels = np.full((SIDE, SIDE, SIDE), LIVER, np.uint8)
    labels[SIDE // 2 :] = SPLEEN
    lattice = np.zeros((4, 4))
    lattice[[2, 1, 0, 3], [0, 1, 2, 3]] = (50, 50, 50, 1)
    lattice[:3, 3] = shift_xyz_mm
    index = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), axis=-1)
    body = (index @ lattice[:3, :3].T).astype(np.float32)
    return Truth(labels, affine, body, lattice)


TRUTHS = {"a": truth(), "b": truth((30.0, -20.0, 10.0)), "c": truth(), "d": truth()}


def row(scan: str, place_zyx: tuple[float, float, float], pattern: int = 0, **changes: Any) -> dict[str, Any]:
    matrix = box_matrix(np.eye(4), place_zyx, 1.0)
    made = member_row("d1", pattern, scan, f"p{scan}", "train", matrix, scale=1.0, jitter=0, score=0.9)
    return {**made, **changes}


def pattern_row(number: int, reference: str) -> dict[str, Any]:
    return {"pattern": number, "reference_scan_id": reference, "region": "0", "centre_mm": [100.0, 100.0, 100.0]}


def test_points_of_a_crop_fill_its_box() -> None:
    points = crop_points_lps_mm(box_matrix(np.eye(4), (50.0, 60.0, 70.0), 1.0).ravel())
    np.testing.assert_allclose(points.mean(axis=0), [70, 60, 50])
    step = np.array(BASE_BOX_ZYX_MM[::-1]) / (11, 11, 12)
    np.testing.assert_allclose(np.ptp(points, axis=0), np.array(BASE_BOX_ZYX_MM[::-1]) - step)


def test_errors_and_purity_of_three_members_are_those_counted_by_hand() -> None:
    members = [
        row("a", (60.0, 100.0, 100.0)),  # liver
        row("b", (70.0, 80.0, 130.0)),  # the same place of a shifted scan
        row("c", (66.0, 100.0, 100.0)),  # 6 mm higher, liver still
        row("d", (150.0, 100.0, 100.0)),  # spleen: 90 mm off
    ]
    measures = audit([pattern_row(0, "a")], members, TRUTHS.__getitem__, [])
    # centres along z: 60, 60, 66, 150; their median is 63, so b, c, d miss by 3, 3, 87
    assert measures["centre_error_median_mm"] == pytest.approx(3)
    # to the reference: 0, 6, 90
    assert measures["reference_error_median_mm"] == pytest.approx(6)
    assert measures["purity"] == pytest.approx(2 / 3, abs=1e-4)
    assert measures["kept"] == 4


def test_a_half_and_half_crop_is_not_pure() -> None:
    members = [row("a", (60.0, 100.0, 100.0)), row("c", (100.0, 100.0, 100.0))]
    measures = audit([pattern_row(0, "a")], members, TRUTHS.__getitem__, [])
    assert measures["intersection"] == pytest.approx(0.5)
    assert measures["purity"] == 0


def test_dropped_scaled_and_jittered_rows_do_not_count() -> None:
    members = [
        row("a", (60.0, 100.0, 100.0)),
        row("b", (70.0, 80.0, 130.0)),
        row("c", (150.0, 100.0, 100.0), dropped=True, reason="far off"),
        row("d", (150.0, 100.0, 100.0), scale=1.25, jitter=1),
    ]
    measures = audit([pattern_row(0, "a")], members, TRUTHS.__getitem__, [])
    assert measures["purity"] == 1
    assert (measures["members"], measures["kept"], measures["fewest_kept"]) == (3, 2, 2)


def test_coverage_is_the_share_of_labels_a_quarter_of_which_lies_in_a_pattern() -> None:
    members = [row("a", (24.0, 22.4, 22.4))]
    measures = audit([pattern_row(0, "a")], members, TRUTHS.__getitem__, ["a"])
    whole = 200.0**3
    # voxel centres inside [0, 48] x [0, 44.8]^2 count whole: 10 x 9 x 9 voxels of 5 mm
    assert measures["tissue_coverage"] == pytest.approx(10 * 9 * 9 * 125 / whole, abs=2e-4)
    assert measures["label_coverage"] == 0
    places = [(24.0 + 48 * z, 22.4 + 44.8 * y, 22.4 + 44.8 * x) for z, y, x in np.ndindex(2, 5, 5)]
    many = [row("a", place, n) for n, place in enumerate(places)]
    measures = audit([pattern_row(n, "a") for n in range(50)], many, TRUTHS.__getitem__, ["a"])
    assert measures["label_coverage"] == pytest.approx(0.5)  # all of the lower block, none of the upper


def test_overlap_is_measured_in_the_true_body() -> None:
    members = [row("a", (60.0, 100.0, 100.0), 0), row("b", (70.0 + 24.0, 80.0, 130.0), 1)]
    measures = audit([pattern_row(0, "a"), pattern_row(1, "b")], members, TRUTHS.__getitem__, [])
    assert measures["overlap_max"] == pytest.approx(1 / 3, abs=1e-4)  # half a box higher


def test_leakage_counts_patients_twice_or_on_both_sides() -> None:
    members = [
        row("a", (60.0, 100.0, 100.0)),
        row("b", (70.0, 80.0, 130.0), patient_id="pa"),
        row("c", (60.0, 100.0, 100.0), 1, split="val"),
        row("c", (60.0, 100.0, 100.0), 2),
    ]
    patterns = [pattern_row(n, "a") for n in range(3)]
    measures = audit(patterns, members, TRUTHS.__getitem__, [])
    assert measures["repeated_patients"] == 1
    assert measures["leaking_patients"] == 1


def pose_row(scan: str, shift_xyz: tuple[float, float, float], refused: bool = False) -> dict[str, Any]:
    matrix = np.eye(4)
    matrix[:3, 3] = shift_xyz
    return {"scan_id": scan, "matrix": matrix.ravel().tolist(), "refused": refused, "region": "0"}


def test_a_scan_placed_50_mm_off_is_wrong() -> None:
    patterns = [pattern_row(n, "a") | {"centre_mm": [100.0, 100.0, 80.0 + 10 * n]} for n in range(3)]
    poses = [
        pose_row("a", (0, 0, 0)),
        pose_row("b", (30, -20, 10)),
        pose_row("c", (0, 0, 50)),
        pose_row("d", (0, 0, 0)),
    ]
    measures = audit_poses(poses, patterns, TRUTHS.__getitem__)
    assert measures["wrong_accepted"] == 1
    assert measures["pose_error_median_mm"] == pytest.approx(0)
    poses[2]["refused"] = True
    measures = audit_poses(poses, patterns, TRUTHS.__getitem__)
    assert (measures["wrong_accepted"], measures["refused"]) == (0, 1)


def test_random_centres_keep_the_members_and_lie_anywhere_in_the_body() -> None:
    members = [row("a", (60.0, 100.0, 100.0), n) for n in range(60)]
    moved = random_centres(members, TRUTHS.__getitem__, seed=0)
    assert [(r["pattern"], r["scan_id"], r["split"]) for r in moved] == [(n, "a", "train") for n in range(60)]
    places = np.array([r["centre_lps_mm"] for r in moved])
    half = np.array(BASE_BOX_ZYX_MM[::-1]) / 2
    assert (places >= half - 2.6).all()  # the whole box fits, to half a voxel
    assert (places <= 200 - half + 2.6).all()
    assert places.std(axis=0).min() > 30
