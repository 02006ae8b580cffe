"""A CT series to one volume in HU, out of single images or the frames of multi-frame objects.

Headers first: if they already say no, nothing is decoded, but each file is still checked for missing pixel data, so
that every reason is known. Then slice by slice in the order of position into one preallocated array, each with its
own rescale. Which slices form a grid, slices.py says; what can be made one, repair.py; how pixels are decoded,
pixels.py. Sources: DICOM PS3.3 C.8.2.1 (CT Image), C.11.1 (Modality LUT), C.7.5.1.1.2 (Pixel Padding Value).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import privacy
from semgen_platform.formats.dicom_header import number, numbers, read_dataset, text, texts
from semgen_platform.formats.dicom_object import is_multiframe
from semgen_platform.formats.dicom_privacy import TAGS as PRIVACY_TAGS
from semgen_platform.formats.dicom_privacy import names_in, shows_capture
from semgen_platform.formats.multiframe import GROUP_TAGS, frames_of
from semgen_platform.formats.pixels import (
    LAYOUT_TAGS,
    Encoded,
    PixelReader,
    can_decode,
    encoded,
    pixel_faults,
    syntax_name,
)
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, combined, refusal
from semgen_platform.formats.repair import Repair, plan_repair, repaired
from semgen_platform.formats.scaling import Stack, rescaled_slab
from semgen_platform.formats.slices import Grid, Plane, distances_along, regular_grid
from semgen_platform.formats.values import PADDING_AT_MOST_HU, corner_padding
from semgen_platform.volume import Refusal, Volume

ATTRIBUTE_TAGS = {  # attribute of privacy.ALLOWED_ATTRIBUTES: keyword
    "kernel": "ConvolutionKernel",
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "body_part": "BodyPartExamined",
    "slice_thickness_mm": "SliceThickness",
    "kvp": "KVP",
    "tube_current_ma": "XRayTubeCurrent",
    "exposure_mas": "Exposure",
}
HEADER_TAGS = [
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    *LAYOUT_TAGS, "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "RescaleType", "PixelPaddingValue", "ContrastBolusAgent", "SOPClassUID", *GROUP_TAGS, *ATTRIBUTE_TAGS.values(),
    *PRIVACY_TAGS,
]  # fmt: skip
HOUNSFIELD_TYPES = ("", "HU", "US")  # of RescaleType: Hounsfield units, or nothing said


@dataclass(frozen=True)
class Slice:
    """The header of one slice: of a file, or of one frame of a multi-frame file."""

    plane: Plane
    pixels: Encoded
    rescale: tuple[float, float] | None
    """(slope, intercept); None where the header has neither."""
    says: tuple[bool, bool]
    """Whether the header has a slope, and an intercept."""
    padding: float | None
    """PixelPaddingValue, a stored value."""
    faults: tuple[Refusal, ...]
    header: Any
    """For the attributes, which are taken of one slice only."""
    burned_in: bool
    hounsfield: bool
    """False where the header names another unit, as maps of iodine or effective atomic number do."""
    kernel: str
    """As found, only to be compared: whether it may leave the file is decided for the attributes."""


def read_series(
    files: Sequence[Place], *, frames: Sequence[Sequence[int]] = (), min_slices: int, repair: bool = False
) -> Volume:
    """The volume of a series' files in slice order along the normal, affine in LPS+ mm. Raises Refused, OSError.

    frames : of multi-frame files, the frames of each that count; empty for all.  repair : whether a gantry tilt and
    uneven steps may be mended by interpolation (repair.py); exact copies of slices are always dropped.
    """
    slices, refusals = _headers(files, frames)
    count = len(slices) + len(refusals)
    refusals += _series_faults(slices)
    grid = regular_grid([s.plane for s in slices]) if slices else []
    reader, copies = PixelReader(), 0
    if not refusals and not isinstance(grid, Grid) and any("duplicate_position" in no.reasons for no in grid):
        slices, grid, copies = _without_copies(slices, grid, reader, repair=repair)
    if count - copies < min_slices:
        sentence = f"the series has too few slices: {count - copies}, where at least {min_slices} are asked for"
        refusals.append(refusal("too_few_slices", sentence, slices=count - copies, min_slices=min_slices))
    if not refusals and isinstance(grid, Grid):
        return _described(_on_grid(slices, grid, reader), slices, copies, None)
    faults = [] if isinstance(grid, Grid) else grid
    plan = plan_repair([s.plane for s in slices], faults) if repair else None
    if refusals or plan is None:
        raise Refused(combined([*refusals, *faults, *pixel_faults(s.pixels for s in slices)]))
    return _described(_off_grid(slices, plan, reader), slices, copies, plan)


def _on_grid(slices: Sequence[Slice], grid: Grid, reader: PixelReader) -> Volume:
    ordered = [slices[n] for n in grid.order]
    stack = Stack((len(ordered), *ordered[0].plane.shape_yx))
    for index, item in enumerate(ordered):
        stack.fill(index, reader.stored(item.pixels), *(item.rescale or (1.0, 0.0)))
    return Volume(stack.voxels, grid.ijk_to_lps_mm, padding_hu=_tagged_padding(ordered))


def _off_grid(slices: Sequence[Slice], plan: Repair, reader: PixelReader) -> Volume:
    padding = _tagged_padding(slices)
    if padding is None:
        padding = corner_padding(_slab(slices[plan.order[0]], reader)[None])
    fill = float(PADDING_AT_MOST_HU) if padding is None else padding
    voxels = repaired(plan, lambda n: _slab(slices[n], reader), fill, padding)
    return Volume(voxels, plan.ijk_to_lps_mm, padding_hu=fill)


def _slab(item: Slice, reader: PixelReader) -> NDArray[Any]:
    """(y, x) HU of one slice."""
    slope, intercept = item.rescale or (1.0, 0.0)
    return rescaled_slab(reader.stored(item.pixels), slope, intercept)


def _described(volume: Volume, slices: Sequence[Slice], copies: int, plan: Repair | None) -> Volume:
    """The volume with what the row of its source says: attributes, the verdict on its geometry, flags."""
    steps = np.diff(distances_along([s.plane for s in slices])[1])
    said = [f"dropped identical slices: {copies}"] if copies else []
    said += [plan.said] if plan else []
    verdict: dict[str, Any] = {
        "verdict": "repaired" if said else "ok",
        "steps_mm": [round(float(v), 6) for v in (steps.min(), np.median(steps), steps.max())],
    }
    flags = [
        *(["burned_in_hint"] if any(s.burned_in for s in slices) else []),
        *(["not_hu_like"] if not all(s.hounsfield for s in slices) else []),
        *(["duplicates_dropped"] if copies else []),
        *(plan.flags if plan else ()),
    ]
    repair = {"repair": "; ".join(said)} if said else {}
    lowest = slices[distances_along([s.plane for s in slices])[0][0]]
    return replace(volume, modality="CT", attributes=_attributes(lowest.header) | verdict | repair, flags=tuple(flags))


def _without_copies(
    slices: list[Slice], faults: list[Refusal], reader: PixelReader, *, repair: bool
) -> tuple[list[Slice], Grid | list[Refusal], int]:
    """(slices, their grid, copies dropped): without slices that repeat another's place, rescale and pixels exactly.

    All is left as it was where that makes neither a regular grid nor, if asked for, one that can be repaired, so that a
    refusal tells of every slice. Raises Refused, OSError.
    """
    places = Counter((item.plane, item.rescale) for item in slices)
    met, kept = set[Any](), list[Slice]()
    for item in slices:  # file by file, since a file of many frames is read as a whole
        place = item.plane, item.rescale
        same = (place, _pixel_digest(item, reader)) if places[place] > 1 else place
        if same not in met:
            kept.append(item)
        met.add(same)
    planes = [s.plane for s in kept]
    grid = regular_grid(planes)
    usable = isinstance(grid, Grid) or (repair and plan_repair(planes, grid) is not None)
    return (kept, grid, len(slices) - len(kept)) if usable else (slices, faults, 0)


def _pixel_digest(item: Slice, reader: PixelReader) -> bytes:
    pixels = np.ascontiguousarray(reader.stored(item.pixels))
    return hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode() + pixels.tobytes()).digest()


def read_headers(place: Place, frames: Sequence[int] = ()) -> list[Slice]:
    """What reading the slices of a file needs to know before their pixels; `frames` as for `read_series`.

    Raises Refused where the header cannot be used, OSError.
    """
    dataset = read_dataset(place, tags=HEADER_TAGS)
    if not is_multiframe(dataset):
        return [_slice(dataset, encoded(place, dataset, None))]
    headers = frames_of(dataset)
    first = encoded(place, dataset, len(headers))
    return [_slice(headers[n], replace(first, frame=n)) for n in frames or range(len(headers))]


def _slice(header: Any, pixels: Encoded) -> Slice:
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    says = slope is not None, intercept is not None
    return Slice(
        plane=Plane(
            position_mm=numbers(header, "ImagePositionPatient", 3),
            orientation=numbers(header, "ImageOrientationPatient", 6),
            pixel_spacing_mm=numbers(header, "PixelSpacing", 2),
            shape_yx=pixels.shape_yx,
        ),
        pixels=pixels,
        rescale=(1.0 if slope is None else slope, intercept or 0.0) if any(says) else None,
        says=says,
        padding=number(header, "PixelPaddingValue"),
        faults=tuple(_slice_faults(header)),
        header=header,
        burned_in=shows_capture(header),
        hounsfield=text(header, "RescaleType").upper() in HOUNSFIELD_TYPES,
        kernel="/".join(texts(header, "ConvolutionKernel")),
    )


def _headers(files: Sequence[Place], frames: Sequence[Sequence[int]]) -> tuple[list[Slice], list[Refusal]]:
    slices, refusals = list[Slice](), []
    for index, file in enumerate(files):
        try:
            slices += read_headers(file, frames[index] if frames else ())
        except Refused as no:
            refusals.append(no.refusal)
    return slices, refusals


def _attributes(dataset: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, keyword in ATTRIBUTE_TAGS.items():
        is_text = privacy.ALLOWED_ATTRIBUTES[name] is str
        value = "/".join(texts(dataset, keyword)) if is_text else number(dataset, keyword)
        if value is not None and value != "":
            found[name] = value
    if "ContrastBolusAgent" in dataset:
        found["contrast"] = text(dataset, "ContrastBolusAgent").upper() not in ("", "NONE", "NO")
    return privacy.allowed(found, names_in(dataset))


def _slice_faults(dataset: Any) -> list[Refusal]:
    """What makes the stored values of one slice no Hounsfield units by a slope and an intercept."""
    faults = []
    if dataset.get("ModalityLUTSequence"):
        faults.append(
            refusal("inconsistent_rescale", "the values are mapped by a lookup table instead of slope and intercept")
        )
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        value = number(dataset, keyword)
        if text(dataset, keyword) and (value is None or (keyword == "RescaleSlope" and value == 0)):
            faults.append(refusal("inconsistent_rescale", f"{keyword} is zero or no finite number"))
    stored, high = number(dataset, "BitsStored"), number(dataset, "HighBit")
    if stored and high is not None and high != stored - 1:
        sentence = (
            f"the highest bit of the pixels is {high:g} with {stored:g} bits stored; only right-aligned pixels are read"
        )
        faults.append(refusal("unsupported_dtype", sentence, high_bit=int(high), bits_stored=int(stored)))
    return faults


def _series_faults(slices: Sequence[Slice]) -> list[Refusal]:
    """Faults of values and encoding over all slices, each kind once."""
    faults = list({fault.sentence: fault for s in slices for fault in s.faults}.values())
    said = any(s.says[0] for s in slices), any(s.says[1] for s in slices)
    without = sum(s.says != said for s in slices)
    if without:
        sentence = f"{without} of {len(slices)} slices lack a slope or an intercept that the others have"
        faults.append(refusal("inconsistent_rescale", sentence, slices=len(slices), without=without))
    kernels = {s.kernel for s in slices if s.kernel}
    if len(kernels) > 1:
        sentence = f"the slices are of {len(kernels)} reconstruction kernels, and too few of one to be a volume"
        faults.append(refusal("ambiguous_split", sentence, kernels=len(kernels)))
    unread = [uid for uid in sorted({s.pixels.syntax for s in slices}) if not can_decode(uid)]
    if unread:
        count = sum(s.pixels.syntax in unread for s in slices)
        sentence = f"{count} of {len(slices)} slices are in a transfer syntax without decoder: {syntax_name(unread[0])}"
        faults.append(
            refusal(
                "unsupported_transfer_syntax", sentence, slices=count, syntaxes=[syntax_name(uid) for uid in unread]
            )
        )
    return faults


def _tagged_padding(ordered: Sequence[Slice]) -> float | None:
    """PixelPaddingValue in HU where all slices agree on it."""
    values = {
        None if s.padding is None else s.padding * (s.rescale or (1, 0))[0] + (s.rescale or (1, 0))[1] for s in ordered
    }
    return values.pop() if len(values) == 1 else None
