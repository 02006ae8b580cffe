"""The table of METHOD.md 5b, "Measuring on labelled phantoms", on 32 phantoms of mixed coverage."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.discovery import aligned, members, published
from semgen_platform.discovery.aligned import AlignedConfig
from semgen_platform.discovery.anchors import AnchorConfig
from semgen_platform.discovery.atlas import in_one_process
from semgen_platform.discovery.audit import Truth, audit, audit_poses, random_centres
from semgen_platform.discovery.body_frame import BodyConfig, Frame, body_frame, encoder_input
from semgen_platform.discovery.members import MemberConfig
from semgen_platform.discovery.published import PublishedConfig
from semgen_platform.phantom.cohort import CohortConfig
from semgen_platform.phantom.patient import draw_patient
from semgen_platform.phantom.scanner import draw_protocol, scan_patient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SCANS = 32
ALIGNED = AlignedConfig(anchors=AnchorConfig(patterns=120), members=MemberConfig(members=15, validation_members=4))
PUBLISHED = PublishedConfig(
    patterns=120, members=15, validation_members=4, scale_xy=0.25, scale_z=0.375, patterns_per_reference=6
)


@dataclass(frozen=True, eq=False)
class Scan:
    scan_id: str
    patient_id: str
    split_group: str
    coverage: str
    voxels: NDArray[Any]
    zyx_to_lps_mm: NDArray[np.float64]

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        z, y, x = self.voxels.shape
        return z, y, x


class Phantoms:
    """A cohort in memory: scans, frames, truth; PCA of the encoder's input stands in for the encoder's vectors."""

    def __init__(self, config: CohortConfig) -> None:
        self.scans: list[Scan] = []
        self.frames: dict[str, Frame] = {}
        self.truth: dict[str, Truth] = {}
        inputs = []
        for number in range(SCANS):
            patient = draw_patient(config, config.seed, number)
            protocol = draw_protocol(config, patient, config.seed, exact=not config.pose_variation)
            made = scan_patient(patient, protocol)
            to_lps, padding = geometry.reverse_index_axes(made.volume.ijk_to_lps_mm), made.volume.padding_hu
            name = f"s{number:02d}"
            self.scans.append(Scan(name, name, name, protocol.coverage, made.volume.voxels, to_lps))
            self.frames[name] = body_frame(made.volume.voxels, to_lps, padding, BodyConfig())
            self.truth[name] = Truth(made.labels_ZYX, to_lps, made.body_xyz_mm, made.lattice_zyx_to_lps_mm)
            inputs.append(encoder_input(made.volume.voxels, to_lps, padding, (32, 24, 28), 16.0).ravel())
        centred = np.array(inputs) - np.mean(inputs, axis=0)
        left, strength, _ = np.linalg.svd(centred, full_matrices=False)
        self.vectors = {s.scan_id: v for s, v in zip(self.scans, left[:, :8] * strength[:8], strict=True)}

    def aligned(self) -> aligned.Found:
        return aligned.discover("d1", self.scans, self.vectors, self.frames.__getitem__, in_one_process, ALIGNED)

    def published(self) -> published.Published:
        voxels = {s.scan_id: s.voxels for s in self.scans}
        return published.discover("d2", self.scans, self.vectors, voxels.__getitem__, PUBLISHED)

    def measure(self, patterns: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
        wide = [s.scan_id for s in self.scans if s.coverage == "chest_abdomen"][:3]
        return audit(patterns, rows, self.truth.__getitem__, wide)


@pytest.fixture(scope="module")
def varied() -> Phantoms:
    return Phantoms(CohortConfig(patients=SCANS, matrix=128, slice_mm=(3.0, 5.0)))


@pytest.fixture(scope="module")
def still() -> Phantoms:
    """No variation of pose, and one voxel grid: what is left are shapes, breathing and coverage."""
    config = CohortConfig(
        patients=SCANS, matrix=128, slice_mm=(4.0, 4.0), field_of_view_mm=(400.0, 400.0), oblique_share=0.0,
        pose_variation=False,
    )  # fmt: skip
    return Phantoms(config)


@pytest.fixture(scope="module")
def found(varied: Phantoms) -> aligned.Found:
    return varied.aligned()


def test_aligned_patterns_are_pure_and_cover_the_body(varied: Phantoms, found: aligned.Found) -> None:
    measures = varied.measure(found.patterns, found.members)
    print(measures)
    assert measures["patterns"] >= 100
    assert measures["purity"] >= 0.9
    assert measures["centre_error_median_mm"] <= 6
    assert measures["label_coverage"] >= 0.55
    assert measures["tissue_coverage"] >= 0.33
    assert measures["overlap_max"] <= 0.25
    assert measures["fewest_kept"] >= 7.5
    assert (measures["repeated_patients"], measures["leaking_patients"]) == (0, 0)


def test_no_wrong_scan_is_accepted(varied: Phantoms, found: aligned.Found) -> None:
    measures = audit_poses(found.poses, found.patterns, varied.truth.__getitem__)
    print(measures)
    assert measures["wrong_accepted"] == 0
    assert measures["refused"] <= 1


def test_published_lies_between_random_centres_and_aligned(varied: Phantoms, found: aligned.Found) -> None:
    rows = varied.published()
    as_published = varied.measure(rows.patterns, rows.members)["purity"]
    moved = random_centres(rows.members, varied.truth.__getitem__, seed=0)
    at_random = varied.measure(rows.patterns, moved)["purity"]
    print(at_random, as_published)
    assert at_random < 0.05
    assert at_random + 0.05 < as_published < 0.5
    assert varied.measure(found.patterns, found.members)["purity"] > as_published + 0.4


def test_without_variation_of_pose_published_rises_and_aligned_does_not_fall(
    varied: Phantoms, still: Phantoms, found: aligned.Found
) -> None:
    rows, rows_still = varied.published(), still.published()
    rise = still.measure(rows_still.patterns, rows_still.members)["purity"]
    assert rise > varied.measure(rows.patterns, rows.members)["purity"] + 0.2
    found_still = still.aligned()
    kept = still.measure(found_still.patterns, found_still.members)["purity"]
    assert kept >= varied.measure(found.patterns, found.members)["purity"] - 0.02
    moved = random_centres(rows_still.members, still.truth.__getitem__, seed=0)
    assert still.measure(rows_still.patterns, moved)["purity"] < 0.05


def test_members_moved_by_30_to_60_mm_are_dropped(
    varied: Phantoms, found: aligned.Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_cut = members.cut_windows

    def moved_by(pose: Any, centre: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """A shift for one member in ten, drawn by its pose and place."""
        key = hashlib.sha256(pose.matrix.tobytes() + np.round(centre, 3).tobytes()).digest()
        rng = np.random.default_rng(list(key))
        if rng.random() > 0.1:
            return None
        direction = rng.normal(size=3)
        return direction / np.linalg.norm(direction) * rng.uniform(30, 60)

    def cut_moved(frame: Any, pose: Any, centres: NDArray[np.float64], config: Any) -> Any:
        shifts = [moved_by(pose, c) for c in centres]
        moved = np.array([np.zeros(3) if s is None else s for s in shifts]).reshape(-1, 3)  # no centre, no shift
        return true_cut(frame, pose, centres + moved, config)

    regions = aligned.make_regions(varied.scans, varied.vectors, varied.frames.__getitem__, in_one_process, ALIGNED)
    placed = aligned.place_scans(varied.scans, regions, varied.frames.__getitem__, in_one_process, ALIGNED)
    patterns, _ = aligned.choose_patterns(varied.scans, varied.vectors, regions, placed, ALIGNED)
    monkeypatch.setattr(members, "cut_windows", cut_moved)
    fits = aligned.refine(patterns, placed, varied.frames.__getitem__, in_one_process, ALIGNED.members)
    dropped, wrong = set(), set()
    for pattern in patterns:
        own = {s: fits[pattern.number, s] for s in pattern.scans}
        dropped |= {(pattern.number, s) for s in members.drop_reasons(own, ALIGNED.members)}
        centre = np.array(pattern.centre_zyx_mm)
        wrong |= {(pattern.number, s) for s in pattern.scans if moved_by(placed[s].pose, centre) is not None}
    precision, recall = len(dropped & wrong) / len(dropped), len(dropped & wrong) / len(wrong)
    print(precision, recall)
    # METHOD.md aims at 0.80 and 0.75; with 19 members a pattern the deviation itself is uncertain
    assert precision >= 0.75
    assert recall >= 0.65
