"""One pose per scan: nine numbers that carry the atlas into a scan, and the gate that refuses what did not fit.

Step 3 of METHOD.md 5b. Two starts (masked-NCC translation by FFT after Padfield 2012; body box with the lungs' ends),
each refined by inverse-compositional Gauss-Newton (Baker and Matthews 2004) with shift, rotation and scale. A scan that
fails all starts is refused and says why. Places are (z, y, x) in LPS mm throughout.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from semgen_platform.config import Config
from semgen_platform.discovery.body_frame import CLIP_HU, Frame
from semgen_platform.discovery.resampling import BoolArray, Float32Array, FloatArray, Grid, field, halved, sample
from semgen_platform.ids import uniform_stream

NDArrayComplex = NDArray[np.complex128]

RADIUS_MM = 100.0
"""Rotation and log scale count as the displacement at this distance, so that the nine numbers have one unit."""


class PoseConfig(Config):
    """Numbers of METHOD.md 5b step 3."""

    points: int = 9000
    """Body points of the atlas that the fit looks at."""

    smoothing_mm: tuple[float, ...] = (16.0, 8.0, 0.0)
    """Standard deviation of the Gaussian on atlas and scan, coarse to fine."""

    steps: tuple[int, ...] = (10, 8, 6)
    """Gauss-Newton steps at each smoothing."""

    robust_width: float = 0.3
    """Residuals r (1 is 1400 HU) weigh 1 / (1 + (r / width)^2)."""

    prior: float = 0.002
    """Weight of |rotation|^2 and |log scale|^2 beside the mean squared residual."""

    least_fft_overlap: float = 0.35
    """A translation counts if this share of the smaller body lies on the other's measured part."""

    largest_log_scale: float = 0.30
    """Gate: no axis may be stretched by more than exp of this."""

    least_body_overlap: float = 0.75
    """Gate: share of the two bodies' union, where both were measured, that is body in both."""

    least_common: float = 0.6
    """Gate: share of the scan's body that must lie where the atlas was seen. Legs laid into a belly had 0.5 at a body
    overlap of 0.87; phantoms of mixed coverage have 0.97."""

    fallback_shifts_mm: tuple[float, ...] = (0.0, 40.0, -40.0, 80.0, -80.0, 140.0, -140.0, 200.0, -200.0)
    """Shifts along z of the nine starts that are tried when both starts fail."""


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a scan lies in the atlas.

    matrix : (4, 4) float64, atlas (z, y, x, 1) in mm to the scan's (z, y, x, 1) in LPS mm; rotation times scale, and
    shift.
    ncc, overlap, common : normalised cross correlation, body overlap and share of the scan's body inside the atlas.
    log_scale_zyx : natural logarithm of the stretch along the atlas axes.
    refused : why the scan cannot be used, or "".
    """

    matrix: FloatArray
    ncc: float
    overlap: float
    common: float
    log_scale_zyx: tuple[float, float, float]
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Target:
    """What scans are aligned to: a mean image on an 8 mm grid.

    intensity_ZYX : float32 in [0, 1]. seen_ZYX : enough scans show it. body_ZYX : body in most of them.
    lung_bottom_mm, lung_top_mm : heights of the lungs' ends, or None.
    """

    grid: Grid
    intensity_ZYX: Float32Array
    seen_ZYX: BoolArray
    body_ZYX: BoolArray
    lung_bottom_mm: float | None
    lung_top_mm: float | None


@dataclass(frozen=True, eq=False)
class Template:
    """The atlas at one smoothing, as Gauss-Newton wants it.

    points_N3 : centres of N cells in and round the body, in mm. values_N : intensity there.
    descent_9N : change of the intensity for each of the nine numbers. products_PN : the P = 45 products of two rows.
    """

    points_N3: FloatArray
    values_N: Float32Array
    descent_9N: FloatArray
    products_PN: FloatArray


@dataclass(frozen=True, eq=False)
class Prepared:
    """An atlas with all that its alignments share; made once for many scans."""

    target: Target
    centre_zyx_mm: FloatArray
    templates: tuple[Template, ...]


ROWS, COLUMNS = np.triu_indices(9)
GENERATORS = np.array(
    [[[0, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 0, 0], [-1, 0, 0]], [[0, -1, 0], [1, 0, 0], [0, 0, 0]]], float
)  # of rotations about axes 0, 1, 2


def intensity(hu_ZYX: Float32Array) -> Float32Array:
    """Clipped HU as [0, 1]."""
    low, high = CLIP_HU
    scaled: Float32Array = np.clip((hu_ZYX - low) / (high - low), 0, 1, dtype=np.float32)
    return scaled


def as_target(frame: Frame) -> Target:
    """One scan's 8 mm frame as the first thing to align to."""
    return Target(
        frame.grid, intensity(frame.hu_ZYX), frame.valid_ZYX, frame.body_ZYX, frame.lung_bottom_mm, frame.lung_top_mm
    )


def prepare(target: Target, config: PoseConfig) -> Prepared:
    """Templates of every smoothing of `config`."""
    chosen = _choose_cells(target, config.points)
    points = target.grid.to_mm(np.stack(np.unravel_index(chosen, target.grid.shape_zyx), axis=1))
    centre = points.mean(axis=0)
    templates = tuple(_make_template(target, s, chosen, points, centre) for s in config.smoothing_mm)
    return Prepared(target, centre, templates)


def _choose_cells(target: Target, count: int) -> NDArray[np.int64]:
    near_body = ndimage.binary_dilation(target.body_ZYX, iterations=2)
    seen = ndimage.binary_erosion(target.seen_ZYX)  # the gradient needs both neighbours
    cells = np.flatnonzero(near_body & seen)
    return np.sort(uniform_stream("pose", "points").permutation(cells)[:count])


def _make_template(
    target: Target, smoothing_mm: float, chosen: NDArray[np.int64], points_N3: FloatArray, centre: FloatArray
) -> Template:
    smooth = _smooth(target.intensity_ZYX, target.seen_ZYX, smoothing_mm / target.grid.spacing_mm)
    gradient_3N = np.stack([g.ravel()[chosen] for g in np.gradient(smooth, target.grid.spacing_mm)]).astype(np.float64)
    arm_3N = (points_N3 - centre).T / RADIUS_MM
    turns = [(gradient_3N * _turned(generator, arm_3N)).sum(axis=0) for generator in GENERATORS]
    descent = np.concatenate([gradient_3N, np.stack(turns), gradient_3N * arm_3N])
    return Template(points_N3, smooth.ravel()[chosen], descent, descent[ROWS] * descent[COLUMNS])


def _turned(generator: FloatArray, arm_3N: FloatArray) -> FloatArray:
    return np.stack([sum(generator[a, b] * arm_3N[b] for b in range(3)) for a in range(3)])


def _smooth(values_ZYX: Float32Array, valid_ZYX: BoolArray, cells: float) -> Float32Array:
    """Gaussian mean of the valid values; unchanged for 0."""
    if cells == 0:
        return values_ZYX
    mass = ndimage.gaussian_filter(valid_ZYX.astype(np.float32), cells, truncate=3.0)
    total = ndimage.gaussian_filter(np.where(valid_ZYX, values_ZYX, np.float32(0)), cells, truncate=3.0)
    return np.divide(total, mass, out=np.zeros_like(total), where=mass > 1e-3)


def align(frame: Frame, prepared: Prepared, config: PoseConfig) -> Pose:
    """The pose of a scan's 8 mm frame: the best NCC among the starts that pass the gate, or a refusal that says why."""
    if frame.body_box_zyx_mm is None:
        return Pose(np.eye(4), 0.0, 0.0, 0.0, (0.0, 0.0, 0.0), "no body above the tissue threshold")
    scan = _ScanFields.of(frame, config)
    box = box_start(frame, prepared.target)
    first = [fft_start(frame, prepared.target, config.least_fft_overlap), box]
    tried = [fit(scan, prepared, start, config) for start in first if start is not None]
    if not any(p.refused == "" for p in tried):
        tried += [fit(scan, prepared, _shifted(box, dz), config) for dz in config.fallback_shifts_mm]
    return max(tried, key=lambda p: (p.refused == "", p.ncc))


def _shifted(matrix: FloatArray, z_mm: float) -> FloatArray:
    moved = matrix.copy()
    moved[0, 3] += z_mm
    return moved


@dataclass(frozen=True, eq=False)
class _ScanFields:
    """A scan ready to be sampled: (value * valid, valid) at each smoothing, and (body * valid, valid)."""

    frame: Frame
    smoothed: tuple[torch.Tensor, ...]
    body: torch.Tensor

    @staticmethod
    def of(frame: Frame, config: PoseConfig) -> _ScanFields:
        values, valid = intensity(frame.hu_ZYX), frame.valid_ZYX
        smooth = [_smooth(values, valid, s / frame.grid.spacing_mm) for s in config.smoothing_mm]
        return _ScanFields(frame, tuple(field(s * valid, valid) for s in smooth), field(frame.body_ZYX & valid, valid))


def fit(scan: _ScanFields, prepared: Prepared, start: FloatArray, config: PoseConfig) -> Pose:
    """Gauss-Newton from one start, coarse to fine, and the gate's verdict."""
    matrix = start
    for smoothed, template, steps in zip(scan.smoothed, prepared.templates, config.steps, strict=True):
        for _ in range(steps):
            moved = _step(scan.frame.grid, smoothed, template, matrix, prepared.centre_zyx_mm, config)
            if moved is None:
                return Pose(matrix, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0), "the scan left the atlas during the fit")
            shift = np.abs(moved @ _corner(prepared) - matrix @ _corner(prepared)).max()
            matrix = moved
            if shift < SETTLED_MM:
                break
    return _judge(scan, prepared, matrix, config)


SETTLED_MM = 0.05
LEAST_POINTS = 500  # nine numbers from fewer points are guesses


def _corner(prepared: Prepared) -> FloatArray:
    """A place one radius from the centre on all axes."""
    return np.append(prepared.centre_zyx_mm + RADIUS_MM, 1.0)


def _step(
    grid: Grid, smoothed: torch.Tensor, template: Template, matrix: FloatArray, centre: FloatArray, config: PoseConfig
) -> FloatArray | None:
    """The matrix after one Gauss-Newton step, or None if too few points are on the scan."""
    total, mass = sample(smoothed, grid, mapped(matrix, template.points_N3))
    on = mass > 0.5
    if on.sum() < LEAST_POINTS:
        return None
    residual = np.where(on, total / np.maximum(mass, 0.5) - template.values_N, 0).astype(np.float64)
    weight = on / (1 + (residual / config.robust_width) ** 2)
    scatter = np.zeros((9, 9))
    scatter[ROWS, COLUMNS] = scatter[COLUMNS, ROWS] = (template.products_PN * weight).sum(axis=1) / weight.sum()
    slope = (template.descent_9N * (weight * residual)).sum(axis=1) / weight.sum()
    rotation, log_scale = decompose(matrix)
    prior = np.repeat([0.0, config.prior / RADIUS_MM**2], [3, 6])
    present = np.concatenate([np.zeros(3), Rotation.from_matrix(rotation).as_rotvec(), log_scale]) * RADIUS_MM
    change = np.linalg.solve(scatter + np.diag(prior + 1e-12), slope + prior * present)
    return _composed(matrix, change, centre)


def _composed(matrix: FloatArray, change_9: FloatArray, centre: FloatArray) -> FloatArray:
    """`matrix` after the inverse of a small change, made rotation times scale again; the centre goes where it went."""
    shift, turn, stretch = change_9[:3], change_9[3:6] / RADIUS_MM, change_9[6:] / RADIUS_MM
    small = np.eye(3) + np.tensordot(turn, GENERATORS, 1) + np.diag(stretch)
    inverse = np.linalg.inv(small)
    linear = matrix[:3, :3] @ inverse
    centre_to = matrix[:3, :3] @ (centre - inverse @ shift) + matrix[:3, 3]
    return _from_parts(*decompose(linear), centre, centre_to)


def decompose(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(rotation (3, 3), log scale (3)) of a linear map that is nearly rotation times scale along its input axes."""
    linear = matrix[:3, :3]
    scale = np.linalg.norm(linear, axis=0)
    left, _, right = np.linalg.svd(linear / scale)
    return left @ right, np.log(scale)


def _from_parts(rotation: FloatArray, log_scale: FloatArray, centre: FloatArray, centre_to: FloatArray) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.exp(log_scale)
    matrix[:3, 3] = centre_to - matrix[:3, :3] @ centre
    return matrix


def mapped(matrix: FloatArray, points_N3: FloatArray) -> FloatArray:
    """(N, 3) points by a (4, 4) matrix, column by column without BLAS."""
    z, y, x = points_N3.T
    return np.stack([m[0] * z + m[1] * y + m[2] * x + m[3] for m in matrix[:3]], axis=1)


def _judge(scan: _ScanFields, prepared: Prepared, matrix: FloatArray, config: PoseConfig) -> Pose:
    template = prepared.templates[-1]
    total, mass = sample(scan.smoothed[-1], scan.frame.grid, mapped(matrix, template.points_N3))
    on = mass > 0.5
    ncc = correlation(total[on] / mass[on], template.values_N[on]) if on.sum() >= LEAST_POINTS else 0.0
    overlap, common = body_overlap(scan, prepared.target, matrix)
    _, log_scale = decompose(matrix)
    z, y, x = (round(float(s), 6) for s in log_scale)
    reasons = [
        (max(abs(z), abs(y), abs(x)) >= config.largest_log_scale, f"stretched by exp({max((z, y, x), key=abs):.2f})"),
        (overlap <= config.least_body_overlap, f"bodies overlap by {overlap:.2f}"),
        (common <= config.least_common, f"only {common:.2f} of the body lies in the atlas"),
    ]
    refused = "; ".join(sentence for fails, sentence in reasons if fails)
    return Pose(np.round(matrix, 9), round(ncc, 6), round(overlap, 6), round(common, 6), (z, y, x), refused)


def correlation(a_N: Float32Array, b_N: Float32Array) -> float:
    """Normalised cross correlation of two lists of values; 0 where one is constant."""
    a, b = a_N.astype(np.float64), b_N.astype(np.float64)
    a, b = a - a.mean(), b - b.mean()
    power = (a * a).sum() * (b * b).sum()
    return float((a * b).sum() / np.sqrt(power)) if power > 0 else 0.0


def body_overlap(scan: _ScanFields, target: Target, matrix: FloatArray) -> tuple[float, float]:
    """(IoU of the bodies where both were measured, share of the scan's body inside the seen atlas)."""
    cells = target.grid.centres_zyx_mm().reshape(*target.grid.shape_zyx, 3)[::2, ::2, ::2].reshape(-1, 3)
    atlas_body, seen = target.body_ZYX[::2, ::2, ::2].ravel(), target.seen_ZYX[::2, ::2, ::2].ravel()
    body, mass = sample(scan.body, scan.frame.grid, mapped(matrix, cells))
    both = (mass > 0.5) & seen
    scan_body = (body > 0.5) & both
    union = ((atlas_body & both) | scan_body).sum()
    overlap = float((atlas_body & scan_body).sum() / union) if union else 0.0
    inside = scan_body.sum() * 8 * target.grid.spacing_mm**3 * np.linalg.det(matrix[:3, :3])
    whole = scan.frame.body_ZYX.sum() * scan.frame.grid.spacing_mm**3
    return overlap, min(1.0, float(inside / whole)) if whole else 0.0


def box_start(frame: Frame, target: Target) -> FloatArray:
    """Body boxes laid on each other in y and x, the lungs' ends in z; if one is missing the other gives the shift."""
    low, high = _body_box(frame.body_ZYX, frame.grid)
    atlas_low, atlas_high = _body_box(target.body_ZYX, target.grid)
    scale = np.clip((high - low) / (atlas_high - atlas_low), 0.8, 1.25)
    scale[0] = 1.0
    here, there = (atlas_low + atlas_high) / 2, (low + high) / 2
    ends = [
        (a, b)
        for a, b in ((target.lung_bottom_mm, frame.lung_bottom_mm), (target.lung_top_mm, frame.lung_top_mm))
        if a is not None and b is not None
    ]
    if len(ends) == 2:
        scale[0] = np.clip((ends[1][1] - ends[0][1]) / (ends[1][0] - ends[0][0]), 0.8, 1.25)
    if ends:
        here[0], there[0] = np.mean(ends, axis=0)
    return _from_parts(np.eye(3), np.log(scale), here, there)


def _body_box(body_ZYX: BoolArray, grid: Grid) -> tuple[FloatArray, FloatArray]:
    found = [np.flatnonzero(body_ZYX.any(axis=tuple(b for b in range(3) if b != a))) for a in range(3)]
    return grid.to_mm([f[0] - 0.5 for f in found]), grid.to_mm([f[-1] + 0.5 for f in found])


def fft_start(frame: Frame, target: Target, least_overlap: float) -> FloatArray | None:
    """The translation of best masked NCC at 16 mm; None if no translation overlaps enough.

    Source: Padfield 2012, masked object registration in the Fourier domain.
    """
    fixed, fixed_mask = _round_body(target.intensity_ZYX, target.seen_ZYX, target.body_ZYX)
    moving, moving_mask = _round_body(intensity(frame.hu_ZYX), frame.valid_ZYX, frame.body_ZYX)
    ncc, overlap = _masked_ncc(fixed, fixed_mask, moving, moving_mask)
    enough = overlap >= least_overlap * min(fixed_mask.sum(), moving_mask.sum())
    if not enough.any():
        return None
    best = np.unravel_index(np.where(enough, np.round(ncc, 6), -2).argmax(), ncc.shape)
    # index k stands for the moving image shifted by k - (its size - 1) cells onto the fixed one
    shift = np.array(best) - (np.array(moving.shape) - 1)
    cell = 2 * frame.grid.spacing_mm
    matrix = np.eye(4)
    matrix[:3, 3] = np.array(frame.grid.origin_zyx_mm) - target.grid.origin_zyx_mm - shift * cell
    return matrix


def _round_body(values_ZYX: Float32Array, valid_ZYX: BoolArray, body_ZYX: BoolArray) -> tuple[FloatArray, FloatArray]:
    """(values * mask, mask) in blocks of 2x2x2 cells; the mask is what was measured in and closely round the body."""
    near = ndimage.binary_dilation(body_ZYX, iterations=4) & valid_ZYX
    values, mask = halved(values_ZYX, near)
    return np.where(mask, values, 0).astype(np.float64), mask.astype(np.float64)


def _masked_ncc(
    fixed: FloatArray, fixed_mask: FloatArray, moving: FloatArray, moving_mask: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(NCC, overlapping cells) for every translation; shape = the sum of both shapes - 1."""
    shape = [a + b - 1 for a, b in zip(fixed.shape, moving.shape, strict=True)]
    fast = [fft.next_fast_len(n, real=True) for n in shape]
    window = tuple(slice(0, n) for n in shape)

    def spectrum(values: FloatArray) -> NDArrayComplex:
        return fft.rfftn(values, fast)

    def together(a: NDArrayComplex, b: NDArrayComplex) -> FloatArray:
        return fft.irfftn(a * b, fast)[window]

    flip = (slice(None, None, -1),) * 3
    f, ff, fm = spectrum(fixed), spectrum(fixed**2), spectrum(fixed_mask)
    m, mm, mmask = spectrum(moving[flip]), spectrum(moving[flip] ** 2), spectrum(moving_mask[flip])
    count = np.maximum(np.round(together(fm, mmask)), 0)
    safe = np.maximum(count, 1)
    sum_f, sum_m = together(f, mmask), together(fm, m)
    var_f = np.maximum(together(ff, mmask) - sum_f**2 / safe, 0)
    var_m = np.maximum(together(fm, mm) - sum_m**2 / safe, 0)
    power = np.sqrt(var_f * var_m)
    ncc = np.divide(together(f, m) - sum_f * sum_m / safe, power, out=np.zeros(power.shape), where=power > 1e-6)
    return ncc, count
