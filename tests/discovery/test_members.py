"""Members, the template search, scores and drops, against brute force and hand values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform.discovery import members
from semgen_platform.discovery.members import CROP_ZYX, UNMEASURED, Fit, MemberConfig

CONFIG = MemberConfig(members=3, validation_members=1)


@dataclass(frozen=True)
class Someone:
    scan_id: str
    patient_id: str
    split_group: str


PEOPLE = [Someone(f"s{n}", f"p{n // 2}", f"g{n // 4}") for n in range(12)]  # two scans a patient, two patients a group


def test_a_split_group_lies_on_one_side() -> None:
    sides = members.split_sides(PEOPLE, 0.34, seed=0)
    by_group = {g: {sides[s.scan_id] for s in PEOPLE if s.split_group == g} for g in ("g0", "g1", "g2")}
    assert sorted(map(sorted, by_group.values())) == [["train"], ["train"], ["val"]]


def test_sides_do_not_depend_on_the_order_of_the_scans() -> None:
    assert members.split_sides(PEOPLE, 0.34, 5) == members.split_sides(PEOPLE[::-1], 0.34, 5)


def test_the_nearest_are_chosen_once_a_patient_on_their_sides() -> None:
    sides = {s.scan_id: "val" if s.split_group == "g2" else "train" for s in PEOPLE}
    vectors = {s.scan_id: np.array([float(n)]) for n, s in enumerate(PEOPLE)}
    reference, train, held = members.choose_members(0, PEOPLE, sides, vectors, CONFIG, seed=1)
    patient = {s.scan_id: s.patient_id for s in PEOPLE}
    place = vectors[reference][0]
    assert train[0] == reference
    assert len({patient[s] for s in train}) == 3
    # oracle: the nearest scan of every other training patient, then the two nearest of those
    nearest: dict[str, tuple[float, str]] = {}
    for n, s in sorted(enumerate(PEOPLE), key=lambda pair: (abs(pair[0] - place), pair[1].scan_id)):
        if s.split_group != "g2" and s.patient_id != patient[reference]:
            nearest.setdefault(s.patient_id, (abs(n - place), s.scan_id))
    assert set(train[1:]) == {scan for _, scan in sorted(nearest.values())[:2]}
    assert [patient[s] for s in held] == ["p4"]


def test_ties_of_distance_go_by_id() -> None:
    people = [Someone(f"s{n}", f"p{n}", f"g{n}") for n in range(6)]
    vectors = {s.scan_id: np.zeros(2) for s in people}
    sides = {s.scan_id: "train" for s in people}
    reference, train, _ = members.choose_members(3, people[::-1], sides, vectors, CONFIG, seed=0)
    others = sorted(s.scan_id for s in people if s.scan_id != reference)
    assert train == (reference, *others[:2])


def windows_with(rng: np.random.Generator, count: int) -> NDArray[np.int16]:
    return rng.integers(0, 10_000, (count, *members.window_shape(CONFIG))).astype(np.int16)


def test_the_search_agrees_with_correlating_every_shift_by_hand() -> None:
    rng = np.random.default_rng(0)
    windows = windows_with(rng, 3)
    templates = members.normalised(rng.random((3, int(np.prod(CROP_ZYX)))))
    shifts, ncc = members.search(windows, templates, CONFIG)
    for window, template, shift, value in zip(windows, templates, shifts, ncc, strict=True):
        worth = {}
        for place in np.ndindex(7, 7, 7):
            box = tuple(slice(p, p + c) for p, c in zip(place, CROP_ZYX, strict=True))
            away = (np.array(place) - 3) * 4.0
            r = np.corrcoef(window[box].ravel().astype(float), template)[0, 1]
            worth[tuple(away)] = (r - 0.1 * (away**2).sum() / 144, r)
        best = max(worth, key=lambda s: worth[s][0])
        assert tuple(shift) == best
        assert value == pytest.approx(worth[best][1], abs=2e-6)


def test_a_crop_that_lies_beside_its_pose_is_found() -> None:
    rng = np.random.default_rng(1)
    windows = windows_with(rng, 1)
    planted = np.array([[8.0, -4.0, 12.0]])
    template = members.normalised(members.crops_at(windows, planted, CONFIG))
    shifts, ncc = members.search(windows, template, CONFIG)
    np.testing.assert_array_equal(shifts, planted)
    assert ncc[0] == pytest.approx(1)


def test_the_penalty_keeps_a_crop_that_fits_nearly_as_well_at_home() -> None:
    shape = members.window_shape(CONFIG)
    wave = np.sin(np.arange(shape[0]) * 2 * np.pi / 3)  # a period of 12 mm along z: three shifts fit equally
    window = np.broadcast_to(5000 + 4000 * wave[:, None, None], shape).astype(np.int16)[None]
    template = members.normalised(members.crops_at(window, np.zeros((1, 3)), CONFIG))
    shifts, _ = members.search(window, template, CONFIG)
    np.testing.assert_array_equal(shifts, [[0, 0, 0]])


def test_what_the_scanner_did_not_see_is_never_taken_in() -> None:
    rng = np.random.default_rng(2)
    windows = windows_with(rng, 2)
    planted = np.array([[12.0, 0.0, 0.0]])
    template = members.normalised(members.crops_at(windows[:1], planted, CONFIG))
    windows[0, -1] = UNMEASURED  # the last slice, which only a shift of 12 mm up takes in
    windows[1] = UNMEASURED
    shifts, ncc = members.search(windows, np.concatenate([template, template]), CONFIG)
    assert shifts[0, 0] < 12
    assert ncc[1] == -1
    np.testing.assert_array_equal(shifts[1], 0)


def test_the_best_other_template_is_not_ones_own() -> None:
    templates = members.normalised(np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [1, 0.9, 0, 0]]))
    crops = templates[[0, 1]]
    expected = [np.corrcoef(templates[0], templates[2])[0, 1], np.corrcoef(templates[1], templates[2])[0, 1]]
    np.testing.assert_allclose(members.best_other(crops, [0, 1], templates), expected, atol=1e-6)


def test_a_member_is_dropped_only_if_it_is_far_below_and_looks_like_another_pattern() -> None:
    good = {f"g{n}": Fit((0, 0, 0), 0.90 + 0.01 * (n % 3), 0.5) for n in range(9)}
    low_and_alike = Fit((0, 0, 0), 0.60, 0.58)
    low_but_itself = Fit((0, 0, 0), 0.60, 0.30)
    fits = {**good, "alike": low_and_alike, "itself": low_but_itself}
    reasons = members.drop_reasons(fits, CONFIG)
    assert list(reasons) == ["alike"]
    assert "0.600" in reasons["alike"]
    assert "0.580" in reasons["alike"]


def test_the_best_half_is_rounded_up_and_ties_go_by_id() -> None:
    assert members.best_half({"a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1, "e": 0.5}) == {"a", "b", "c"}


def test_jitter_is_bounded_fixed_by_its_key_and_absent_from_base_rows() -> None:
    draws = np.array([members.jitter_zyx_mm(0, 1, f"s{n}", 1.25, 1, 6.0) for n in range(400)])
    assert np.abs(draws).max() <= 6
    assert np.abs(draws.mean(axis=0)).max() < 0.6  # uniform: sd 3.46, of 400 draws 0.17
    assert draws.std() == pytest.approx(12 / np.sqrt(12), rel=0.05)
    np.testing.assert_array_equal(draws[7], members.jitter_zyx_mm(0, 1, "s7", 1.25, 1, 6.0))
    assert not (draws[7] == members.jitter_zyx_mm(1, 1, "s7", 1.25, 1, 6.0)).any()
    np.testing.assert_array_equal(members.jitter_zyx_mm(0, 1, "s7", 1.0, 0, 6.0), 0)
