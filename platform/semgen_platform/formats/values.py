"""What the voxels themselves say: label map or image, CT or not, in HU or not, and the statistics that the lake keeps.

NIfTI, NRRD and MetaImage name no modality, and a DICOM header may name the wrong one, so values decide (DESIGN.md
section 6). Pure functions of arrays; everything rests on one histogram of whole HU (histogram.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.refusing import refusal
from semgen_platform.histogram import Histogram
from semgen_platform.volume import INT16, Refusal, Volume

AIR_HU = (-1100, -900)
"""Around -1000, where every CT that shows some background or lung has voxels; offset or other units have none."""
TISSUE_HU = (-200, 300)
"""Fat, water, muscle, blood and organs, with and without contrast; plastics of phantoms too."""
MIN_AIR, MIN_TISSUE = 0.002, 0.002
"""Least share of voxels. In eight real CT volumes the lowest shares were 0.31 and 0.009 (a small phantom); in four MR
and offset ones air had none."""

LABELS_AT_MOST = 1024  # distinct values; the finest brain and whole-body atlases have some hundred
EDGE_SHARE = 0.5
"""Share of neighbours in the foreground that differ. A label map is flat inside its regions (three real ones: 0.02 to
0.18), an image is noisy (ten real ones: 0.77 to 1.0)."""
FEW_LABELS = 4  # distinct values of which no scanner's image has so few, whatever their edges

LOW_COVERAGE_MM = 100.0
"""Less than the height of a heart or a kidney with its surroundings; whole organs are cut off."""
THICK_SLICES_MM = 4.0
"""Above it a slice is thicker than five pixels are wide, and small vessels and nodules are gone (a 5 mm series)."""

BODY_ABOVE_HU = -500  # halfway between air and tissue
PADDING_AT_MOST_HU = -1024
"""The lowest value of a 12-bit scanner; air itself is near -1000, so that a constant at or below this is fill."""
NOISE_SLICES = 16  # slices sampled for the noise estimate


def corner_padding(voxels_ZYX: NDArray[Any]) -> float | None:
    """The one value, -1024 or less, in the in-plane corners of nearly all slices: outside the scanner's circle."""
    corners = voxels_ZYX[:, [0, 0, -1, -1], [0, -1, 0, -1]].ravel()
    values, counts = np.unique(corners, return_counts=True)
    value = float(values[counts.argmax()])
    return value if counts.max() >= 0.9 * len(corners) and value <= PADDING_AT_MOST_HU else None


def label_map_refusal(voxels_ZYX: NDArray[Any], counts: Histogram) -> Refusal | None:
    """The refusal of a label map: few distinct whole values from 0 up, in flat regions. Float masks are int16 here."""
    present = np.flatnonzero(counts.counts)
    lowest = int(present[0]) + INT16.min
    if voxels_ZYX.dtype != np.int16 or lowest < -1 or len(present) > LABELS_AT_MOST:
        return None
    edges = _edge_share(voxels_ZYX)
    if len(present) > FEW_LABELS and edges > EDGE_SHARE:
        return None
    sentence = (
        f"the voxels hold {len(present)} distinct whole values in flat regions and no air: a label map, not an image"
    )
    return refusal("label_map", sentence, distinct=len(present), edge_share=round(edges, 4))


def _edge_share(voxels_ZYX: NDArray[Any]) -> float:
    """Of neighbours along x of which one is not 0, the share that differs."""
    foreground = differing = 0
    for slab in voxels_ZYX:
        left, right = slab[:, :-1], slab[:, 1:]
        foreground += int(np.count_nonzero((left != 0) | (right != 0)))
        differing += int(np.count_nonzero(left != right))
    return differing / max(1, foreground)


def voxel_flags(volume: Volume) -> tuple[str, ...]:
    """What the voxels and the grid of a canonical volume say: not_hu_like, not_ct, low_coverage, thick_slices."""
    counts = volume.histogram
    flags = []
    if counts.share(*AIR_HU) < MIN_AIR or counts.share(*TISSUE_HU) < MIN_TISSUE:
        flags.append("not_hu_like" if volume.modality == "CT" else "not_ct")
    spacing_z_mm = volume.spacing_zyx_mm[0]
    if spacing_z_mm * volume.shape_zyx[0] < LOW_COVERAGE_MM:
        flags.append("low_coverage")
    if spacing_z_mm > THICK_SLICES_MM:
        flags.append("thick_slices")
    return tuple(flags)


def statistics(volume: Volume) -> dict[str, float | None]:
    """hu_min, hu_p01, hu_p50, hu_p99, hu_max, body_fraction and noise_hu of a canonical volume without its padding.

    HU values are whole, exact for int16 voxels up to histogram.SAMPLED_ABOVE of them; in larger volumes, percentiles,
    body_fraction and, beside padding, hu_min are those of every fourth row. body_fraction is the share above -500 HU
    (table included, lungs not); noise_hu is None where there is too little soft tissue to measure it.
    """
    inside = volume.histogram.without(volume.padding_hu)
    percentiles = {"hu_min": 0.0, "hu_p01": 1.0, "hu_p50": 50.0, "hu_p99": 99.0, "hu_max": 100.0}
    return {
        **{name: inside.percentile(percent) for name, percent in percentiles.items()},
        "body_fraction": inside.share(BODY_ABOVE_HU + 1, INT16.max),
        "noise_hu": noise_hu(volume.voxels),
    }


def noise_hu(voxels_ZYX: NDArray[Any]) -> float | None:
    """Standard deviation of noise in HU from neighbours along x in soft tissue of a few slices; None without any.

    Median absolute difference times 1.4826 / sqrt(2), as for independent normal noise; a smooth kernel correlates
    neighbours, so its noise is underestimated.
    """
    step = max(1, len(voxels_ZYX) // NOISE_SLICES)
    found = [_tissue_differences(slab) for slab in voxels_ZYX[step // 2 :: step]]
    differences = np.concatenate(found)
    if len(differences) < 1000:
        return None
    return float(np.float32(_median(differences)) * 1.4826 / np.sqrt(2))


def _tissue_differences(slab_YX: NDArray[Any]) -> NDArray[Any]:
    """Absolute differences of neighbours along x, of which both are soft tissue."""
    tissue = (slab_YX >= TISSUE_HU[0]) & (slab_YX <= TISSUE_HU[1])
    both = tissue[:, :-1] & tissue[:, 1:]
    return np.abs(slab_YX[:, 1:] - slab_YX[:, :-1])[both]


def _median(differences: NDArray[Any]) -> float:
    """Of whole numbers by counting them, since that takes one pass."""
    if differences.dtype.kind == "f":
        return float(np.median(differences))
    reached = np.cumsum(np.bincount(differences))
    middle = [(len(differences) - 1) // 2, len(differences) // 2]
    return float(np.searchsorted(reached, middle, side="right").mean())
