"""The published recipe on volumes whose voxels decide where anchors may lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform.discovery.published import PublishedConfig, discover, draw_anchors, tissue_weights
from semgen_platform.errors import InputError

FULL_SIZE = (130, 512, 512)


@dataclass(frozen=True)
class OnGrid:
    scan_id: str
    patient_id: str
    split_group: str
    shape_zyx: tuple[int, int, int]
    zyx_to_lps_mm: NDArray[np.float64]


def on_grid(name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.5, 0.7, 0.8)) -> OnGrid:
    affine = np.zeros((4, 4))
    affine[[2, 1, 0], [0, 1, 2]] = spacing
    affine[:, 3] = (-100, -90, 50, 1)
    return OnGrid(name, name, name, shape, affine)


def air(shape: tuple[int, int, int]) -> NDArray[np.int16]:
    return np.broadcast_to(np.int16(-1000), shape)


SMALL = PublishedConfig(patterns=6, members=4, validation_members=2, scale_xy=0.125, scale_z=0.25, validation_share=0.2)
"""Crops of 8x8x8 voxels, borders of 8, 12, 12: for volumes of 64 x 64."""


def small_cohort() -> tuple[list[OnGrid], dict[str, NDArray[np.float64]]]:
    scans = [on_grid(f"s{n}", (30 + n, 64, 64), (3.0, 5.0 + n, 5.0 + n)) for n in range(10)]
    return scans, {s.scan_id: np.array([float(n)]) for n, s in enumerate(scans)}


def test_corners_of_full_size_scans_keep_the_published_borders() -> None:
    scans = [on_grid(f"s{n}", FULL_SIZE) for n in range(40)]
    anchors = draw_anchors(scans, lambda _: air(FULL_SIZE), PublishedConfig(patterns=40, least_distance=0))
    corners = np.array([a.corner_zyx for a in anchors])
    assert len(corners) == 40
    assert corners[:, 1:].min() >= 100
    assert corners[:, 1:].max() <= 512 - 64 - 1 - 100
    assert corners[:, 0].min() >= 30
    assert corners[:, 0].max() <= 130 - 32 - 3 - 1 - 30


def test_a_reference_serves_once() -> None:
    scans, _ = small_cohort()
    anchors = draw_anchors(scans, lambda _: air((30, 64, 64)), SMALL.model_copy(update={"patterns": 99}))
    references = [a.reference for a in anchors]
    assert len(set(references)) == len(references)


def test_a_slice_below_tissue_counts_half() -> None:
    voxels = np.full((3, 1, 1), -1000)
    voxels[1] = 40
    assert tissue_weights(voxels, -150).ravel().tolist() == [0.5, 1, 0]


def test_anchors_lie_where_there_is_little_tissue() -> None:
    voxels = np.full((40, 64, 64), 40, np.int16)
    voxels[:, :, 20:40] = -800  # a lung
    scans = [on_grid(f"s{n}", (40, 64, 64)) for n in range(8)]
    anchors = draw_anchors(scans, lambda _: voxels, SMALL)
    assert anchors
    for anchor in anchors:
        _, _, x = anchor.corner_zyx
        assert (voxels[0, 0, x : x + 8] == 40).mean() <= 0.15


def test_a_draw_too_near_an_earlier_anchor_burns_the_reference() -> None:
    scans = [on_grid(f"s{n}", (17 + 1 + 8, 33, 33)) for n in range(6)]  # one corner in z, two in y and x
    anchors = draw_anchors(scans, lambda _: air((26, 33, 33)), SMALL.model_copy(update={"least_distance": 99.0}))
    assert len(anchors) == 1


def test_members_share_the_voxel_index_of_the_reference_whatever_their_spacing() -> None:
    scans, vectors = small_cohort()
    found = discover("d2", scans, vectors, lambda s: air(next(c.shape_zyx for c in scans if c.scan_id == s)), SMALL)
    by_id = {s.scan_id: s for s in scans}
    for pattern in found.patterns:
        corner, crop = (np.array(pattern["details"][k]) for k in ("corner_zyx", "crop_zyx"))
        rows = [r for r in found.members if r["pattern"] == pattern["pattern"] and r["jitter"] == 0]
        assert len(rows) <= 6
        for row in rows:
            to_index = np.linalg.inv(by_id[row["scan_id"]].zyx_to_lps_mm) @ np.array(row["matrix"]).reshape(4, 4)
            np.testing.assert_allclose(to_index @ [-0.5, -0.5, -0.5, 1], [*(corner - 0.5), 1], atol=1e-5)
            np.testing.assert_allclose(to_index @ [31.5, 63.5, 63.5, 1], [*(corner + crop - 0.5), 1], atol=1e-5)


def test_members_are_the_reference_and_those_nearest_to_it_that_hold_the_crop() -> None:
    scans, vectors = small_cohort()
    scans[4] = on_grid("s4", (9, 64, 64))  # too short for any crop
    found = discover("d2", scans, vectors, lambda s: air(next(c.shape_zyx for c in scans if c.scan_id == s)), SMALL)
    held = {r["scan_id"] for r in found.members if r["split"] == "val"}
    assert held
    for pattern in found.patterns:
        reference = pattern["reference_scan_id"]
        end = np.add(pattern["details"]["corner_zyx"], pattern["details"]["crop_zyx"])
        offered = [s.scan_id for s in scans if s.scan_id not in held and (end <= s.shape_zyx).all()]
        nearest = sorted(offered, key=lambda s: (abs(vectors[s][0] - vectors[reference][0]), s))[:4]
        rows = [r for r in found.members if r["pattern"] == pattern["pattern"] and r["jitter"] == 0]
        assert {r["scan_id"] for r in rows if r["split"] == "train"} == set(nearest)
        assert "s4" not in {r["scan_id"] for r in rows}


def test_the_second_and_third_resolution_change_the_square_and_its_corner_but_no_slices() -> None:
    scans = [on_grid(f"s{n}", FULL_SIZE) for n in range(12)]
    vectors = {s.scan_id: np.array([float(n)]) for n, s in enumerate(scans)}
    config = PublishedConfig(patterns=5, members=8, validation_members=1, validation_share=0.1)
    found = discover("d2", scans, vectors, lambda _: air(FULL_SIZE), config)
    sides, shifts = [], []
    to_index = np.linalg.inv(scans[0].zyx_to_lps_mm)
    corner = {p["pattern"]: np.array(p["details"]["corner_zyx"]) for p in found.patterns}
    for row in (r for r in found.members if r["jitter"] > 0):
        box = to_index @ np.array(row["matrix"]).reshape(4, 4)
        low, high = box @ [-0.5, -0.5, -0.5, 1], box @ [31.5, 63.5, 63.5, 1]
        z, y, x = (high - low)[:3]
        assert z == pytest.approx(32, abs=1e-4)
        assert y == pytest.approx(x, abs=1e-4)
        sides.append(x)
        shifts += (low[1:3] + 0.5 - corner[row["pattern"]][1:]).tolist()
    assert 50 - 1e-3 <= min(sides) <= 55
    assert 74 <= max(sides) <= 79 + 1e-3
    assert (round(min(shifts)), round(max(shifts))) == (-10, 9)


def test_the_same_seed_gives_the_same_rows_in_any_order_of_scans() -> None:
    scans, vectors = small_cohort()
    first, second = (
        discover("d2", order, vectors, lambda _: air((30, 64, 64)), SMALL) for order in (scans, scans[::-1])
    )
    assert first == second


def test_when_references_run_out_the_shortfall_is_said() -> None:
    scans, vectors = small_cohort()
    wanted = SMALL.model_copy(update={"patterns": 50})
    found = discover("d2", scans, vectors, lambda _: air((30, 64, 64)), wanted)
    assert len(found.patterns) < 50
    assert "the references are used up" in found.notes[0]


def test_constants_that_do_not_fit_the_scans_are_an_error_with_the_factor_to_set() -> None:
    scans, vectors = small_cohort()
    with pytest.raises(InputError, match=r"set scale_xy to about 0\.12"):
        discover("d2", scans, vectors, lambda _: air((30, 64, 64)), PublishedConfig())
