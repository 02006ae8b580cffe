"""Poses of made-up scans whose true place is known, and scans that must be refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semgen_platform.discovery import pose
from semgen_platform.discovery.body_frame import BodyConfig, Frame, body_frame
from semgen_platform.discovery.pose import PoseConfig, Prepared, align, as_target, decompose, fft_start, prepare

CONFIG = PoseConfig()
WIDE = 1  # the scan of the cohort that shows chest and abdomen


@pytest.fixture(scope="module")
def prepared(cohort: Any) -> Prepared:
    return prepare(as_target(cohort.frames[cohort.scans[WIDE].scan_id].coarse()), CONFIG)


def test_poses_carry_the_atlas_to_the_same_anatomy(cohort: Any, prepared: Prepared) -> None:
    points = prepared.templates[0].points_N3[::40]
    truth = cohort.scans[WIDE].canonical(points)
    for scan in cohort.scans[:9]:
        found = align(cohort.frames[scan.scan_id].coarse(), prepared, CONFIG)
        error = np.linalg.norm(scan.canonical(pose.mapped(found.matrix, points)) - truth, axis=1)
        assert found.refused == ""
        assert np.median(error) < 6, f"{scan.scan_id} misses by {np.median(error):.1f} mm"


def test_a_pose_is_a_rotation_times_a_scale(cohort: Any, prepared: Prepared) -> None:
    found = align(cohort.frames["scan03"].coarse(), prepared, CONFIG)
    rotation, log_scale = decompose(found.matrix)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose(rotation * np.exp(log_scale), found.matrix[:3, :3], atol=1e-6)
    np.testing.assert_allclose(log_scale, found.log_scale_zyx, atol=1e-5)


def test_a_scan_aligned_to_itself_stays_where_it_is(cohort: Any, prepared: Prepared) -> None:
    found = align(cohort.frames[cohort.scans[WIDE].scan_id].coarse(), prepared, CONFIG)
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=0.02)
    assert found.ncc > 0.999
    assert found.overlap == pytest.approx(1)
    assert found.common == pytest.approx(1, abs=0.02)


def test_an_empty_scan_is_refused(prepared: Prepared) -> None:
    voxels = np.full((30, 60, 60), -1000, np.int16)
    found = align(body_frame(voxels, np.diag([4.0, 4, 4, 1]), None, BodyConfig()).coarse(), prepared, CONFIG)
    assert "no body" in found.refused


def block_frame() -> Frame:
    """A slab of tissue, wide and flat, without lungs: nothing that a trunk could be."""
    _, y, x = np.meshgrid(np.arange(0, 200, 5), np.arange(-140, 140, 5), np.arange(-230, 230, 5), indexing="ij")
    hu = np.where((np.abs(y) < 35) & (np.abs(x) < 200), 40, -1000).astype(np.int16)
    to_lps = np.zeros((4, 4))
    to_lps[[2, 1, 0, 3], [0, 1, 2, 3]] = (5, 5, 5, 1)
    return body_frame(hu, to_lps, None, BodyConfig()).coarse()


def test_what_is_no_trunk_is_refused_with_the_gate_s_reason(prepared: Prepared) -> None:
    found = align(block_frame(), prepared, CONFIG)
    assert "stretched" in found.refused or "overlap" in found.refused


def test_the_gate_looks_at_stretch(cohort: Any, prepared: Prepared) -> None:
    frame = cohort.frames["scan04"].coarse()
    strict = CONFIG.model_copy(update={"largest_log_scale": 0.001})
    assert "stretched" in align(frame, prepared, strict).refused


def test_when_both_starts_fail_one_of_nine_is_tried(
    cohort: Any, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = np.eye(4)
    far[:3, 3] = (900.0, 0.0, 0.0)
    starts = []
    real_fit = pose.fit

    def counting_fit(scan: Any, target: Any, start: Any, config: Any) -> Any:
        starts.append(start[0, 3])
        return real_fit(scan, target, start, config)

    monkeypatch.setattr(pose, "fit", counting_fit)
    monkeypatch.setattr(pose, "fft_start", lambda *_: far)
    box = pose.box_start(cohort.frames["scan04"].coarse(), prepared.target)
    monkeypatch.setattr(pose, "box_start", lambda *_: far @ box)
    found = align(cohort.frames["scan04"].coarse(), prepared, CONFIG)
    assert len(starts) == 11
    np.testing.assert_allclose(
        np.sort(np.array(starts[2:]) - (far @ box)[0, 3]), [-200, -140, -80, -40, 0, 40, 80, 140, 200]
    )
    assert found.refused != "", "900 mm away nothing can be found"


def test_masked_ncc_agrees_with_correlating_every_overlap_by_hand() -> None:
    rng = np.random.default_rng(3)
    fixed_mask, moving_mask = (rng.random(s) < 0.8 for s in ((5, 4, 6), (4, 5, 3)))
    fixed = np.where(fixed_mask, rng.normal(size=(5, 4, 6)), 0)
    moving = np.where(moving_mask, rng.normal(size=(4, 5, 3)), 0)
    ncc, overlap = pose._masked_ncc(fixed, fixed_mask.astype(float), moving, moving_mask.astype(float))
    for shift in [(0, 0, 0), (1, -1, 2), (-1, 0, 3), (2, 1, 1)]:
        pairs = []
        for index in np.ndindex(*moving.shape):
            place = tuple(np.add(index, shift))
            inside = all(0 <= p < n for p, n in zip(place, fixed.shape, strict=True))
            if inside and fixed_mask[place] and moving_mask[index]:
                pairs.append((fixed[place], moving[index]))
        at = tuple(np.add(shift, np.array(moving.shape) - 1))
        assert overlap[at] == len(pairs)
        assert ncc[at] == pytest.approx(np.corrcoef(np.array(pairs).T)[0, 1], abs=1e-9)


def test_the_translation_start_undoes_a_shift(draw_scan: Callable[..., Any]) -> None:
    still = {"shift_mm": 0.0, "rotation_deg": 0.0, "log_scale": 0.0}
    scan = draw_scan("still", np.random.default_rng(1), **still)
    moved = scan.zyx_to_lps_mm.copy()
    moved[:3, 3] += (32.0, -16.0, 48.0)  # x, y, z; whole cells of the 16 mm search
    first, second = (body_frame(scan.voxels, a, None, BodyConfig()).coarse() for a in (scan.zyx_to_lps_mm, moved))
    start = fft_start(second, as_target(first), 0.35)
    assert start is not None
    np.testing.assert_allclose(start[:3, 3], (48.0, -16.0, 32.0), atol=1e-6)
