"""How good a discovery is, measured on phantoms whose truth is known.

The table of METHOD.md 5b, "Measuring on labelled phantoms", over base rows only (scale 1, no jitter) that were kept,
without the reference itself. Discovery never sees the truth; this module reads none from disk either.

Choices that the table leaves open: histograms count every label, air and table too, at the cells of about 4 mm of the
row's crop; the true place of a pattern is the median of its members' centres in the canonical body; coverage and
overlap in the true body take base boxes round these places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import ids
from semgen_platform.discovery.anchors import pairwise_iou
from semgen_platform.discovery.members import TRAIN
from semgen_platform.discovery.resampling import BoolArray, FloatArray, Shape
from semgen_platform.discovery.rows import (
    BASE_BOX_ZYX_MM,
    Row,
    box_matrix,
    is_base,
    matrix_for_shape,
    member_row,
    sorted_members,
)
from semgen_platform.phantom.labels import LABELS

HISTOGRAM_SHAPE: Shape = (12, 11, 11)
"""Cells of a crop at which labels are looked up: 4 mm."""

PURE = 0.7
"""A member is pure if its histogram shares this much with the reference's."""

COVERED = 0.25
"""A label is covered if this share of it lies inside some pattern."""

BODY_POINTS = 100_000
"""Voxels of one body, evenly taken, that stand for it when coverage is counted."""

WRONG_MM = 40.0
"""A pose is wrong if it misses by more, in the median of its landmarks."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What a phantom knows of one scan.

    labels_ZYX : uint8 on the scan's canonical grid. zyx_to_lps_mm : (4, 4) of that grid.
    body_xyz_mm : (z, y, x, 3) canonical-body coordinates (x, y, z) of lattice points. lattice_zyx_to_lps_mm : (4, 4).
    """

    labels_ZYX: NDArray[np.uint8]
    zyx_to_lps_mm: FloatArray
    body_xyz_mm: NDArray[np.float32]
    lattice_zyx_to_lps_mm: FloatArray

    def labels_at(self, points_lps_mm: FloatArray) -> NDArray[np.uint8]:
        """Labels of the nearest voxels to (N, 3) LPS points; 0 outside."""
        index = np.rint(_index(self.zyx_to_lps_mm, points_lps_mm)).astype(int)
        inside = ((index >= 0) & (index < self.labels_ZYX.shape)).all(axis=1)
        out = np.zeros(len(index), np.uint8)
        out[inside] = self.labels_ZYX[tuple(index[inside].T)]
        return out

    def shows(self, points_lps_mm: FloatArray) -> BoolArray:
        """Which of (N, 3) LPS points lie inside the scan."""
        index = _index(self.zyx_to_lps_mm, points_lps_mm)
        inside = (index >= -0.5) & (index <= np.array(self.labels_ZYX.shape) - 0.5)
        return np.asarray(inside.all(axis=1), dtype=bool)

    def canonical_at(self, points_lps_mm: FloatArray) -> FloatArray:
        """Canonical-body coordinates (N, 3) of LPS points, linear between lattice points and beyond them."""
        index = _index(self.lattice_zyx_to_lps_mm, points_lps_mm)
        base = np.clip(np.floor(index).astype(int), 0, np.array(self.body_xyz_mm.shape[:3]) - 2)
        part = index - base
        out = np.zeros((len(index), 3))
        for corner in np.ndindex(2, 2, 2):
            weight = np.prod(np.where(corner, part, 1 - part), axis=1)
            out += weight[:, None] * self.body_xyz_mm[tuple((base + corner).T)]
        return out


TruthOf = Callable[[str], Truth]
"""The truth of a scan id."""


def _index(zyx_to_lps_mm: FloatArray, points_lps_mm: FloatArray) -> FloatArray:
    inverse = np.linalg.inv(zyx_to_lps_mm)
    index: FloatArray = np.asarray(points_lps_mm) @ inverse[:3, :3].T + inverse[:3, 3]
    return index


def crop_points_lps_mm(matrix: Any, shape_zyx: Shape = HISTOGRAM_SHAPE) -> FloatArray:
    """(N, 3) LPS centres of a crop's cells."""
    to_lps = matrix_for_shape(matrix, shape_zyx)
    index = np.stack(np.unravel_index(np.arange(np.prod(shape_zyx)), shape_zyx), axis=1)
    return index @ to_lps[:3, :3].T + to_lps[:3, 3]


@dataclass(frozen=True, eq=False)
class _Seen:
    """One base row looked up in the truth: label histogram (256,) of sum 1, and the centre in the canonical body."""

    row: Row
    histogram: FloatArray
    centre_xyz_mm: FloatArray


def audit(patterns: Sequence[Row], members: Sequence[Row], truth_of: TruthOf, bodies: Sequence[str]) -> dict[str, Any]:
    """Measures of a discovery's rows. `bodies` are scans of wide coverage that stand for the whole labelled body."""
    base = [r for r in members if is_base(r)]
    seen = {(r["pattern"], r["scan_id"]): _look(r, truth_of) for r in base if not r["dropped"]}
    reference = {p["pattern"]: p["reference_scan_id"] for p in patterns}
    groups: dict[int, list[_Seen]] = {}
    for (pattern, _), found in sorted(seen.items(), key=lambda item: item[0]):
        groups.setdefault(pattern, []).append(found)
    centres = {p: np.median([f.centre_xyz_mm for f in g], axis=0) for p, g in groups.items()}
    to_centre, to_reference, shared = [], [], []
    for pattern, group in groups.items():
        first = seen.get((pattern, reference[pattern]))
        for found in group:
            if found.row["scan_id"] == reference[pattern]:
                continue
            to_centre.append(np.linalg.norm(found.centre_xyz_mm - centres[pattern]))
            if first is not None:
                to_reference.append(np.linalg.norm(found.centre_xyz_mm - first.centre_xyz_mm))
                shared.append(np.minimum(found.histogram, first.histogram).sum())
    return {
        "patterns": len(patterns),
        "members": len(base),
        "kept": len(seen),
        **_percentiles("centre_error", to_centre),
        **_percentiles("reference_error", to_reference),
        "purity": _share(np.array(shared) >= PURE),
        "intersection": _rounded(float(np.mean(shared))) if shared else None,
        **_coverage(np.array([centres[p] for p in sorted(centres)]).reshape(-1, 3), truth_of, bodies),
        **_overlap(np.array([centres[p] for p in sorted(centres)]).reshape(-1, 3)),
        **_balance(patterns, base),
        **_leakage(base),
    }


def _look(row: Row, truth_of: TruthOf) -> _Seen:
    truth = truth_of(row["scan_id"])
    labels = truth.labels_at(crop_points_lps_mm(row["matrix"]))
    histogram = np.bincount(labels, minlength=256) / len(labels)
    return _Seen(row, histogram, truth.canonical_at(np.array([row["centre_lps_mm"]]))[0])


def _percentiles(name: str, values: Sequence[Any]) -> dict[str, float | None]:
    if not len(values):
        return {f"{name}_median_mm": None, f"{name}_p95_mm": None}
    middle, high = np.percentile(np.array(values, dtype=np.float64), [50, 95]).tolist()
    return {f"{name}_median_mm": _rounded(middle), f"{name}_p95_mm": _rounded(high)}


def _rounded(value: float) -> float:
    return round(value, 4)


def _share(truths: NDArray[np.bool_]) -> float | None:
    return _rounded(float(truths.mean())) if len(truths) else None


def _coverage(centres_P3: FloatArray, truth_of: TruthOf, bodies: Sequence[str]) -> dict[str, float | None]:
    """Shares of labels and of tissue inside some pattern's base box in the canonical body, over `bodies`."""
    inside, whole = np.zeros(256), np.zeros(256)
    half = np.array(BASE_BOX_ZYX_MM[::-1]) / 2
    for scan_id in bodies:
        truth = truth_of(scan_id)
        index = np.argwhere(truth.labels_ZYX > LABELS["table"])
        index = index[:: 1 + len(index) // BODY_POINTS]
        labels = truth.labels_ZYX[tuple(index.T)]
        world = index @ truth.zyx_to_lps_mm[:3, :3].T + truth.zyx_to_lps_mm[:3, 3]
        body = truth.canonical_at(world)
        covered = np.zeros(len(body), bool)
        for centre in centres_P3:
            covered |= (np.abs(body - centre) <= half).all(axis=1)
        whole += np.bincount(labels, minlength=256)
        inside += np.bincount(labels[covered], minlength=256)
    present = whole > 0
    if not present.any():
        return {"label_coverage": None, "tissue_coverage": None}
    return {
        "label_coverage": _share(inside[present] / whole[present] >= COVERED),
        "tissue_coverage": _rounded(float(inside.sum() / whole.sum())),
    }


def _overlap(centres_P3: FloatArray) -> dict[str, float | None]:
    """Largest and mean pairwise IoU of base boxes in the true body."""
    if len(centres_P3) < 2:
        return {"overlap_max": None, "overlap_mean": None}
    zyx = centres_P3[:, ::-1]
    iou = pairwise_iou(zyx, zyx)[np.triu_indices(len(zyx), 1)]
    return {"overlap_max": _rounded(float(iou.max())), "overlap_mean": _rounded(float(iou.mean()))}


def _balance(patterns: Sequence[Row], base: Sequence[Row]) -> dict[str, int]:
    """Fewest and most kept training members of a pattern."""
    kept = {p["pattern"]: 0 for p in patterns}
    for row in base:
        kept[row["pattern"]] += not row["dropped"] and row["split"] == TRAIN
    return {"fewest_kept": min(kept.values(), default=0), "most_kept": max(kept.values(), default=0)}


def _leakage(base: Sequence[Row]) -> dict[str, int]:
    """Patients twice in one pattern, and patients on both sides of the split."""
    pairs = [(r["pattern"], r["patient_id"]) for r in base]
    sides: dict[str, set[str]] = {}
    for row in base:
        sides.setdefault(row["patient_id"], set()).add(row["split"])
    return {
        "repeated_patients": len(pairs) - len(set(pairs)),
        "leaking_patients": sum(len(s) > 1 for s in sides.values()),
    }


def audit_poses(poses: Sequence[Row], patterns: Sequence[Row], truth_of: TruthOf) -> dict[str, Any]:
    """Wrong scans that were accepted, and scans refused.

    Landmarks are the patterns' centres in the atlas, each in the scans that show it; where one truly lies is the median
    over the scans. A scan's error is the median over its landmarks.
    """
    places: dict[tuple[str, int], FloatArray] = {}
    for pose in poses:
        here = [p for p in patterns if not pose["refused"] and p["region"] == pose["region"]]
        if not here:
            continue
        matrix = np.array(pose["matrix"]).reshape(4, 4)
        world = np.array([p["centre_mm"] for p in here]) @ matrix[:3, :3].T + matrix[:3, 3]
        truth = truth_of(pose["scan_id"])
        shown = truth.shows(world)
        for pattern, place in zip(
            np.array([p["pattern"] for p in here])[shown], truth.canonical_at(world[shown]), strict=True
        ):
            places[pose["scan_id"], int(pattern)] = place
    landmarks = sorted({pattern for _, pattern in places})
    middle = {n: np.median([c for (_, m), c in places.items() if m == n], axis=0) for n in landmarks}
    errors: dict[str, list[float]] = {}
    for (scan_id, number), place in places.items():
        errors.setdefault(scan_id, []).append(float(np.linalg.norm(place - middle[number])))
    by_scan = [float(np.median(errors[s])) for s in sorted(errors)]
    return {
        "scans": len(poses),
        "refused": sum(bool(p["refused"]) for p in poses),
        "wrong_accepted": sum(e > WRONG_MM for e in by_scan),
        **_percentiles("pose_error", by_scan),
    }


def random_centres(members: Sequence[Row], truth_of: TruthOf, seed: int) -> list[Row]:
    """The base rows with every crop moved to a random place of its scan's body: what no discovery would give.

    Places are uniform over body voxels round which the base box lies inside the scan; where there is none, over all.
    """
    by_scan: dict[str, list[Row]] = {}
    for row in members:
        if is_base(row):
            by_scan.setdefault(row["scan_id"], []).append(row)
    moved = []
    for scan_id, rows in sorted(by_scan.items()):
        truth = truth_of(scan_id)
        places = _body_places(truth)
        moved += [_at_random(row, truth, places, seed) for row in rows]
    return sorted_members(moved)


def _body_places(truth: Truth) -> NDArray[np.int64]:
    """(N, 3) voxel indices of the body that leave room for the base box."""
    index = np.argwhere(truth.labels_ZYX > LABELS["table"])
    margin = np.array(BASE_BOX_ZYX_MM) / 2 / np.linalg.norm(truth.zyx_to_lps_mm[:3, :3], axis=0)
    fits = ((index >= margin) & (index <= np.array(truth.labels_ZYX.shape) - 1 - margin)).all(axis=1)
    return index[fits] if fits.any() else index


def _at_random(row: Row, truth: Truth, places_N3: NDArray[np.int64], seed: int) -> Row:
    draw = ids.uniform_stream(seed, "random", row["pattern"], row["scan_id"]).integers(len(places_N3))
    centre = truth.zyx_to_lps_mm[:3, :3] @ places_N3[draw] + truth.zyx_to_lps_mm[:3, 3]
    return member_row(
        row["discovery_id"], row["pattern"], row["scan_id"], row["patient_id"], row["split"],
        box_matrix(np.eye(4), centre[::-1], 1.0), scale=1.0, jitter=0, score=None,
    )  # fmt: skip
