"""The recipe `published`: crops at one voxel coordinate in the scans nearest by embedding, as Haghighi et al. 2020
released it.

METHOD.md 5.1. Its constants are voxels of 512x512 scans; a cohort of another size sets `scale_xy` and `scale_z`. The
faults of 5.2 are kept, since they are what the recipe is compared for (voxel coordinates 1, unscored members 2,
overlapping patterns 5, random references 6, lung bias 7, a burnt reference 10, drifting scales 14), but for those that
crash or corrupt: HU are tested as HU (8, 9), short scans are passed over (11), nothing is lost on saving (12, 13), rows
instead of copies (15), every draw has its stream (16), sides go by split group (18). The encoder is the one of 5b step
0 (3, 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from semgen_platform import ids
from semgen_platform.config import Config
from semgen_platform.discovery.atlas import Subject
from semgen_platform.discovery.members import TRAIN, VALIDATION, split_sides
from semgen_platform.discovery.resampling import FloatArray, Shape
from semgen_platform.discovery.rows import BASE_SHAPE_ZYX, DECIMALS, Row, member_row, sorted_members
from semgen_platform.errors import InputError

REVISION = 1
"""Raised by hand whenever the same configuration would give other rows; part of a discovery's id."""

ReadVoxels = Callable[[str], NDArray[Any]]
"""Voxels (z, y, x) in HU of a scan id at its own spacing."""


class GridSubject(Subject, Protocol):
    """A subject with its voxel grid, which this recipe works on."""

    @property
    def shape_zyx(self) -> Shape: ...
    @property
    def zyx_to_lps_mm(self) -> FloatArray: ...


class PublishedConfig(Config):
    """Constants of METHOD.md 5.1, in voxels of the published matrix of 512."""

    seed: int = 0

    patterns: int = 200
    """Wanted number C of patterns."""

    members: int = 200
    """Training members K, the reference among them."""

    validation_members: int = 30

    validation_share: float = 0.13
    """Share of the split groups on the validation side; the published code left the split to the user's folders."""

    scale_xy: float = 1.0
    """Factor on all lengths in plane; 0.28 suits a matrix of 144."""

    scale_z: float = 1.0
    """Factor on all lengths along z; 0.375 suits slices of 4 mm."""

    crop_zyx: Shape = (32, 64, 64)

    border_zyx: Shape = (30, 100, 100)
    """Voxels at the scan's edges where no corner is drawn."""

    least_distance: float = 5.0
    """Voxels between the corners of two patterns."""

    tissue_hu: float = -150.0

    most_tissue: float = 0.15
    """Largest share of tissue in the reference's crop."""

    tries: int = 200
    """Draws on one reference."""

    patterns_per_reference: int = 1
    """1 as published; a cohort that must give more patterns than it has scans goes through its references again."""

    side_range: tuple[int, int] = (50, 79)
    """Sides in plane of the crops of resolutions 2 and 3."""

    corner_shift: tuple[int, int] = (-10, 9)
    """Shift of their corner in y and x."""

    def scaled(self, length_zyx: Sequence[float]) -> Shape:
        """Lengths in the cohort's voxels, at least 1."""
        z, y, x = (
            max(1, round(n * s)) for n, s in zip(length_zyx, (self.scale_z, self.scale_xy, self.scale_xy), strict=True)
        )
        return z, y, x


@dataclass(frozen=True)
class Anchor:
    """One pattern: the corner of its crop as a voxel index, drawn on a reference."""

    reference: str
    corner_zyx: Shape


@dataclass(frozen=True)
class Published:
    """A discovery: rows for the tables patterns and members, and sentences about what fell short."""

    patterns: list[Row]
    members: list[Row]
    notes: list[str]


def discover(
    discovery_id: str, subjects: Sequence[GridSubject], vectors: Mapping[str, NDArray[Any]], read_voxels: ReadVoxels,
    config: PublishedConfig,
) -> Published:  # fmt: skip
    """Patterns in the scans of `subjects`; `vectors` holds the encoder's vector of each scan id.

    Raises InputError if no reference gives an anchor.
    """
    by_id = {s.scan_id: s for s in subjects}
    sides = split_sides(subjects, config.validation_share, config.seed)
    anchors = draw_anchors([s for s in subjects if sides[s.scan_id] == TRAIN], read_voxels, config)
    if not anchors:
        raise InputError(_no_anchor(subjects, config))
    patterns, rows = [], []
    for number, anchor in enumerate(anchors):
        nearest = _nearest_that_hold(anchor, subjects, vectors, config)
        chosen = [(s, side) for side, count in ((TRAIN, config.members), (VALIDATION, config.validation_members))
                  for s in [n for n in nearest if sides[n] == side][:count]]  # fmt: skip
        for scan_id, side in chosen:
            rows += _rows(discovery_id, number, anchor, by_id[scan_id], side, config)
        kept = sum(side == TRAIN for _, side in chosen)
        patterns.append(_pattern_row(discovery_id, number, anchor, by_id[anchor.reference], kept, config))
    notes = []
    if len(anchors) < config.patterns:
        notes.append(
            f"{len(anchors)} of {config.patterns} patterns: the references are used up; raise patterns_per_reference"
        )
    return Published(patterns, sorted_members(rows), notes)


def draw_anchors(train: Sequence[GridSubject], read_voxels: ReadVoxels, config: PublishedConfig) -> list[Anchor]:
    """Anchors on references in random order, each reference used at most `patterns_per_reference` times."""
    ordered = sorted(train, key=lambda s: s.scan_id)
    anchors: list[Anchor] = []
    for turn in range(config.patterns_per_reference):
        for place in ids.uniform_stream(config.seed, "published", "references", turn).permutation(len(ordered)):
            if len(anchors) == config.patterns:
                return anchors
            anchor = _draw_on(ordered[int(place)], turn, anchors, read_voxels, config)
            anchors += [anchor] if anchor else []
    return anchors


def _draw_on(
    reference: GridSubject, turn: int, earlier: Sequence[Anchor], read_voxels: ReadVoxels, config: PublishedConfig
) -> Anchor | None:
    """An acceptable anchor on a reference, or None: too short, too near an earlier one (fault 10), too much tissue."""
    crop, border = config.scaled(config.crop_zyx), config.scaled(config.border_zyx)
    spare = (config.scaled((3, 1, 1))[0], 0, 0)  # the published z range keeps three slices more
    last = [n - c - s - 1 - b for n, c, s, b in zip(reference.shape_zyx, crop, spare, border, strict=True)]
    if any(high < low for low, high in zip(border, last, strict=True)):
        return None
    voxels = read_voxels(reference.scan_id)
    rng = ids.uniform_stream(config.seed, "published", "anchor", reference.scan_id, turn)
    least = config.least_distance * config.scale_xy
    for _ in range(config.tries):
        z, y, x = (int(v) for v in rng.integers(border, np.array(last) + 1))
        if any(np.linalg.norm(np.subtract(a.corner_zyx, (z, y, x))) < least for a in earlier):
            return None
        box = voxels[z : z + crop[0] + 1, y : y + crop[1], x : x + crop[2]]  # and the slice above
        if tissue_weights(box, config.tissue_hu)[:-1].sum() <= config.most_tissue * np.prod(crop):
            return Anchor(reference.scan_id, (z, y, x))
    return None


def tissue_weights(voxels_ZYX: NDArray[Any], tissue_hu: float) -> NDArray[np.float32]:
    """1 for tissue, 0.5 where only the next slice is tissue, else 0."""
    tissue = voxels_ZYX > tissue_hu
    above = np.concatenate([tissue[1:], np.zeros_like(tissue[:1])])
    return np.where(tissue, np.float32(1), np.where(above, np.float32(0.5), np.float32(0)))


def _no_anchor(subjects: Sequence[GridSubject], config: PublishedConfig) -> str:
    shape = np.median([s.shape_zyx for s in subjects], axis=0).astype(int).tolist()
    border, crop = list(config.scaled(config.border_zyx)), list(config.scaled(config.crop_zyx))
    return (
        f"no reference gives an anchor: scans of about {shape} voxels (z, y, x) with borders of {border} and crops of "
        f"{crop}; set scale_xy to about {shape[2] / 512:.2f} and scale_z to 1.5 over your slice spacing in mm"
    )


def _nearest_that_hold(
    anchor: Anchor, subjects: Sequence[GridSubject], vectors: Mapping[str, NDArray[Any]], config: PublishedConfig
) -> list[str]:
    """Scan ids whose volume holds the crop, the reference first, then by Euclidean distance, ties by id."""
    end = np.add(anchor.corner_zyx, config.scaled(config.crop_zyx))
    centre = vectors[anchor.reference].astype(np.float64)
    holding = [s.scan_id for s in subjects if (end <= s.shape_zyx).all()]
    distance = {s: round(float(np.sqrt(((vectors[s].astype(np.float64) - centre) ** 2).sum())), 9) for s in holding}
    return sorted(holding, key=lambda s: (s != anchor.reference, distance[s], s))


def _rows(
    discovery_id: str, number: int, anchor: Anchor, subject: GridSubject, side: str, config: PublishedConfig
) -> list[Row]:
    """The crops of resolutions 1, 2 and 3 in one member."""
    crop = config.scaled(config.crop_zyx)
    boxes = [(1.0, 0, anchor.corner_zyx, crop)]
    for resolution in (2, 3):
        rng = ids.uniform_stream(config.seed, "published", "resolution", number, subject.scan_id, resolution)
        side_xy = max(1, round(int(rng.integers(config.side_range[0], config.side_range[1] + 1)) * config.scale_xy))
        low, high = config.corner_shift
        y, x = (round(int(s) * config.scale_xy) for s in rng.integers(low, high + 1, 2))
        corner = (anchor.corner_zyx[0], anchor.corner_zyx[1] + y, anchor.corner_zyx[2] + x)
        boxes.append((round(side_xy / crop[2], DECIMALS), resolution - 1, corner, (crop[0], side_xy, side_xy)))
    return [
        member_row(
            discovery_id, number, subject.scan_id, subject.patient_id, side, voxel_box_matrix(subject, corner, shape),
            scale=scale, jitter=jitter, score=None,
        )
        for scale, jitter, corner, shape in boxes
    ]  # fmt: skip


def voxel_box_matrix(subject: GridSubject, corner_zyx: Shape, shape_zyx: Shape) -> FloatArray:
    """(4, 4) crop index of BASE_SHAPE_ZYX to LPS mm for a box of voxels; outer faces on outer faces."""
    ratio = np.array(shape_zyx) / np.array(BASE_SHAPE_ZYX)
    to_scan = np.diag([*ratio, 1.0])
    to_scan[:3, 3] = np.array(corner_zyx) + (ratio - 1) / 2
    return np.round(np.asarray(subject.zyx_to_lps_mm, dtype=np.float64) @ to_scan, DECIMALS)


def _pattern_row(
    discovery_id: str, number: int, anchor: Anchor, reference: GridSubject, kept: int, config: PublishedConfig
) -> Row:
    crop = config.scaled(config.crop_zyx)
    middle = np.array(anchor.corner_zyx) + (np.array(crop) - 1) / 2
    to_lps = np.asarray(reference.zyx_to_lps_mm, dtype=np.float64)
    box = np.array(crop) * np.linalg.norm(to_lps[:3, :3], axis=0)
    return {
        "discovery_id": discovery_id,
        "pattern": number,
        "reference_scan_id": anchor.reference,
        "centre_mm": np.round(to_lps[:3, :3] @ middle + to_lps[:3, 3], DECIMALS).tolist(),
        "box_zyx_mm": np.round(box, DECIMALS).tolist(),
        "shape_zyx": list(BASE_SHAPE_ZYX),
        "region": "",
        "kept": True,
        "weak": kept < config.members / 2,
        "members": kept,
        "score": None,
        "details": {"corner_zyx": list(anchor.corner_zyx), "crop_zyx": list(crop)},
    }
