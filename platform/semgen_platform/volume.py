"""What a reader returns: one regular `Volume` in patient space, or a `Refusal` that explains itself.

Reason codes and flags are stable API (DESIGN.md section 6). Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.histogram import Histogram, histogram

REASONS: tuple[str, ...] = (
    # not a scan
    "not_an_image", "pdf", "localizer", "secondary_capture", "dose_report", "structured_report", "presentation_state",
    "segmentation", "rt_object", "label_map", "color_image", "not_ct_modality", "four_d",
    # cannot be read
    "truncated", "corrupt", "unsupported_transfer_syntax", "decoder_failed", "encrypted", "unsupported_format",
    "unreadable",
    # limits
    "too_large", "decompression_bomb", "path_escape", "too_many_members", "timed_out",
    # geometry
    "missing_geometry", "missing_slices", "uneven_spacing", "duplicate_position", "gantry_tilt",
    "inconsistent_orientation", "inconsistent_shape", "sheared_affine", "singular_affine", "ambiguous_split",
    # values
    "not_finite", "inconsistent_rescale", "unsupported_dtype",
    # size
    "too_few_slices",
)  # fmt: skip
"""In order of precedence: of all that apply, the first is the primary reason."""

FLAGS: tuple[str, ...] = (
    "not_ct", "not_hu_like", "low_coverage", "thick_slices", "gantry_tilt_repaired", "slices_interpolated",
    "duplicates_dropped", "burned_in_hint", "header_conflict", "oblique", "patient_unknown",
)  # fmt: skip

TEMPORARY_REASONS = ("unreadable", "decoder_failed", "timed_out", "too_large")
"""Refusals that may pass without a change of the file: a mount, a time limit, a larger machine. They are tried
again at the next ingest, and withdraw no scan that was read from the same source before."""

UNTRAINABLE_FLAGS = frozenset({"not_ct", "not_hu_like", "burned_in_hint"})
"""Scans with one of these are kept but left out of the default profile."""

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class Refusal:
    """Why a source is no scan: reason codes (the primary first), one sentence, and the numbers it rests on."""

    reasons: tuple[str, ...]
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.reasons, "a refusal names a reason"
        unknown = [r for r in self.reasons if r not in REASONS]
        assert not unknown, f"unknown reason codes {unknown}"
        ordered = tuple(sorted(dict.fromkeys(self.reasons), key=REASONS.index))
        object.__setattr__(self, "reasons", ordered)


@dataclass(frozen=True, eq=False)
class Volume:
    """One regular scan.

    voxels : (z, y, x), C order; HU as int16 when every value is an integer in range, else float32.
    ijk_to_lps_mm : (4, 4) float64, voxel index (x, y, z, 1) to LPS+ millimetres.
    modality : "CT", or "" where the file format says none.
    attributes : allowed attributes of the source (privacy/), orientation and affine as found among them.
    flags : what the file itself says, such as header_conflict or oblique.
    padding_hu : the value outside the scanner's field of view, or None.
    """

    voxels: NDArray[Any]
    ijk_to_lps_mm: NDArray[np.float64]
    modality: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    padding_hu: float | None = None

    def __post_init__(self) -> None:
        assert self.voxels.ndim == 3, f"a volume has three axes, not {self.voxels.ndim}"
        assert self.ijk_to_lps_mm.shape == (4, 4)
        unknown = [f for f in self.flags if f not in FLAGS]
        assert not unknown, f"unknown flags {unknown}"

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        z, y, x = self.voxels.shape
        return z, y, x

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        return geometry.spacing_zyx_mm(self.ijk_to_lps_mm)

    @cached_property
    def histogram(self) -> Histogram:
        """Of all voxels, counted when it is first asked for."""
        return histogram(self.voxels)

    def relabelled(self, **changes: Any) -> Volume:
        """The same voxels and affine with other fields, and the histogram, if it was counted before."""
        assert not changes.keys() & {"voxels", "ijk_to_lps_mm"}
        other = replace(self, **changes)
        if "histogram" in vars(self):
            vars(other)["histogram"] = self.histogram
        return other


def narrowest(voxels_ZYX: NDArray[Any]) -> NDArray[Any]:
    """The same values as C-ordered int16 if all are integers in range, else float32. Never clips or rounds."""
    whole = all(fits_int16(slab) for slab in voxels_ZYX)
    return np.ascontiguousarray(voxels_ZYX, dtype=np.int16 if whole else np.float32)


def fits_int16(values: NDArray[Any]) -> bool:
    """Whether all values are integers in the range of int16."""
    if values.dtype == np.int16 or values.size == 0:
        return True
    low, high = values.min(), values.max()
    if not (low >= INT16.min and high <= INT16.max):  # also where NaN
        return False
    return values.dtype.kind in "iu" or bool(np.array_equal(values, np.rint(values)))


def canonical(volume: Volume, *, owned: bool = False) -> Volume:
    """The volume with axes flipped and permuted towards LPS+ (never resampled), in the narrowest dtype.

    The orientation code and the affine as found join the attributes, so an export can give the source's order back.
    owned : whether nobody else looks at these voxels, so that they may be flipped where they are.
    """
    found = np.asarray(volume.ijk_to_lps_mm, dtype=np.float64)
    axes = geometry.canonical_axes(found)
    voxels, affine = geometry.reorient(volume.voxels, found, axes)
    if owned and axes.order == (0, 1, 2) and volume.voxels.dtype == np.int16 and volume.voxels.flags.carray:
        voxels = geometry.flip_in_place(volume.voxels, axes.flipped)
    flags = volume.flags
    if geometry.obliquity_deg(affine) > geometry.OBLIQUE_TOLERANCE_DEG and "oblique" not in flags:
        flags = (*flags, "oblique")
    as_found = {"orientation": geometry.orientation_code(found), "source_ijk_to_lps_mm": found.reshape(-1).tolist()}
    return replace(
        volume,
        voxels=narrowest(voxels),
        ijk_to_lps_mm=affine,
        flags=flags,
        attributes={**volume.attributes, **as_found},
    )
