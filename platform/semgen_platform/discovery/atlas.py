"""The group atlas: the mean of a sample of scans in one frame, made in three rounds, then frozen under a digest.

Step 2 of METHOD.md 5b. Later scans are aligned to it and never change it. Sums are kept in integers, so that the mean
does not depend on the order of the scans.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from semgen_platform import ids
from semgen_platform.config import Config
from semgen_platform.discovery.body_frame import CLIP_HU, BodyConfig, Frame, lung_ends_mm
from semgen_platform.discovery.pose import (
    Pose,
    PoseConfig,
    Prepared,
    Target,
    align,
    as_target,
    intensity,
    mapped,
    prepare,
)
from semgen_platform.discovery.resampling import FloatArray, Grid, field, sample
from semgen_platform.errors import InputError

UNITS = 10_000  # intensity 1 as an integer: 0.14 HU steps, sums of a million scans fit in 64 bits
MARGIN_MM = (160.0, 48.0, 48.0)
"""The first grid reaches this far beyond the starting scan along z, y, x, for what other scans show beyond it."""

T = TypeVar("T")

ReadFrame = Callable[[str], Frame]
"""The 4 mm frame of a scan id; called in the process that needs it."""


class Spread(Protocol):
    """Splits scan ids into chunks, applies `work` to each chunk wherever it likes, and returns the results in order.

    What is made of the results does not depend on the chunks. `label` names the stage for people who watch.
    """

    def __call__(self, label: str, work: Callable[[list[str]], T], scan_ids: Sequence[str]) -> list[T]: ...


def in_one_process(label: str, work: Callable[[list[str]], T], scan_ids: Sequence[str]) -> list[T]:
    """The plainest Spread: one chunk, here and now."""
    return [work(list(scan_ids))]


class Subject(Protocol):
    """What discovery must know of a scan beside its voxels; the lake's `Scan` is one."""

    @property
    def scan_id(self) -> str: ...
    @property
    def patient_id(self) -> str: ...
    @property
    def split_group(self) -> str: ...


class AtlasConfig(Config):
    """Numbers of METHOD.md 5b step 2."""

    most_scans: int = 128
    """Scans sampled for the atlas, one a patient."""

    clusters: int = 4
    """Kinds of scans (clusters of the embedding) among which the sample is spread evenly."""

    rounds: int = 3
    """Times that all are aligned and averaged."""

    ncc_margin: float = 0.1
    """A scan enters the mean if its NCC is at least the median minus this."""

    least_seen: int = 4
    """A cell is kept if at least so many scans show it ..."""

    least_seen_share: float = 0.04
    """... and at least this share of the scans in the mean."""

    least_region: int = 8
    """So many scans that do not fit an atlas are given one of their own (a disjoint body region); fewer are refused."""


@dataclass(frozen=True, eq=False)
class Atlas:
    """A frozen atlas: what to align to, how many scans show each cell, the scans it was made of, and a digest."""

    target: Target
    seen_by_ZYX: NDArray[np.int32]
    start: str
    scans: tuple[str, ...]
    digest: str


def sample_scans(
    subjects: Sequence[Subject], vectors: Mapping[str, NDArray[Any]], config: AtlasConfig, seed: int
) -> list[str]:
    """Scan ids for the atlas: one a patient, by digest of the patient, taken in turn from the embedding's clusters."""
    first: dict[str, Subject] = {}
    for subject in sorted(subjects, key=lambda s: ids.digest_of([seed, s.patient_id, s.scan_id])):
        first.setdefault(subject.patient_id, subject)
    queue = list(first.values())  # in the order of their digests
    cluster = _clusters(np.stack([vectors[s.scan_id] for s in queue]), config.clusters)
    rank: dict[int, int] = {}
    order = []
    for position, subject in enumerate(queue):
        rank[cluster[position]] = rank.get(cluster[position], 0) + 1
        order.append((rank[cluster[position]], position, subject.scan_id))
    return sorted(scan_id for _, _, scan_id in sorted(order)[: config.most_scans])


def _clusters(vectors_ND: NDArray[Any], count: int) -> list[int]:
    """Cluster of each vector: its nearest seed. The first is the medoid, each next the farthest from those before."""
    vectors = vectors_ND.astype(np.float64)
    seeds = [medoid(vectors)]
    nearest = _squared_distance(vectors, vectors[seeds[0]])
    member = np.zeros(len(vectors), dtype=int)
    while len(seeds) < min(count, len(vectors)) and nearest.max() > 0:
        seeds.append(int(nearest.argmax()))
        distance = _squared_distance(vectors, vectors[seeds[-1]])
        member[distance < nearest] = len(seeds) - 1
        nearest = np.minimum(nearest, distance)
    clusters: list[int] = member.tolist()
    return clusters


def medoid(vectors_ND: NDArray[Any]) -> int:
    """Index of the vector nearest to the mean; the first of equals."""
    vectors = vectors_ND.astype(np.float64)
    return int(np.round(_squared_distance(vectors, vectors.mean(axis=0)), 9).argmin())


def _squared_distance(vectors_ND: FloatArray, vector_D: FloatArray) -> FloatArray:
    squared: FloatArray = ((vectors_ND - vector_D) ** 2).sum(axis=1)
    return squared


def starting_scan(scans: Sequence[str], heights_mm: Mapping[str, float], vectors: Mapping[str, NDArray[Any]]) -> str:
    """The widest scan near the medoid: of the half nearest to the mean vector, the one with the highest body."""
    ordered = sorted(scans)
    stacked = np.stack([vectors[s] for s in ordered]).astype(np.float64)
    distance = np.round(_squared_distance(stacked, stacked.mean(axis=0)), 9)
    near: list[str] = [
        ordered[i] for i in np.lexsort((np.arange(len(ordered)), distance))[: max(1, (len(ordered) + 1) // 2)]
    ]
    return max(near, key=lambda s: (round(heights_mm[s], 3), s))


@dataclass(frozen=True)
class AtlasWork:
    """What building needs beside the scans' names: how frames are read, how work spreads, and the numbers."""

    read_frame: ReadFrame
    spread: Spread
    config: AtlasConfig
    pose_config: PoseConfig
    body_config: BodyConfig


def build_regions(scans: Sequence[str], vectors: Mapping[str, NDArray[Any]], work: AtlasWork) -> list[Atlas]:
    """One atlas, and one more for each `least_region` or more scans that fit none before (disjoint body regions).

    Raises InputError if not even the first can be built.
    """
    atlases: list[Atlas] = []
    left = list(scans)
    while not atlases or len(left) >= work.config.least_region:
        try:
            atlas, misfits = build(left, vectors, work)
        except InputError:
            if not atlases:
                raise
            break
        atlases.append(atlas)
        left = misfits
    return atlases


def build(scans: Sequence[str], vectors: Mapping[str, NDArray[Any]], work: AtlasWork) -> tuple[Atlas, list[str]]:
    """(atlas of a sample, scans refused by the gate). Raises InputError if fewer than `least_seen` fit each other."""
    heights = _joined(work.spread("coverage", partial(_heights_mm, work.read_frame), scans))
    start = starting_scan(scans, heights, vectors)
    target = _widened(as_target(work.read_frame(start).coarse()))
    for turn in range(1, work.config.rounds + 1):
        align_chunk = partial(align_all, work.read_frame, prepare(target, work.pose_config), work.pose_config)
        poses = _joined(work.spread(f"atlas, round {turn}: align", align_chunk, scans))
        used = _fitting(poses, work.config)
        if len(used) < work.config.least_seen:
            raise InputError(
                f"only {len(used)} of {len(scans)} scans fit one atlas and {work.config.least_seen} are needed; "
                "select scans of one body region or add scans"
            )
        sums = work.spread(
            f"atlas, round {turn}: mean", partial(_sums, work.read_frame, target.grid, used), sorted(used)
        )
        target, seen_by = _mean(np.sum(sums, axis=0), target.grid, len(used), work)
    target, seen_by = _cropped(target, seen_by)
    refused = sorted(s for s, p in poses.items() if p.refused)
    return Atlas(target, seen_by, start, tuple(sorted(used)), _digest(target, seen_by)), refused


def align_all(
    read_frame: ReadFrame, prepared: Prepared, config: PoseConfig, scan_ids: Sequence[str]
) -> dict[str, Pose]:
    """The poses of some scans, read where this runs."""
    return {s: align(read_frame(s).coarse(), prepared, config) for s in scan_ids}


def _heights_mm(read_frame: ReadFrame, scan_ids: Sequence[str]) -> dict[str, float]:
    boxes = {s: read_frame(s).body_box_zyx_mm for s in scan_ids}
    return {s: 0.0 if box is None else float(box[1][0] - box[0][0]) for s, box in boxes.items()}


def _joined(parts: Sequence[Mapping[str, T]]) -> dict[str, T]:
    return {scan_id: value for part in parts for scan_id, value in part.items()}


def _fitting(poses: Mapping[str, Pose], config: AtlasConfig) -> dict[str, Pose]:
    """Poses that passed the gate and correlate nearly as well as the middle one."""
    accepted = {s: p for s, p in sorted(poses.items()) if not p.refused}
    if not accepted:
        return {}
    least = float(np.median([p.ncc for p in accepted.values()])) - config.ncc_margin
    return {s: p for s, p in accepted.items() if p.ncc >= least}


def _widened(target: Target) -> Target:
    """The same on a grid with a margin of cells that nobody has seen yet."""
    cells = [round(m / target.grid.spacing_mm) for m in MARGIN_MM]
    widths = [(c, c) for c in cells]
    z, y, x = (o - c * target.grid.spacing_mm for o, c in zip(target.grid.origin_zyx_mm, cells, strict=True))
    values = np.pad(target.intensity_ZYX, widths)
    seen, body = np.pad(target.seen_ZYX, widths), np.pad(target.body_ZYX, widths)
    grid = Grid((z, y, x), target.grid.spacing_mm, (values.shape[0], values.shape[1], values.shape[2]))
    return Target(grid, values, seen, body, target.lung_bottom_mm, target.lung_top_mm)


def _sums(read_frame: ReadFrame, grid: Grid, used: Mapping[str, Pose], scan_ids: Sequence[str]) -> NDArray[np.int64]:
    """(3, cells): sums over some scans of intensity and body in UNITS, and how many scans show a cell."""
    cells = grid.centres_zyx_mm()
    totals = np.zeros((3, len(cells)), dtype=np.int64)
    for scan_id in scan_ids:
        frame = read_frame(scan_id).coarse()
        stack = field(intensity(frame.hu_ZYX) * frame.valid_ZYX, frame.body_ZYX & frame.valid_ZYX, frame.valid_ZYX)
        value, body, mass = sample(stack, frame.grid, mapped(used[scan_id].matrix, cells))
        shown = mass > 0.5
        totals[0, shown] += np.rint(value[shown] / mass[shown] * UNITS).astype(np.int64)
        totals[1, shown] += np.rint(body[shown] / mass[shown] * UNITS).astype(np.int64)
        totals[2] += shown
    return totals


def _mean(totals: NDArray[np.int64], grid: Grid, scans: int, work: AtlasWork) -> tuple[Target, NDArray[np.int32]]:
    """(mean image, number of scans that show each cell) from sums over all scans."""
    count = totals[2].reshape(grid.shape_zyx)
    seen = count >= max(work.config.least_seen, work.config.least_seen_share * scans)
    value, body = (np.where(seen, t.reshape(count.shape) / np.maximum(count, 1) / UNITS, 0) for t in totals[:2])
    value, trunk = value.astype(np.float32), body >= 0.5
    low, high = CLIP_HU
    ends = lung_ends_mm(value * np.float32(high - low) + np.float32(low), trunk, seen, grid, work.body_config)
    return Target(grid, value, seen, trunk, *ends), count.astype(np.int32)


def _cropped(target: Target, seen_by_ZYX: NDArray[np.int32]) -> tuple[Target, NDArray[np.int32]]:
    """Grid cut to the box of what was seen."""
    spans = [np.flatnonzero(target.seen_ZYX.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    window = tuple(slice(int(s[0]), int(s[-1]) + 1) for s in spans)
    z, y, x = target.grid.to_mm([s[0] for s in spans]).tolist()
    values = np.ascontiguousarray(target.intensity_ZYX[window])
    grid = Grid((z, y, x), target.grid.spacing_mm, (values.shape[0], values.shape[1], values.shape[2]))
    seen, body = target.seen_ZYX[window].copy(), target.body_ZYX[window].copy()
    return Target(grid, values, seen, body, target.lung_bottom_mm, target.lung_top_mm), seen_by_ZYX[window].copy()


def _digest(target: Target, seen_by_ZYX: NDArray[np.int32]) -> str:
    """Digest of the mean in UNITS, of what was seen, and of the grid."""
    whole = np.rint(target.intensity_ZYX.astype(np.float64) * UNITS).astype("<i4")
    payload = hashlib.sha256(
        whole.tobytes() + seen_by_ZYX.astype("<i4").tobytes() + np.packbits(target.seen_ZYX).tobytes()
    )
    return ids.digest_of([payload.hexdigest(), list(target.grid.origin_zyx_mm), list(target.grid.shape_zyx)])
