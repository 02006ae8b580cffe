"""A series of single-frame CT images to one volume in HU.

Headers first: if they already say no, nothing is decoded, but each file is still checked for missing pixel data, so
that every reason is known. Then slice by slice in the order of position into one preallocated array, each with its
own rescale. Which slices form a grid, slices.py says; what an object is, dicom_object.py. Sources: DICOM PS3.3
C.7.6.3 (Image Pixel), C.8.2.1 (CT Image), C.11.1 (Modality LUT), C.7.5.1.1.2 (Pixel Padding Value).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import privacy
from semgen_platform.formats.dicom_object import number, numbers, read_dataset, text, texts
from semgen_platform.formats.dicom_privacy import TAGS as PRIVACY_TAGS
from semgen_platform.formats.dicom_privacy import names_in, shows_capture
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, combined, refusal, refused
from semgen_platform.formats.scaling import Stack, rescaled_slab
from semgen_platform.formats.slices import Grid, Plane, regular_grid
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
    "BitsAllocated", "BitsStored", "HighBit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "PixelPaddingValue", "ContrastBolusAgent", *ATTRIBUTE_TAGS.values(), *PRIVACY_TAGS,
]  # fmt: skip
PIXEL_TAGS = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration", "PixelData",
]  # fmt: skip


@dataclass(frozen=True)
class Slice:
    """The header of one file."""

    place: Place
    plane: Plane
    syntax: str
    native_bytes: int
    """Of its pixels when uncompressed."""
    rescale: tuple[float, float] | None
    """(slope, intercept); None where the header has neither."""
    padding: float | None
    """PixelPaddingValue, a stored value."""
    faults: tuple[Refusal, ...]
    attributes: dict[str, Any]
    burned_in: bool
    kernel: str
    """As found, only to be compared: whether it may leave the file is decided for `attributes`."""


def read_series(files: Sequence[Place], *, min_slices: int) -> Volume:
    """The volume of a series' files in slice order along the normal, affine in LPS+ mm. Raises Refused, OSError."""
    slices, refusals = _headers(files)
    refusals += _series_faults(slices)
    grid = regular_grid([s.plane for s in slices]) if slices else []
    copies = 0
    if not refusals and not isinstance(grid, Grid) and any("duplicate_position" in no.reasons for no in grid):
        slices, grid, copies = _without_copies(slices, grid)
    count = len(files) - copies
    if count < min_slices:
        sentence = f"the series has too few slices: {count}, where at least {min_slices} are asked for"
        refusals.append(refusal("too_few_slices", sentence, slices=count, min_slices=min_slices))
    if refusals or not isinstance(grid, Grid):
        refusals += [] if isinstance(grid, Grid) else grid
        raise Refused(combined([*refusals, *_pixel_faults(slices)]))
    ordered = [slices[n] for n in grid.order]
    voxels = _voxels(ordered)
    return Volume(
        voxels=voxels,
        ijk_to_lps_mm=grid.ijk_to_lps_mm,
        modality="CT",
        attributes=ordered[0].attributes | ({"repair": f"dropped identical slices: {copies}"} if copies else {}),
        flags=_flags(ordered, copies),
        padding_hu=_tagged_padding(ordered),
    )


def _without_copies(slices: list[Slice], faults: list[Refusal]) -> tuple[list[Slice], Grid | list[Refusal], int]:
    """(slices, their grid, copies dropped): without slices that repeat another's place, rescale and pixels exactly.

    All is left as it was where that does not make a regular grid, so that a refusal tells of every slice. Raises
    Refused, OSError.
    """
    places: dict[Any, list[Slice]] = {}
    for item in slices:
        places.setdefault((item.plane, item.rescale), []).append(item)
    kept = [item for group in places.values() for item in _distinct(group)]
    grid = regular_grid([s.plane for s in kept])
    return (kept, grid, len(slices) - len(kept)) if isinstance(grid, Grid) else (slices, faults, 0)


def _distinct(group: list[Slice]) -> list[Slice]:
    """The slices of one place without exact copies of the first."""
    first, *others = group
    if not others:
        return group
    pixels = decoded(first)
    return [first, *(item for item in others if not np.array_equal(decoded(item), pixels))]


def _flags(ordered: Sequence[Slice], copies: int) -> tuple[str, ...]:
    burned_in = ("burned_in_hint",) if any(s.burned_in for s in ordered) else ()
    return (*burned_in, "duplicates_dropped") if copies else burned_in


def read_header(place: Place) -> Slice:
    """What reading a slice needs to know before its pixels. Raises Refused where the header cannot be used, OSError."""
    dataset = read_dataset(place, tags=HEADER_TAGS)
    rows, columns = number(dataset, "Rows"), number(dataset, "Columns")
    if not rows or not columns:
        raise refused("corrupt", "a CT image says no rows or columns")
    slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
    return Slice(
        place=place,
        plane=Plane(
            position_mm=numbers(dataset, "ImagePositionPatient", 3),
            orientation=numbers(dataset, "ImageOrientationPatient", 6),
            pixel_spacing_mm=numbers(dataset, "PixelSpacing", 2),
            shape_yx=(int(rows), int(columns)),
        ),
        syntax=_syntax(dataset),
        native_bytes=int(rows) * int(columns) * int(number(dataset, "BitsAllocated") or 16) // 8,
        rescale=None if slope is None and intercept is None else (1.0 if slope is None else slope, intercept or 0.0),
        padding=number(dataset, "PixelPaddingValue"),
        faults=tuple(_slice_faults(dataset)),
        attributes=_attributes(dataset),
        burned_in=shows_capture(dataset),
        kernel="/".join(texts(dataset, "ConvolutionKernel")),
    )


def _headers(files: Sequence[Place]) -> tuple[list[Slice], list[Refusal]]:
    slices, refusals = [], []
    for file in files:
        try:
            slices.append(read_header(file))
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
    without = sum(s.rescale is None for s in slices)
    if 0 < without < len(slices):
        sentence = f"{without} of {len(slices)} slices have neither slope nor intercept, and the others have"
        faults.append(refusal("inconsistent_rescale", sentence, slices=len(slices), without=without))
    kernels = {s.kernel for s in slices if s.kernel}
    if len(kernels) > 1:
        sentence = f"the slices are of {len(kernels)} reconstruction kernels, and too few of one to be a volume"
        faults.append(refusal("ambiguous_split", sentence, kernels=len(kernels)))
    unread = [uid for uid in sorted({s.syntax for s in slices}) if not can_decode(uid)]
    if unread:
        count = sum(s.syntax in unread for s in slices)
        sentence = (
            f"{count} of {len(slices)} slices are in a transfer syntax without decoder: {_syntax_name(unread[0])}"
        )
        faults.append(
            refusal(
                "unsupported_transfer_syntax", sentence, slices=count, syntaxes=[_syntax_name(uid) for uid in unread]
            )
        )
    return faults


def _syntax(dataset: Any) -> str:
    """The transfer syntax that the meta header names; without one, the uncompressed one that the elements show."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    declared = text(dataset.file_meta, "TransferSyntaxUID")
    implicit, little = dataset.original_encoding
    explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
    return declared or str(ImplicitVRLittleEndian if implicit else explicit)


def is_native(syntax: str) -> bool:
    """Whether pixels in this transfer syntax lie uncompressed in the file."""
    from pydicom.uid import UID

    return UID(syntax).is_transfer_syntax and not UID(syntax).is_encapsulated


def can_decode(syntax: str) -> bool:
    """Whether pixels in this transfer syntax can be read with the decoders that are installed."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if is_native(syntax):
        return True
    try:
        return bool(get_decoder(UID(syntax)).is_available)
    except NotImplementedError:
        return False


def _syntax_name(syntax: str) -> str:
    from pydicom.uid import UID

    return UID(syntax).name if UID(syntax).is_transfer_syntax and not UID(syntax).is_private else "unknown"


def _pixel_faults(slices: Sequence[Slice]) -> list[Refusal]:
    """Slices whose pixel data are missing or short, found without decoding."""
    faults: dict[str, Refusal] = {}
    for item in slices:
        try:
            _pixel_dataset(item)
        except Refused as no:
            faults[no.refusal.sentence] = no.refusal
    return list(faults.values())


def _pixel_dataset(item: Slice) -> Any:
    """The dataset with its pixel data, complete as far as lengths tell. Raises Refused, OSError."""
    from pydicom.uid import UID

    dataset = read_dataset(item.place, tags=PIXEL_TAGS, pixels=True)
    pixels = dataset.get("PixelData")
    if not pixels:
        # pydicom gives an empty dataset, without an error, where encapsulated data end early
        raise refused("truncated", "a slice has no complete pixel data behind its header")
    if is_native(item.syntax) and len(pixels) < item.native_bytes:
        evidence = {"bytes": len(pixels), "expected_bytes": item.native_bytes}
        raise refused("truncated", "the pixel data of a slice end early", **evidence)
    dataset.file_meta.TransferSyntaxUID = UID(item.syntax)
    return dataset


def _voxels(ordered: Sequence[Slice]) -> NDArray[Any]:
    rows, columns = ordered[0].plane.shape_yx
    stack = Stack((len(ordered), rows, columns))
    for index, item in enumerate(ordered):
        slope, intercept = item.rescale or (1.0, 0.0)
        stack.fill(index, rescaled_slab(decoded(item), slope, intercept))
    return stack.voxels


def decoded(item: Slice) -> NDArray[Any]:
    """Stored (y, x) values of one slice. MONOCHROME1 turns only the display, never HU, so it changes nothing here.

    Raises Refused: truncated, decoder_failed (also where a compressed slice comes out constant, as failing decoders
    do), OSError.
    """
    dataset = _pixel_dataset(item)
    try:
        pixels = np.asarray(dataset.pixel_array)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise what they like on a damaged stream; a panic in Rust is no Exception
        raise refused("decoder_failed", "the pixels of a slice cannot be decoded", error=type(error).__name__) from None
    if pixels.shape != item.plane.shape_yx:
        raise refused(
            "decoder_failed", "a slice decodes to another shape than its header says", shape=list(pixels.shape)
        )
    if not is_native(item.syntax) and pixels.min() == pixels.max():
        raise refused("decoder_failed", "a compressed slice decodes to one constant value", value=int(pixels.min()))
    return pixels


def _tagged_padding(ordered: Sequence[Slice]) -> float | None:
    """PixelPaddingValue in HU where all slices agree on it."""
    values = {
        None if s.padding is None else s.padding * (s.rescale or (1, 0))[0] + (s.rescale or (1, 0))[1] for s in ordered
    }
    return values.pop() if len(values) == 1 else None
