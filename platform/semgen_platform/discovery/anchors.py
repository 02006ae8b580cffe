"""Where patterns lie: boxes in the atlas that cover its tissue, differ from one another and are shown by enough scans.

Step 4 of METHOD.md 5b. Greedy maximum coverage over a lattice; when no candidate is left the choice ends and says so,
it never relaxes a limit in silence. Places are (z, y, x) in atlas mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semgen_platform.config import Config
from semgen_platform.discovery.atlas import Atlas
from semgen_platform.discovery.body_frame import CLIP_HU, Frame
from semgen_platform.discovery.pose import Pose, mapped
from semgen_platform.discovery.resampling import BoolArray, FloatArray, Grid, field, sample
from semgen_platform.discovery.rows import BASE_BOX_ZYX_MM

THIRDS = 3


class AnchorConfig(Config):
    """Numbers of METHOD.md 5b step 4."""

    patterns: int = 150
    """Wanted number C of patterns."""

    lattice_mm: float = 16.0
    """Distance between candidate centres."""

    tissue_hu: float = -150.0
    """What counts as tissue."""

    tissue_share: tuple[float, float] = (0.10, 0.90)
    """Least and largest share of tissue in a crop."""

    least_sd: float = 0.05
    """Least standard deviation of a crop's intensity (0 is -1000 HU, 1 is 400 HU)."""

    available_share: float = 0.8
    """A candidate must lie inside this share of the patients, or inside as many as a pattern has members if less."""

    largest_iou: float = 0.25
    """Largest intersection over union of two crops; 0.10 suits C of at most 100."""

    margin_mm: float = 6.0
    """The crop and this much round it must lie inside a scan: the jitter."""


@dataclass(frozen=True, eq=False)
class Candidates:
    """Lattice places that could be anchors: (A, 3) centres in mm, and per place the tissue share."""

    centres_A3: FloatArray
    tissue_A: FloatArray


@dataclass(frozen=True, eq=False)
class Choice:
    """Anchors in the order of choice.

    chosen : indices into the candidates. gain_ml : tissue that each newly covers. coverage : share of tissue covered.
    `shortfall` says in one sentence why there are fewer than wanted, or is "".
    """

    chosen: tuple[int, ...]
    gain_ml: tuple[float, ...]
    coverage: float
    shortfall: str


def atlas_hu(atlas: Atlas) -> NDArray[np.float32]:
    """The mean image in HU."""
    low, high = CLIP_HU
    return (atlas.target.intensity_ZYX * (high - low) + low).astype(np.float32)


def candidates(atlas: Atlas, config: AnchorConfig) -> Candidates:
    """Lattice centres whose crop was seen and passes the limits on tissue and contrast, in z, y, x order."""
    target = atlas.target
    low, high = target.grid.edges_zyx_mm
    axes = [
        np.arange(lo + h / 2, hi - h / 2 + 1e-6, config.lattice_mm)
        for lo, hi, h in zip(low, high, BASE_BOX_ZYX_MM, strict=True)
    ]
    centres = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    tissue = atlas_hu(atlas) > config.tissue_hu
    seen = box_means(target.grid, target.seen_ZYX.astype(np.float64), centres)
    share = box_means(target.grid, tissue.astype(np.float64), centres)
    value = target.intensity_ZYX.astype(np.float64)
    variance = box_means(target.grid, value**2, centres) - box_means(target.grid, value, centres) ** 2
    least, largest = config.tissue_share
    good = (seen > 1 - 1e-6) & (share >= least) & (share <= largest) & (variance >= config.least_sd**2)
    return Candidates(centres[good], share[good])


def box_means(grid: Grid, values_ZYX: FloatArray, centres_A3: FloatArray) -> FloatArray:
    """Mean of a grid's cells over the base box round each centre; cells count by the part that lies inside."""
    integral = np.zeros(tuple(n + 1 for n in values_ZYX.shape))
    integral[1:, 1:, 1:] = values_ZYX.cumsum(0).cumsum(1).cumsum(2)
    half = np.array(BASE_BOX_ZYX_MM) / 2
    corner = [grid.to_index(centres_A3 + sign * half) + 0.5 for sign in (-1, 1)]  # in cell faces
    total = np.zeros(len(centres_A3))
    for pick in np.ndindex(2, 2, 2):
        place = np.stack([corner[p][:, axis] for axis, p in enumerate(pick)], axis=1)
        total += (-1) ** (3 - sum(pick)) * _trilinear(integral, place)
    return total / (np.prod(BASE_BOX_ZYX_MM) / grid.spacing_mm**3)


def _trilinear(table_ZYX: FloatArray, index_A3: FloatArray) -> FloatArray:
    index = np.clip(index_A3, 0, np.array(table_ZYX.shape) - 1)
    base = np.minimum(index.astype(int), np.array(table_ZYX.shape) - 2)
    part = index - base
    out = np.zeros(len(index))
    for pick in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(pick, part, 1 - part), axis=1)
        out += weight * table_ZYX[tuple((base + pick).T)]
    return out


def available(frame: Frame, pose: Pose, centres_A3: FloatArray, margin_mm: float) -> BoolArray:
    """Which crops, with the margin round them, lie inside what a scan measured. (A,) for (A, 3) centres in atlas mm."""
    inside = np.ones(len(centres_A3), bool)
    measured = field(frame.valid_ZYX)
    half = np.array(BASE_BOX_ZYX_MM) / 2 + margin_mm
    for corner in np.array(list(np.ndindex(3, 3, 3))) - 1.0:
        inside &= sample(measured, frame.grid, mapped(pose.matrix, centres_A3 + corner * half))[0] > 0.5
    return inside


def choose(
    atlas: Atlas, found: Candidates, shown_by_A: NDArray[np.int64], patients: int, members: int, wanted: int,
    config: AnchorConfig,
) -> Choice:  # fmt: skip
    """Greedy maximum coverage of the atlas' tissue by at most `wanted` crops, a quota for each third of its height.

    shown_by_A : number of `patients` in whom each candidate is available; members : K.
    """
    enough = min(math.ceil(config.available_share * patients), members)
    usable = shown_by_A >= enough
    if not usable.any():
        return Choice((), (), 0.0, f"no place with tissue and contrast lies inside {enough} patients")
    tissue = (atlas_hu(atlas) > config.tissue_hu) & atlas.target.seen_ZYX & atlas.target.body_ZYX
    chosen, gains, coverage = _greedy(
        atlas.target.grid, tissue.astype(np.float64), found.centres_A3, usable, wanted, config.largest_iou
    )
    shortfall = ""
    if len(chosen) < wanted:
        shortfall = (
            f"{len(chosen)} of {wanted} patterns: no further place inside {enough} patients keeps the overlap at "
            f"{config.largest_iou:g} within its third of the height"
        )
    return Choice(tuple(chosen), tuple(gains), coverage, shortfall)


def _greedy(
    grid: Grid, tissue_ZYX: FloatArray, centres_A3: FloatArray, usable_A: BoolArray, wanted: int, largest_iou: float
) -> tuple[list[int], list[float], float]:
    """(chosen candidates, tissue that each newly covers in ml, share of all tissue covered)."""
    third = _thirds(centres_A3[:, 0], usable_A)
    quota = np.full(THIRDS, math.ceil(wanted / THIRDS))
    open_A, uncovered = usable_A.copy(), tissue_ZYX.copy()
    chosen: list[int] = []
    gains: list[float] = []
    while len(chosen) < wanted and open_A.any():
        places = np.flatnonzero(open_A)
        gain_ml = np.round(box_means(grid, uncovered, centres_A3[places]) * np.prod(BASE_BOX_ZYX_MM) / 1000, 6)
        best = int(places[gain_ml.argmax()])  # the first of equals, in z, y, x order
        chosen.append(best)
        gains.append(float(gain_ml.max()))
        _cover(uncovered, grid, centres_A3[best])
        quota[third[best]] -= 1
        open_A &= pairwise_iou(centres_A3[best][None], centres_A3)[0] <= largest_iou
        open_A &= quota[third] > 0
    return chosen, gains, round(1 - float(uncovered.sum() / max(tissue_ZYX.sum(), 1)), 6)


def _thirds(z_A: FloatArray, usable_A: BoolArray) -> NDArray[np.int64]:
    """0, 1 or 2 for the lower, middle and upper third of the height that usable candidates span."""
    low, high = z_A[usable_A].min(), z_A[usable_A].max()
    share = (z_A - low) / max(high - low, 1e-9)
    third: NDArray[np.int64] = np.clip((share * THIRDS).astype(np.int64), 0, THIRDS - 1)
    return third


def _cover(uncovered_ZYX: FloatArray, grid: Grid, centre: FloatArray) -> None:
    """Takes the part of every cell that lies inside the crop out of what is uncovered, in place."""
    shares = []
    for axis, size in enumerate(BASE_BOX_ZYX_MM):
        cells = grid.origin_zyx_mm[axis] + np.arange(uncovered_ZYX.shape[axis]) * grid.spacing_mm
        reach = (size + grid.spacing_mm) / 2 - np.abs(cells - centre[axis])
        shares.append(np.clip(reach / grid.spacing_mm, 0, 1))
    uncovered_ZYX *= 1 - shares[0][:, None, None] * shares[1][None, :, None] * shares[2][None, None, :]


def pairwise_iou(centres_A3: FloatArray, centres_B3: FloatArray) -> FloatArray:
    """(A, B) intersection over union of base boxes round the centres."""
    box = np.array(BASE_BOX_ZYX_MM)
    shared = np.prod(np.maximum(box - np.abs(centres_A3[:, None] - centres_B3[None]), 0), axis=-1)
    iou: FloatArray = shared / (2 * np.prod(box) - shared)
    return iou
