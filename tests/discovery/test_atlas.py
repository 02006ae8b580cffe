"""How the group atlas is sampled, made, frozen and split into regions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from semgen_platform.discovery.atlas import AtlasConfig, AtlasWork, build, build_regions, sample_scans, starting_scan
from semgen_platform.discovery.atlas import in_one_process as here
from semgen_platform.discovery.body_frame import BodyConfig, body_frame
from semgen_platform.discovery.pose import PoseConfig
from semgen_platform.errors import InputError

QUICK = PoseConfig(points=3000)


def in_chunks_of_two(label: str, work: Callable[[list[str]], Any], scan_ids: Sequence[str]) -> list[Any]:
    return [work(list(scan_ids[n : n + 2])) for n in range(0, len(scan_ids), 2)]


def work_on(cohort: Any, spread: Any = here, **numbers: Any) -> AtlasWork:
    return AtlasWork(cohort.read_frame, spread, AtlasConfig(**numbers), QUICK, BodyConfig())


def test_the_sample_takes_a_patient_once(cohort: Any) -> None:
    chosen = sample_scans(cohort.scans, cohort.vectors, AtlasConfig(), seed=0)
    patients = [cohort.scan(s).patient_id for s in chosen]
    assert len(set(patients)) == len(patients) == 11  # twelve scans, two of one patient


def test_the_sample_is_spread_over_the_clusters_of_the_embedding(cohort: Any) -> None:
    vectors = {s.scan_id: np.array([0.0 if n < 9 else 100.0]) for n, s in enumerate(cohort.scans)}
    chosen = sample_scans(cohort.scans, vectors, AtlasConfig(most_scans=4, clusters=2), seed=0)
    assert sum(vectors[s][0] > 50 for s in chosen) == 2


def test_the_sample_does_not_depend_on_the_order_of_the_scans(cohort: Any) -> None:
    config = AtlasConfig(most_scans=6)
    forward = sample_scans(cohort.scans, cohort.vectors, config, seed=0)
    assert forward == sample_scans(cohort.scans[::-1], cohort.vectors, config, seed=0)


def test_the_atlas_starts_from_the_highest_body_near_the_medoid() -> None:
    vectors = {"a": np.array([0.0]), "b": np.array([0.1]), "c": np.array([-0.1]), "d": np.array([9.0])}
    heights = {"a": 300.0, "b": 400.0, "c": 350.0, "d": 900.0}
    assert starting_scan(list("abcd"), heights, vectors) == "b"


def test_the_atlas_is_the_same_for_any_chunks_and_lies_where_its_scans_agree(cohort: Any) -> None:
    scans = sorted(s.scan_id for s in cohort.scans[:6])
    atlas, refused = build(scans, cohort.vectors, work_on(cohort, rounds=2))
    again, _ = build(scans, cohort.vectors, work_on(cohort, in_chunks_of_two, rounds=2))
    assert refused == []
    assert atlas.digest == again.digest
    np.testing.assert_array_equal(atlas.target.intensity_ZYX, again.target.intensity_ZYX)
    assert atlas.seen_by_ZYX.max() == 6
    assert (atlas.seen_by_ZYX[atlas.target.seen_ZYX] >= 4).all()
    assert atlas.target.lung_bottom_mm is not None


def test_too_few_fitting_scans_are_no_atlas(cohort: Any) -> None:
    with pytest.raises(InputError, match="only 3 of 3 scans fit one atlas and 4 are needed"):
        build(["scan00", "scan01", "scan02"], cohort.vectors, work_on(cohort, rounds=1))


@pytest.mark.slow
def test_disjoint_body_regions_get_an_atlas_each(cohort: Any) -> None:
    legs = {f"legs{n}": body_frame(*leg_scan(n), None, BodyConfig()) for n in range(5)}
    frames = {**{s: cohort.frames[s] for s in ("scan01", "scan04", "scan07", "scan10", "scan00")}, **legs}
    vectors = {s: np.array([float(s.startswith("legs")), n / 100]) for n, s in enumerate(sorted(frames))}
    work = AtlasWork(frames.__getitem__, here, AtlasConfig(rounds=2, least_region=5), QUICK, BodyConfig())
    atlases = build_regions(sorted(frames), vectors, work)
    assert sorted(map(len, (a.scans for a in atlases))) == [5, 5]
    assert {s.startswith("legs") for s in atlases[0].scans} != {s.startswith("legs") for s in atlases[1].scans}


def leg_scan(number: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Two tapering legs that touch, with bones; nothing like a trunk. 5 mm voxels."""
    z, y, x = np.meshgrid(np.arange(0, 450, 5), np.arange(-140, 140, 5), np.arange(-200, 200, 5), indexing="ij")
    radius = 50 + 0.05 * z + number
    hu = np.full(z.shape, -1000.0)
    for side in (-1, 1):
        away = np.hypot(x - side * 52, y + 10)
        hu[away < radius] = 45
        hu[away < 12] = 700
        hu[(away < 26) & (np.abs(z - 215) < 35)] = 500
    to_lps = np.zeros((4, 4))
    to_lps[[2, 1, 0, 3], [0, 1, 2, 3]] = (5, 5, 5, 1)
    to_lps[:3, 3] = (6 * number - 200, -140, 7 * number)
    return hu + np.random.default_rng(number).normal(0, 20, hu.shape), to_lps
