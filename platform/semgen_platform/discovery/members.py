"""Which scans a pattern lies in, where exactly, how well it fits, and what is thrown away.

Steps 5 to 8 of METHOD.md 5b as functions of arrays: choice of members, template search, scores and drops, rows for
scales and jitter. Letters in names: P patterns or memberships, M memberships of one scan, V voxels of a 4 mm crop.
Crops are integers in UNITS of intensity, so that sums do not depend on their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from semgen_platform import ids
from semgen_platform.config import Config
from semgen_platform.discovery.atlas import UNITS, Subject
from semgen_platform.discovery.body_frame import Frame
from semgen_platform.discovery.pose import Pose, intensity, mapped
from semgen_platform.discovery.resampling import FloatArray, Shape, field, sample

TRAIN, VALIDATION = "train", "val"

CELL_MM = 4.0
CROP_ZYX: Shape = (12, 11, 11)
"""The base box at 4 mm."""

UNMEASURED = -1
"""Stands in a window for what the scanner did not see."""

NORMAL_MAD = 1.4826
"""Makes the median absolute deviation a standard deviation. With 19 members a pattern and a tenth of them moved by 30
to 60 mm, precision and recall of drops were 0.83 and 0.74 with it, 0.73 and 0.75 without."""

IntArray = NDArray[np.int64]
WindowArray = NDArray[np.int16]


class MemberConfig(Config):
    """Numbers of METHOD.md 5b steps 5 to 8."""

    members: int = 200
    """Training members K of a pattern, the reference among them."""

    validation_members: int = 30
    """Validation members of a pattern."""

    validation_share: float = 0.13
    """Share of the split groups that lie on the validation side."""

    reach_mm: float = 12.0
    """Farthest shift of the refinement along each axis, in steps of 4 mm."""

    penalty: float = 0.1
    """NCC that a shift of the whole reach costs; the cost grows with the square."""

    drop_deviations: float = 3.0
    """Dropped when the NCC is below the median by more than this many deviations (MAD as sd), and ..."""

    drop_margin: float = 0.10
    """... the best other pattern's template fits nearly as well, within this margin."""

    weak_share: float = 0.5
    """A pattern that keeps fewer than this share of K is called weak."""

    scales: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Sizes of the crop, on all axes."""

    jitters: int = 1
    """Jittered rows of each scale, beside the base row (scale 1, no jitter)."""

    jitter_mm: float = 6.0
    """Largest shift of a jittered row along each axis; uniform."""


@dataclass(frozen=True)
class Pattern:
    """One place of the atlas and the scans that were chosen for it, the reference first."""

    number: int
    region: int
    centre_zyx_mm: tuple[float, float, float]
    reference: str
    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def scans(self) -> tuple[str, ...]:
        return self.train + self.validation


@dataclass(frozen=True)
class Fit:
    """Where and how well a pattern lies in a scan after refinement.

    shift_zyx_mm : from the pose's place, along the atlas axes. ncc : with the pattern's template. other : with the best
    other template.
    """

    shift_zyx_mm: tuple[float, float, float]
    ncc: float
    other: float = -1.0


def split_sides(subjects: Sequence[Subject], validation_share: float, seed: int) -> dict[str, str]:
    """Side (train or val) of every scan id; a split group lies on one side. Of two or more groups one validates."""
    groups = sorted({s.split_group for s in subjects}, key=lambda g: ids.digest_of([seed, "side", g]))
    count = max(1, round(validation_share * len(groups))) if len(groups) > 1 else 0
    held = set(groups[:count])
    return {s.scan_id: VALIDATION if s.split_group in held else TRAIN for s in subjects}


def choose_members(
    number: int, subjects: Sequence[Subject], sides: Mapping[str, str], vectors: Mapping[str, NDArray[Any]],
    config: MemberConfig, seed: int,
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:  # fmt: skip
    """(reference, training members, validation members) among the scans that show pattern `number`.

    The reference is drawn among the training scans; the others are the nearest by embedding, at most one a patient,
    ties by id.
    """
    ordered = sorted(subjects, key=lambda s: s.scan_id)
    train = [s for s in ordered if sides[s.scan_id] == TRAIN]
    reference = train[int(ids.uniform_stream(seed, "reference", number).integers(len(train)))]
    centre = vectors[reference.scan_id].astype(np.float64)
    distance = {
        s.scan_id: round(float(((vectors[s.scan_id].astype(np.float64) - centre) ** 2).sum()), 9) for s in ordered
    }
    near = sorted(ordered, key=lambda s: (s.scan_id != reference.scan_id, distance[s.scan_id], s.scan_id))
    one_each = _one_a_patient(near)
    inside = {side: [s.scan_id for s in one_each if sides[s.scan_id] == side] for side in (TRAIN, VALIDATION)}
    held = inside[VALIDATION][: config.validation_members]
    return reference.scan_id, tuple(inside[TRAIN][: config.members]), tuple(held)


def _one_a_patient(subjects: Sequence[Subject]) -> list[Subject]:
    first: dict[str, Subject] = {}
    for subject in subjects:
        first.setdefault(subject.patient_id, subject)
    return list(first.values())


def cut_windows(frame: Frame, pose: Pose, centres_M3: FloatArray, config: MemberConfig) -> WindowArray:
    """(M, z, y, x) int16: 4 mm crops round places of the atlas with the search's reach; UNMEASURED outside."""
    shape = window_shape(config)
    steps = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * CELL_MM for n in shape], indexing="ij"), axis=-1)
    points = (centres_M3[:, None] + steps.reshape(1, -1, 3)).reshape(-1, 3)
    stack = field(intensity(frame.hu_ZYX) * frame.valid_ZYX, frame.valid_ZYX)
    total, mass = sample(stack, frame.grid, mapped(pose.matrix, points))
    values = np.where(mass > 0.5, np.rint(total / np.maximum(mass, 0.5) * UNITS), UNMEASURED)
    return values.astype(np.int16).reshape(len(centres_M3), *shape)


def window_shape(config: MemberConfig) -> Shape:
    """Cells of a search window."""
    reach = 2 * _reach_cells(config)
    z, y, x = CROP_ZYX
    return z + reach, y + reach, x + reach


def _reach_cells(config: MemberConfig) -> int:
    return round(config.reach_mm / CELL_MM)


def crops_at(windows_MZYX: WindowArray, shifts_M3: FloatArray, config: MemberConfig) -> IntArray:
    """(M, V) the crop of each window at its shift in mm."""
    first = np.rint(np.asarray(shifts_M3) / CELL_MM).astype(int) + _reach_cells(config)
    z, y, x = CROP_ZYX
    crops = [w[a : a + z, b : b + y, c : c + x].ravel() for w, (a, b, c) in zip(windows_MZYX, first, strict=True)]
    return np.stack(crops).astype(np.int64) if crops else np.zeros((0, z * y * x), np.int64)


def normalised(crops_PV: NDArray[Any]) -> FloatArray:
    """Each row with mean 0 and length 1; a constant row becomes 0."""
    rows = crops_PV.astype(np.float64)
    rows = rows - rows.mean(axis=1, keepdims=True)
    length = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
    unit: FloatArray = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-6)
    return unit


def search(windows_MZYX: WindowArray, templates_MV: FloatArray, config: MemberConfig) -> tuple[FloatArray, FloatArray]:
    """(shifts (M, 3) in mm, NCC (M,)) of best NCC - penalty * (d / reach)^2 for each window and its template.

    A shift that would take in what the scanner did not see is no choice; if all do, the shift is 0 and the NCC -1.
    """
    reach = _reach_cells(config)
    ncc = _ncc_maps(windows_MZYX, templates_MV)
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1) * CELL_MM] * 3, indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    squared = (offsets**2).sum(axis=1)
    value = ncc.reshape(len(ncc), -1)
    worth = np.round(value - config.penalty * squared / config.reach_mm**2, 9)
    order = np.argsort(squared, kind="stable")  # of equals the smallest shift
    best = order[worth[:, order].argmax(axis=1)]
    found = value[np.arange(len(value)), best]
    shifts = np.where((found > -1)[:, None], offsets[best], 0.0)
    return shifts, np.round(found, 6)


def _ncc_maps(windows_MZYX: WindowArray, templates_MV: FloatArray) -> FloatArray:
    """(M, s, s, s) NCC at every shift, by FFT; -1 where a crop holds unmeasured cells."""
    size, spans = (
        windows_MZYX.shape[1:],
        tuple(w - c + 1 for w, c in zip(windows_MZYX.shape[1:], CROP_ZYX, strict=True)),
    )
    whole = windows_MZYX.astype(np.int64)
    centred = whole - UNITS // 2
    spectrum = fft.rfftn(centred.astype(np.float64), axes=(1, 2, 3))
    template = fft.rfftn(templates_MV.reshape(-1, *CROP_ZYX), size, axes=(1, 2, 3))
    product = fft.irfftn(spectrum * template.conj(), size, axes=(1, 2, 3))[:, : spans[0], : spans[1], : spans[2]]
    voxels = int(np.prod(CROP_ZYX))
    first, second = _box_sums(centred), _box_sums(centred**2)
    power = np.sqrt(np.maximum(second - first.astype(np.float64) ** 2 / voxels, 0))
    ncc = np.divide(product, power, out=np.zeros(product.shape), where=power > 1)
    return np.where(_box_sums(whole == UNMEASURED) > 0, -1.0, np.clip(ncc, -1, 1))


def _box_sums(values_MZYX: NDArray[Any]) -> IntArray:
    """Sums over every crop-sized box, exact."""
    out = values_MZYX.astype(np.int64)
    for axis, size in enumerate(CROP_ZYX, start=1):
        running = np.cumsum(np.concatenate([np.zeros_like(out.take([0], axis)), out], axis), axis)
        upper = [slice(None)] * 4
        lower = [slice(None)] * 4
        upper[axis], lower[axis] = slice(size, None), slice(None, -size)
        out = running[tuple(upper)] - running[tuple(lower)]
    return out


def best_other(crops_MV: FloatArray, own_M: Sequence[int], templates_PV: FloatArray) -> FloatArray:
    """(M,) highest NCC of each normalised crop with a template that is not its own; -1 if there is no other."""
    if len(templates_PV) < 2:
        return np.full(len(crops_MV), -1.0)
    ncc = np.einsum("mv,pv->mp", crops_MV, templates_PV)  # no BLAS: the same sums for any number of threads
    ncc[np.arange(len(crops_MV)), list(own_M)] = -1.0
    best: FloatArray = np.round(ncc.max(axis=1), 6)
    return best


def best_half(ncc: Mapping[str, float]) -> set[str]:
    """The half of a pattern's members (rounded up) with the highest NCC, ties by id."""
    ranked = sorted(ncc, key=lambda s: (-ncc[s], s))
    return set(ranked[: (len(ranked) + 1) // 2])


def drop_reasons(fits: Mapping[str, Fit], config: MemberConfig) -> dict[str, str]:
    """Why members of one pattern are dropped, by scan id: far below the others and not clearly this pattern."""
    values = np.array([fits[s].ncc for s in sorted(fits)])
    middle = float(np.median(values))
    limit = middle - config.drop_deviations * NORMAL_MAD * float(np.median(np.abs(values - middle)))
    return {
        s: f"ncc {f.ncc:.3f} is below {limit:.3f} and within {config.drop_margin:g} of another pattern's {f.other:.3f}"
        for s, f in sorted(fits.items())
        if f.ncc < limit and f.ncc - f.other < config.drop_margin
    }


def jitter_zyx_mm(seed: int, pattern: int, scan_id: str, scale: float, jitter: int, largest_mm: float) -> FloatArray:
    """The shift of one row: none for jitter 0, else uniform along each axis from a stream of its own."""
    if jitter == 0:
        return np.zeros(3)
    return ids.uniform_stream(seed, "jitter", pattern, scan_id, str(scale), jitter).uniform(-largest_mm, largest_mm, 3)
