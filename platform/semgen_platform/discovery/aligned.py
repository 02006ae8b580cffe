"""The recipe `aligned`: one pose a scan to a frozen atlas, anchors that cover it, refined and scored members, rows.

METHOD.md 5b, steps 2 to 9, without the replacement of weak patterns. The work on scans is handed to a `Spread`; what
comes out is a function of scans, vectors, frames, configuration and seed alone. Everything between scans is a sum of
integers or a choice by id, so chunks and workers leave no trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.config import Config
from semgen_platform.discovery import anchors, members
from semgen_platform.discovery.anchors import AnchorConfig, Candidates, Choice
from semgen_platform.discovery.atlas import (
    Atlas,
    AtlasConfig,
    AtlasWork,
    ReadFrame,
    Spread,
    Subject,
    build_regions,
    sample_scans,
)
from semgen_platform.discovery.body_frame import BodyConfig
from semgen_platform.discovery.members import Fit, MemberConfig, Pattern
from semgen_platform.discovery.pose import Pose, PoseConfig, Prepared, align, prepare
from semgen_platform.discovery.resampling import BoolArray, FloatArray
from semgen_platform.discovery.rows import (
    BASE_BOX_ZYX_MM,
    BASE_SHAPE_ZYX,
    DECIMALS,
    Row,
    box_matrix,
    member_row,
    sorted_members,
)
from semgen_platform.errors import InputError

REVISION = 1
"""Raised by hand whenever the same configuration would give other rows; part of a discovery's id."""

Vectors = Mapping[str, NDArray[Any]]


class AlignedConfig(Config):
    """Configuration of the recipe `aligned`, one part for each step."""

    seed: int = 0
    body: BodyConfig = BodyConfig()
    atlas: AtlasConfig = AtlasConfig()
    pose: PoseConfig = PoseConfig()
    anchors: AnchorConfig = AnchorConfig()
    members: MemberConfig = MemberConfig()


@dataclass(frozen=True, eq=False)
class Region:
    """One body region: its frozen atlas, what alignment needs of it, and where anchors could lie."""

    atlas: Atlas
    prepared: Prepared
    candidates: Candidates


@dataclass(frozen=True, eq=False)
class Placed:
    """One scan in its region, or in region -1 if refused: the pose, and which of the region's candidates it shows."""

    region: int
    pose: Pose
    shows_A: BoolArray


@dataclass(frozen=True, eq=False)
class Found:
    """A discovery: rows of poses, patterns and members, sentences on what fell short (notes), facts and atlases."""

    poses: list[Row]
    patterns: list[Row]
    members: list[Row]
    notes: list[str]
    details: dict[str, Any]
    atlases: list[Atlas]


def discover(
    discovery_id: str, subjects: Sequence[Subject], vectors: Vectors, read_frame: ReadFrame, spread: Spread,
    config: AlignedConfig,
) -> Found:  # fmt: skip
    """Patterns in the scans of `subjects`; `vectors` holds the encoder's vector of each scan id.

    Raises InputError if the scans fit no atlas or show no common place.
    """
    regions = make_regions(subjects, vectors, read_frame, spread, config)
    placed = place_scans(subjects, regions, read_frame, spread, config)
    patterns, choices = choose_patterns(subjects, vectors, regions, placed, config)
    fits = refine(patterns, placed, read_frame, spread, config.members)
    return to_found(discovery_id, subjects, regions, placed, patterns, choices, fits, config)


def make_regions(
    subjects: Sequence[Subject], vectors: Vectors, read_frame: ReadFrame, spread: Spread, config: AlignedConfig
) -> list[Region]:
    """One frozen atlas for each body region that the sample shows (step 2), ready for alignment."""
    sample = sample_scans(subjects, vectors, config.atlas, config.seed)
    atlases = build_regions(sample, vectors, AtlasWork(read_frame, spread, config.atlas, config.pose, config.body))
    return [Region(a, prepare(a.target, config.pose), anchors.candidates(a, config.anchors)) for a in atlases]


def place_scans(
    subjects: Sequence[Subject], regions: Sequence[Region], read_frame: ReadFrame, spread: Spread, config: AlignedConfig
) -> dict[str, Placed]:
    """Every scan in the region that it fits best, or refused (step 3 and the availability of step 4)."""
    ordered = sorted(s.scan_id for s in subjects)
    return _joined(spread("poses", partial(_place_chunk, read_frame, list(regions), config), ordered))


def _place_chunk(
    read_frame: ReadFrame, regions: list[Region], config: AlignedConfig, scan_ids: Sequence[str]
) -> dict[str, Placed]:
    out = {}
    for scan_id in scan_ids:
        frame = read_frame(scan_id)
        coarse = frame.coarse()
        poses = [align(coarse, region.prepared, config.pose) for region in regions]
        best = max(range(len(poses)), key=lambda r: (not poses[r].refused, poses[r].ncc))
        if poses[best].refused:
            out[scan_id] = Placed(-1, poses[best], np.zeros(0, bool))
            continue
        centres = regions[best].candidates.centres_A3
        shows = anchors.available(frame, poses[best], centres, config.anchors.margin_mm)
        out[scan_id] = Placed(best, poses[best], shows)
    return out


def choose_patterns(
    subjects: Sequence[Subject], vectors: Vectors, regions: Sequence[Region], placed: Mapping[str, Placed],
    config: AlignedConfig,
) -> tuple[list[Pattern], list[Choice]]:  # fmt: skip
    """Anchors of every region, shared out by its scans, and their members (steps 4 and 5).

    Raises InputError if there is no place at all.
    """
    sides = members.split_sides(subjects, config.members.validation_share, config.seed)
    accepted = max(1, sum(p.region >= 0 for p in placed.values()))
    patterns: list[Pattern] = []
    choices = []
    for number, region in enumerate(regions):
        inside = [s for s in subjects if placed[s.scan_id].region == number]
        wanted = round(config.anchors.patterns * len(inside) / accepted)
        train = [s for s in inside if sides[s.scan_id] == members.TRAIN]
        shown_by = _patients_showing(train, placed, len(region.candidates.centres_A3))
        patients = len({s.patient_id for s in train})
        choice = anchors.choose(
            region.atlas, region.candidates, shown_by, patients, config.members.members, wanted, config.anchors
        )
        choices.append(choice)
        for place in choice.chosen:
            showing = [s for s in inside if placed[s.scan_id].shows_A[place]]
            chosen = members.choose_members(len(patterns), showing, sides, vectors, config.members, config.seed)
            z, y, x = np.round(region.candidates.centres_A3[place], DECIMALS).tolist()
            patterns.append(Pattern(len(patterns), number, (z, y, x), *chosen))
    if not patterns:
        raise InputError(f"no pattern can be placed: {choices[0].shortfall}; add scans or lower members.members")
    return patterns, choices


def _patients_showing(subjects: Sequence[Subject], placed: Mapping[str, Placed], count: int) -> NDArray[np.int64]:
    """(A,) number of patients with a scan that shows each candidate."""
    shows: dict[str, BoolArray] = {}
    for subject in subjects:
        here = placed[subject.scan_id].shows_A
        shows[subject.patient_id] = shows[subject.patient_id] | here if subject.patient_id in shows else here
    total: NDArray[np.int64] = np.sum([*shows.values(), np.zeros(count, bool)], axis=0, dtype=np.int64)
    return total


@dataclass(frozen=True, eq=False)
class _Refinement:
    """What the passes over the scans share; travels to the workers whole.

    of_scan : numbers of the patterns that a scan is a member of.
    """

    centres_P3: FloatArray
    of_scan: Mapping[str, list[int]]
    poses: Mapping[str, Pose]
    read_frame: ReadFrame
    config: MemberConfig

    def windows(self, scan_id: str, numbers: Sequence[int]) -> members.WindowArray:
        centres = self.centres_P3[list(numbers)]
        return members.cut_windows(self.read_frame(scan_id), self.poses[scan_id], centres, self.config)


def refine(
    patterns: Sequence[Pattern],
    placed: Mapping[str, Placed],
    read_frame: ReadFrame,
    spread: Spread,
    config: MemberConfig,
) -> dict[tuple[int, str], Fit]:
    """Where each pattern lies in each of its members, by (pattern, scan id) (steps 6 and 7).

    The first template is the mean at the poses' places, the second the mean of the best half where the first found
    them. Only training members enter a template.
    """
    of_scan: dict[str, list[int]] = {}
    for pattern in patterns:
        for scan_id in pattern.scans:
            of_scan.setdefault(scan_id, []).append(pattern.number)
    scan_ids = sorted(of_scan)
    poses = {s: placed[s].pose for s in scan_ids}
    work = _Refinement(np.array([p.centre_zyx_mm for p in patterns]), of_scan, poses, read_frame, config)
    start = {(p.number, s): Fit((0.0, 0.0, 0.0), 0.0) for p in patterns for s in p.train}
    first = _templates(work, start, spread, "templates", scan_ids)
    fits = _joined(spread("search", partial(_search_chunk, work, first), scan_ids))
    second = _templates(work, _best_half(patterns, fits), spread, "templates of the best half", scan_ids)
    return _joined(spread("search again and score", partial(_search_chunk, work, second), scan_ids))


def _best_half(patterns: Sequence[Pattern], fits: Mapping[tuple[int, str], Fit]) -> dict[tuple[int, str], Fit]:
    kept = {}
    for pattern in patterns:
        best = members.best_half({s: fits[pattern.number, s].ncc for s in pattern.train})
        kept.update({(pattern.number, s): fits[pattern.number, s] for s in sorted(best)})
    return kept


def _templates(
    work: _Refinement, used: Mapping[tuple[int, str], Fit], spread: Spread, label: str, scan_ids: Sequence[str]
) -> FloatArray:
    """(P, V) normalised mean crops of the used members at their shifts."""
    sums = spread(label, partial(_sum_chunk, work, used), scan_ids)
    total = np.sum(sums, axis=0)
    return members.normalised(total)


def _sum_chunk(work: _Refinement, used: Mapping[tuple[int, str], Fit], scan_ids: Sequence[str]) -> NDArray[np.int64]:
    """(P, V) sums of crops over some scans; a mean's scale does not matter, since templates are normalised."""
    total = np.zeros((len(work.centres_P3), int(np.prod(members.CROP_ZYX))), np.int64)
    for scan_id in scan_ids:
        numbers = [n for n in work.of_scan[scan_id] if (n, scan_id) in used]
        shifts = np.array([used[n, scan_id].shift_zyx_mm for n in numbers]).reshape(-1, 3)
        total[numbers] += members.crops_at(work.windows(scan_id, numbers), shifts, work.config)
    return total


def _search_chunk(work: _Refinement, templates_PV: FloatArray, scan_ids: Sequence[str]) -> dict[tuple[int, str], Fit]:
    out = {}
    for scan_id in scan_ids:
        numbers = work.of_scan[scan_id]
        windows = work.windows(scan_id, numbers)
        shifts, ncc = members.search(windows, templates_PV[numbers], work.config)
        crops = members.normalised(members.crops_at(windows, shifts, work.config))
        other = members.best_other(crops, numbers, templates_PV)
        for n, shift, own, rival in zip(numbers, shifts.tolist(), ncc.tolist(), other.tolist(), strict=True):
            out[n, scan_id] = Fit((shift[0], shift[1], shift[2]), own, rival)
    return out


def to_found(
    discovery_id: str, subjects: Sequence[Subject], regions: Sequence[Region], placed: Mapping[str, Placed],
    patterns: Sequence[Pattern], choices: Sequence[Choice], fits: Mapping[tuple[int, str], Fit], config: AlignedConfig,
) -> Found:  # fmt: skip
    """Rows of the three tables, with dropped members marked (steps 7 and 8)."""
    patient = {s.scan_id: s.patient_id for s in subjects}
    pattern_rows, member_rows = [], []
    for pattern in patterns:
        own = {s: fits[pattern.number, s] for s in pattern.scans}
        dropped = members.drop_reasons(own, config.members)
        kept = [s for s in pattern.train if s not in dropped]
        weak = len(kept) < config.members.weak_share * config.members.members
        score = round(float(np.median([own[s].ncc for s in pattern.scans])), DECIMALS)
        pattern_rows.append(_pattern_row(discovery_id, pattern, len(kept), weak, score))
        for scan_id in pattern.scans:
            reason = dropped.get(scan_id, "")
            pose = placed[scan_id].pose
            member_rows += _rows_of_member(
                discovery_id, pattern, scan_id, patient[scan_id], pose, own[scan_id], reason, config
            )
    weak_ones = [r["pattern"] for r in pattern_rows if r["weak"]]
    refused = sum(p.region < 0 for p in placed.values())
    notes = [c.shortfall for c in choices if c.shortfall]
    notes += [f"{len(weak_ones)} weak patterns: {', '.join(map(str, weak_ones))}"] if weak_ones else []
    notes += [f"{refused} of {len(placed)} scans fit no atlas and were refused"] if refused else []
    details = {
        "atlases": [{"digest": r.atlas.digest, "start": r.atlas.start, "scans": len(r.atlas.scans)} for r in regions],
        "tissue_coverage": [c.coverage for c in choices],
        "refused_scans": refused,
        "dropped_members": sum(r["dropped"] for r in member_rows),
        "weak_patterns": weak_ones,
    }
    poses = [_pose_row(discovery_id, s, patient[s], placed[s]) for s in sorted(placed)]
    return Found(poses, pattern_rows, sorted_members(member_rows), notes, details, [r.atlas for r in regions])


def _rows_of_member(
    discovery_id: str, pattern: Pattern, scan_id: str, patient_id: str, pose: Pose, fit: Fit, reason: str,
    config: AlignedConfig,
) -> list[Row]:  # fmt: skip
    """The base row, and for a kept member one row for each scale and jitter."""
    split = members.TRAIN if scan_id in pattern.train else members.VALIDATION
    centre = np.array(pattern.centre_zyx_mm) + fit.shift_zyx_mm
    numbers = config.members
    variants = [(s, j) for s in numbers.scales for j in range(1, numbers.jitters + 1)] if not reason else []
    rows = []
    for scale, jitter in [(1.0, 0), *variants]:
        shift = members.jitter_zyx_mm(config.seed, pattern.number, scan_id, scale, jitter, numbers.jitter_mm)
        matrix = box_matrix(pose.matrix, centre + shift, scale)
        rows.append(
            member_row(
                discovery_id, pattern.number, scan_id, patient_id, split, matrix,
                scale=scale, jitter=jitter, score=fit.ncc, reason=reason,
            )
        )  # fmt: skip
    return rows


def _pattern_row(discovery_id: str, pattern: Pattern, kept: int, weak: bool, score: float) -> Row:
    return {
        "discovery_id": discovery_id,
        "pattern": pattern.number,
        "reference_scan_id": pattern.reference,
        "centre_mm": list(pattern.centre_zyx_mm[::-1]),
        "box_zyx_mm": list(BASE_BOX_ZYX_MM),
        "shape_zyx": list(BASE_SHAPE_ZYX),
        "region": str(pattern.region),
        "kept": True,
        "weak": weak,
        "members": kept,
        "score": score,
        "details": {"chosen_train": len(pattern.train), "chosen_validation": len(pattern.validation)},
    }


def _pose_row(discovery_id: str, scan_id: str, patient_id: str, placed: Placed) -> Row:
    pose = placed.pose
    return {
        "discovery_id": discovery_id,
        "scan_id": scan_id,
        "patient_id": patient_id,
        "matrix": np.round(pose.matrix[[2, 1, 0, 3]][:, [2, 1, 0, 3]], DECIMALS).reshape(-1).tolist(),
        "ncc": pose.ncc,
        "overlap": pose.overlap,
        "log_scale": list(pose.log_scale_zyx[::-1]),
        "refused": bool(pose.refused),
        "reason": pose.refused,
        "region": "" if placed.region < 0 else str(placed.region),
        "details": {"common": pose.common},
    }


def _joined(parts: Sequence[dict[Any, Any]]) -> dict[Any, Any]:
    return {key: value for part in parts for key, value in part.items()}
