"""MetaImage files (.mha, or .mhd with one data file) to volumes.

Geometry must be said: spacing, directions and offset; MetaImage positions are LPS. `AnatomicalOrientation` is
informative and ignored, as ITK does. Source: the MetaIO documentation (ITK), tags of MetaObject and MetaImage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.formats import rawdata
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, combined, refusal, refused
from semgen_platform.volume import Refusal, Volume

TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
GEOMETRY = {  # what must be said: the tags that say it (older names are synonyms) and how many numbers
    "spacing": (("ElementSpacing",), 3),
    "directions": (("TransformMatrix", "Rotation", "Orientation"), 9),
    "offset": (("Offset", "Position", "Origin"), 3),
}
END = re.compile(rb"^ElementDataFile[^\n]*(\n|\Z)", re.MULTILINE)  # by definition the last tag


@dataclass(frozen=True)
class Header:
    fields: Mapping[str, str]
    data_offset: int


def read_header(place: Place) -> Header:
    """The tags of a MetaImage header. Raises Refused, OSError."""
    text, offset = rawdata.header_text(place, END)
    pairs = (line.partition("=") for line in text.splitlines())
    return Header({key.strip(): value.strip() for key, equals, value in pairs if equals}, offset)


def data_file(place: Place) -> Place | None:
    """The data file of an .mhd, or None where the data follow the header. Raises Refused, OSError."""
    name = read_header(place).fields.get("ElementDataFile", "")
    if not name:
        raise refused("corrupt", "the MetaImage header names no data")
    if name.upper() == "LOCAL":
        return None
    if name.startswith("LIST") or "%" in name:
        raise refused("unsupported_format", "the voxels are spread over several data files; write them as one")
    return rawdata.data_place(place, name)


def shape_xyz(place: Place) -> tuple[int, ...]:
    """Voxels along each axis, as the header says. Raises Refused, OSError."""
    return tuple(_sizes(read_header(place)))


def read_metaimage(place: Place) -> Volume:
    """The volume in its own voxel order, affine in LPS+ mm. Raises Refused, OSError."""
    header = read_header(place)
    sizes = _sizes(header)
    faults = [no for no in (_axes_fault(header, sizes), _type_fault(header), _geometry_fault(header)) if no is not None]
    if faults:
        raise Refused(combined(faults))
    data = data_file(place)
    offset = _header_size(header) + (0 if data else header.data_offset)
    block = rawdata.Block(data or place, _is_true(header, "CompressedData"), offset=offset)
    voxels = block.read(_dtype(header), (sizes[2], sizes[1], sizes[0]))
    return Volume(voxels=voxels, ijk_to_lps_mm=_affine(header))


def _is_true(header: Header, key: str) -> bool:
    return header.fields.get(key, "False").lower() in ("true", "1")


def _sizes(header: Header) -> list[int]:
    words = header.fields.get("DimSize", "").split()
    return [int(word) for word in words] if all(re.fullmatch(r"\d{1,9}", word) for word in words) else []


def _axes_fault(header: Header, sizes: list[int]) -> Refusal | None:
    if not _is_true(header, "BinaryData"):
        return refusal("unsupported_format", "only binary MetaImage data are read")
    if not sizes or min(sizes) < 1 or header.fields.get("NDims") != str(len(sizes)):
        return refusal("corrupt", "the MetaImage header gives no sizes that fit its NDims")
    if len(sizes) > 3:
        return refusal("four_d", f"the file has {len(sizes)} axes; export one volume a file", shape=sizes)
    if len(sizes) < 3:
        return refusal("corrupt", "the MetaImage file has fewer than three axes", shape=sizes)
    return None


def _type_fault(header: Header) -> Refusal | None:
    if header.fields.get("ElementNumberOfChannels", "1") != "1":
        return refusal("color_image", "the voxels have several channels")
    if header.fields.get("ElementType") not in TYPES:
        return refusal("unsupported_dtype", "the MetaImage element type is neither an integer nor a real number type")
    return None


def _geometry_fault(header: Header) -> Refusal | None:
    lacking = [name for name in GEOMETRY if _geometry(header, name) is None]
    if not lacking:
        return None
    sentence = f"the MetaImage header lacks a usable {', '.join(lacking)}, so orientation or position is not known"
    return refusal("missing_geometry", sentence, lacking=lacking)


def _geometry(header: Header, name: str) -> list[float] | None:
    keys, count = GEOMETRY[name]
    found = [header.fields[key] for key in keys if key in header.fields]
    return rawdata.vector(found[0], count) if found else None


def _affine(header: Header) -> NDArray[np.float64]:
    """The matrix lists the LPS direction of one index axis after another, so that its rows are our columns."""
    directions = np.array(_geometry(header, "directions")).reshape(3, 3).T
    return geometry.affine_from(_geometry(header, "spacing"), _geometry(header, "offset"), directions)


def _dtype(header: Header) -> np.dtype[Any]:
    big = _is_true(header, "BinaryDataByteOrderMSB") or _is_true(header, "ElementByteOrderMSB")
    return np.dtype((">" if big else "<") + TYPES[header.fields["ElementType"]])


def _header_size(header: Header) -> int:
    size = header.fields.get("HeaderSize", "0")
    if not re.fullmatch(r"\d{1,12}", size):
        raise refused("unsupported_format", "MetaImage data at an unknown offset (HeaderSize -1) are not read")
    return int(size)
