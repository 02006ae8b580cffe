"""The pixels of single slices and frames: whether they can be decoded, whether they are whole, and their stored values.

Decoding is pydicom's, with whichever of its decoders are installed, and what lies in a file as it is meant is read from
there; what the values mean, dicom.py says. Sources: DICOM PS3.5 section 8 and annex A.4 (native and encapsulated pixel
data), PS3.3 C.7.6.3 (Image Pixel).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.formats.dicom_header import header_value, number, read_dataset, text
from semgen_platform.formats.dicom_scan import EXPLICIT, IMPLICIT, ScannedHeader
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, refused
from semgen_platform.volume import Refusal

PIXEL_TAGS = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames", "PhotometricInterpretation", "PlanarConfiguration", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "PixelData",
]  # fmt: skip
LAYOUT_TAGS = [
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation",
]  # fmt: skip
"""What `encoded` asks of a header beside Rows and Columns."""


@dataclass(frozen=True, slots=True)
class Plain:
    """Pixels that are 16-bit integers in the file, little endian, row by row.

    offset : of the first.  unused_bits : at the top of each; they may hold anything.
    """

    offset: int
    signed: bool
    unused_bits: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """Where the pixels of one slice lie, and how.

    frame : number in a multi-frame file, from 0; None where the file holds one slice.  native_bytes : of all pixels of
    the file when they are not compressed.  plain : None where it takes pydicom to read them.
    """

    place: Place
    frame: int | None
    syntax: str
    shape_yx: tuple[int, int]
    native_bytes: int
    plain: Plain | None = None


def encoded(place: Place, dataset: Any, frames: int | None) -> Encoded:
    """How a file keeps its pixels, from its header; of a multi-frame file, for its first frame.

    Raises Refused where the header says no rows or columns.
    """
    rows, columns = number(dataset, "Rows"), number(dataset, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        raise refused("corrupt", "a CT image says no rows or columns")
    shape = int(rows), int(columns)
    size = shape[0] * shape[1] * int(number(dataset, "BitsAllocated") or 16) // 8 * (frames or 1)
    item = Encoded(place, None if frames is None else 0, _syntax(dataset), shape, size)
    return replace(item, plain=_plain(item, dataset)) if isinstance(dataset, ScannedHeader) else item


def _plain(item: Encoded, header: ScannedHeader) -> Plain | None:
    """How to read a slice without pydicom; None where it would not take the pixels just as they lie, or complain."""
    vr, offset, length = header.pixel_data
    size = 2 * item.shape_yx[0] * item.shape_yx[1]
    bits, representation = header_value(header, "BitsStored"), header_value(header, "PixelRepresentation")
    ordinary = (
        item.frame is None
        and item.syntax in (IMPLICIT, EXPLICIT)
        and vr in (b"", b"OB", b"OW")
        and max(item.shape_yx) < 2**16
        and size <= length < 2 * size  # twice the size would be a second frame
        and offset + length == item.place.size()
        and header_value(header, "BitsAllocated") == 16
        and header_value(header, "SamplesPerPixel") == 1
        and header_value(header, "NumberOfFrames") in (None, 1)
        and text(header, "PhotometricInterpretation") in ("MONOCHROME1", "MONOCHROME2")
        and type(bits) is type(representation) is int
        and 1 <= bits <= 16
        and representation in (0, 1)
    )
    return Plain(offset, signed=representation == 1, unused_bits=16 - bits) if ordinary else None


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


def syntax_name(syntax: str) -> str:
    """Its name in the standard, or "unknown": a private UID could name anybody."""
    from pydicom.uid import UID

    return UID(syntax).name if UID(syntax).is_transfer_syntax and not UID(syntax).is_private else "unknown"


def pixel_faults(items: Iterable[Encoded]) -> list[Refusal]:
    """Files whose pixel data are missing or short, found without decoding, each kind once."""
    faults: dict[str, Refusal] = {}
    for item in {item.place: item for item in items}.values():
        try:
            _pixel_dataset(item)
        except Refused as no:
            faults[no.refusal.sentence] = no.refusal
    return list(faults.values())


class PixelReader:
    """Stored values slice by slice; what was read of a multi-frame file is kept until the next file is asked for."""

    def __init__(self) -> None:
        self._kept: tuple[Place, Any] | None = None

    def stored(self, item: Encoded) -> NDArray[Any]:
        """Stored (y, x) values of one slice. MONOCHROME1 turns only the display, never HU, so it changes nothing here.

        Raises Refused: truncated, decoder_failed (also where a compressed slice comes out constant, as failing decoders
        do), OSError.
        """
        from pydicom.pixels.utils import pixel_array

        plain = None if item.plain is None else _read_plain(item, item.plain)
        if plain is not None:
            return plain
        dataset = self._dataset(item)
        try:
            pixels = np.asarray(pixel_array(dataset, index=item.frame or 0))
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except (
            BaseException
        ) as error:  # decoders raise what they like on a damaged stream; a Rust panic is no Exception
            name = type(error).__name__
            raise refused("decoder_failed", "the pixels of a slice cannot be decoded", error=name) from None
        if pixels.shape != item.shape_yx:
            sentence = "a slice decodes to another shape than its header says"
            raise refused("decoder_failed", sentence, shape=list(pixels.shape))
        if not is_native(item.syntax) and pixels.min() == pixels.max():
            raise refused("decoder_failed", "a compressed slice decodes to one constant value", value=int(pixels.min()))
        return pixels

    def _dataset(self, item: Encoded) -> Any:
        if item.frame is None:
            return _pixel_dataset(item)
        if self._kept is None or self._kept[0] != item.place:
            self._kept = None  # before the next one is read, so that two are never held
            self._kept = (item.place, _pixel_dataset(item))
        return self._kept[1]


def _read_plain(item: Encoded, plain: Plain) -> NDArray[Any] | None:
    """(y, x) values, read-only; None where the file has become shorter than it was. Raises Refused, OSError."""
    with item.place.open() as stream:
        stream.seek(plain.offset)
        data = stream.read(item.native_bytes)
    if len(data) < item.native_bytes:
        return None
    pixels = np.frombuffer(data, "<i2" if plain.signed else "<u2").reshape(item.shape_yx)
    return (pixels << plain.unused_bits) >> plain.unused_bits if plain.unused_bits else pixels


def _pixel_dataset(item: Encoded) -> Any:
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
