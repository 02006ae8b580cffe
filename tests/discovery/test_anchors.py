"""Where anchors may lie and which are chosen, on small atlases whose answer can be counted."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform.discovery import anchors
from semgen_platform.discovery.anchors import AnchorConfig, available, box_means, candidates, choose, pairwise_iou
from semgen_platform.discovery.atlas import Atlas
from semgen_platform.discovery.body_frame import BodyConfig, body_frame
from semgen_platform.discovery.pose import Pose, Target
from semgen_platform.discovery.resampling import Grid
from semgen_platform.discovery.rows import BASE_BOX_ZYX_MM

GRID = Grid((4.0, 4.0, 4.0), 8.0, (50, 24, 24))  # from 0 to 400, 192, 192 mm
BOX = np.array(BASE_BOX_ZYX_MM)


def atlas_of(intensity: NDArray[np.float64]) -> Atlas:
    seen = np.ones(intensity.shape, bool)
    target = Target(GRID, intensity.astype(np.float32), seen, seen, None, None)
    return Atlas(target, seen.astype(np.int32), "start", (), "digest")


def chessboard() -> Atlas:
    """Slabs of tissue and air by turns along y, 24 mm each: every crop holds both."""
    intensity = np.full(GRID.shape_zyx, 0.1)
    intensity[:, (np.arange(24) // 3) % 2 == 0] = 0.75  # 50 HU
    return atlas_of(intensity)


def test_box_means_agree_with_counting_fine_points() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(GRID.shape_zyx)
    centres = rng.uniform([30, 30, 30], [370, 160, 160], (5, 3))
    found = box_means(GRID, values, centres)
    inside = (np.stack(np.meshgrid(*[np.arange(96)] * 3, indexing="ij"), axis=-1) + 0.5) / 96 - 0.5
    for centre, mean in zip(centres, found, strict=True):
        index = np.rint(GRID.to_index(centre + inside.reshape(-1, 3) * BOX)).astype(int)
        assert mean == pytest.approx(values[tuple(index.T)].mean(), abs=3e-3)  # half a cell off would be 0.01


def test_candidates_hold_tissue_and_air() -> None:
    intensity = np.full(GRID.shape_zyx, 0.75)
    intensity[:, :, :12] = 0.1  # air where x < 96 mm
    found = candidates(atlas_of(intensity), AnchorConfig())
    # share of tissue = (x + 22.4 - 96) / 44.8 between 0.10 and 0.90
    assert found.centres_A3[:, 2].min() >= 96 - 22.4 + 4.48
    assert found.centres_A3[:, 2].max() <= 96 + 22.4 - 4.48
    assert ((found.tissue_A >= 0.10) & (found.tissue_A <= 0.90)).all()


def test_a_place_that_was_not_seen_whole_is_no_candidate() -> None:
    atlas = chessboard()
    atlas.target.seen_ZYX[:25] = False  # nothing below 200 mm
    assert candidates(atlas, AnchorConfig()).centres_A3[:, 0].min() >= 200 + 24


def test_availability_is_that_of_the_crop_and_its_margin() -> None:
    hu = np.full((60, 48, 48), 40, np.int16)
    to_lps = np.zeros((4, 4))
    to_lps[[2, 1, 0, 3], [0, 1, 2, 3]] = (4, 4, 4, 1)
    to_lps[:3, 3] = 2  # the volume spans 0 to 240, 192, 192 mm
    frame = body_frame(hu, to_lps, None, BodyConfig())
    low = np.array([24 + 6 + 1, 90, 90])  # one millimetre to spare
    shown = available(frame, Pose(np.eye(4), 1, 1, 1, (0, 0, 0)), np.array([low, low - [4, 0, 0]]), 6.0)
    assert shown.tolist() == [True, False]
    twice = np.diag([2.0, 1, 1, 1])  # a scan twice as tall: the crop reaches 60 mm either way
    assert available(frame, Pose(twice, 1, 1, 1, (0, 0, 0)), np.array([[61 / 2, 90, 90]]), 6.0).tolist() == [True]


def test_the_choice_keeps_overlap_and_quota() -> None:
    atlas, config = chessboard(), AnchorConfig()
    found = candidates(atlas, config)
    everywhere = np.full(len(found.centres_A3), 20)
    choice = choose(atlas, found, everywhere, 20, 10, 30, config)
    assert len(choice.chosen) == 30
    assert choice.shortfall == ""
    chosen = found.centres_A3[list(choice.chosen)]
    iou = pairwise_iou(chosen, chosen)
    np.fill_diagonal(iou, 0)
    assert iou.max() <= 0.25
    span = found.centres_A3[:, 0].min(), np.ptp(found.centres_A3[:, 0])
    thirds = np.minimum(((chosen[:, 0] - span[0]) / span[1] * 3).astype(int), 2)
    assert np.bincount(thirds).tolist() == [10, 10, 10]


def test_the_choice_covers_more_tissue_than_the_same_number_at_random() -> None:
    atlas, config = chessboard(), AnchorConfig()
    found = candidates(atlas, config)
    choice = choose(atlas, found, np.full(len(found.centres_A3), 20), 20, 10, 12, config)
    # 12 crops that do not overlap, each with 96 ml of which 0.5 to 0.54 is tissue
    assert sum(choice.gain_ml) == pytest.approx(12 * 0.535 * np.prod(BOX) / 1000, rel=0.02)


def test_a_shortfall_is_said_and_nothing_relaxed() -> None:
    atlas, config = chessboard(), AnchorConfig(largest_iou=0.0)
    found = candidates(atlas, config)
    choice = choose(atlas, found, np.full(len(found.centres_A3), 20), 20, 10, 500, config)
    assert len(choice.chosen) < 500
    assert f"{len(choice.chosen)} of 500 patterns" in choice.shortfall
    chosen = found.centres_A3[list(choice.chosen)]
    assert (pairwise_iou(chosen, chosen) - np.eye(len(chosen))).max() <= 0


def test_a_place_that_too_few_patients_show_is_not_chosen() -> None:
    atlas, config = chessboard(), AnchorConfig()
    found = candidates(atlas, config)
    upper = found.centres_A3[:, 0] > 200
    choice = choose(atlas, found, np.where(upper, 15, 14), 20, 15, 10, config)
    assert upper[list(choice.chosen)].all()
    nowhere = choose(atlas, found, np.zeros(len(upper), int), 20, 15, 10, config)
    assert nowhere.chosen == ()
    assert "lies inside 15 patients" in nowhere.shortfall


def test_iou_of_boxes_is_that_of_their_volumes() -> None:
    centre = np.array([[100.0, 100.0, 100.0]])
    half = pairwise_iou(centre, centre + np.array([24, 0, 0]))[0, 0]
    assert half == pytest.approx(1 / 3)  # half of each is shared: 0.5 / 1.5
    assert pairwise_iou(centre, centre + BOX)[0, 0] == 0


def test_ties_go_to_the_first_place() -> None:
    tissue = np.ones(GRID.shape_zyx)
    centres = np.array([[100.0, 96, 96], [300.0, 96, 96]])
    chosen, _, _ = anchors._greedy(GRID, tissue, centres, np.ones(2, bool), 1, 0.25)
    assert chosen == [0]
