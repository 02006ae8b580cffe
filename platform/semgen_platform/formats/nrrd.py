"""NRRD files (attached, or .nhdr with one data file) to volumes.

Geometry must be said: a patient space (LPS, RAS or LAS), three space directions and an origin; nothing is assumed.
Encodings raw and gzip. Source: the NRRD format description (teem.sourceforge.net/nrrd/format.html), sections 4 to 6.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from semgen_platform.formats import rawdata
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, combined, refusal, refused
from semgen_platform.volume import Refusal, Volume

TYPES = {
    "int8": "i1", "int8_t": "i1", "signed char": "i1",
    "uint8": "u1", "uint8_t": "u1", "uchar": "u1", "unsigned char": "u1",
    "int16": "i2", "int16_t": "i2", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2",
    "uint16": "u2", "uint16_t": "u2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2",
    "int32": "i4", "int32_t": "i4", "int": "i4", "signed int": "i4",
    "uint32": "u4", "uint32_t": "u4", "uint": "u4", "unsigned int": "u4",
    "int64": "i8", "int64_t": "i8", "longlong": "i8", "long long": "i8", "signed long long": "i8",
    "uint64": "u8", "uint64_t": "u8", "ulonglong": "u8", "unsigned long long": "u8", "unsigned long long int": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip
MM_PER_UNIT = {
    "": 1.0,
    "mm": 1.0,
    "millimeter": 1.0,
    "millimeters": 1.0,
    "millimetre": 1.0,
    "cm": 10.0,
    "m": 1000.0,
    "um": 0.001,
}
LPS_SIGNS = {  # signs that turn a space into LPS
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
END = re.compile(rb"\n\r?\n")  # a blank line parts an attached header from its data
ENCODINGS = {"raw": False, "gzip": True, "gz": True}  # encoding: compressed


@dataclass(frozen=True)
class Header:
    fields: Mapping[str, str]
    """Keys in lower case without blanks; key/value pairs (`:=`) are free text and left out."""
    data_offset: int


def read_header(place: Place) -> Header:
    """The fields of a NRRD header. Raises Refused if it does not end, OSError."""
    text, offset = rawdata.header_text(place, END)
    fields = {}
    for line in text.splitlines()[1:]:
        key, colon, value = line.partition(": ")
        if colon and not line.startswith("#") and ":=" not in key:
            fields[key.strip().lower().replace(" ", "")] = value.strip()
    return Header(fields, offset)


def data_file(place: Place) -> Place | None:
    """The data file of a detached header, or None for an attached one. Raises Refused, OSError."""
    name = _data_file_name(read_header(place))
    return None if name is None else rawdata.data_place(place, name)


def shape_xyz(place: Place) -> tuple[int, ...]:
    """Voxels along each axis, as the header says. Raises Refused, OSError."""
    return tuple(_sizes(read_header(place)))


def read_nrrd(place: Place) -> Volume:
    """The volume in its own voxel order, affine in LPS+ mm. Raises Refused, OSError."""
    header = read_header(place)
    sizes = _sizes(header)
    dtype, type_fault = _dtype(header)
    affine, geometry_fault = _affine(header)
    faults = [no for no in (_axes_fault(header, sizes), type_fault, geometry_fault) if no is not None]
    if faults:
        raise Refused(combined(faults))
    assert dtype is not None, "a fault is raised above"
    assert affine is not None, "a fault is raised above"
    data = data_file(place)
    compressed = ENCODINGS[header.fields["encoding"].lower()]
    block = rawdata.Block(data or place, compressed, offset=0 if data else header.data_offset, skip=_byte_skip(header))
    voxels = block.read(dtype, (sizes[2], sizes[1], sizes[0]))
    return Volume(voxels=voxels, ijk_to_lps_mm=affine)


def _data_file_name(header: Header) -> str | None:
    name = header.fields.get("datafile")
    if name is not None and (name.startswith("LIST") or "%" in name):
        raise refused("unsupported_format", "the voxels are spread over several data files; write them as one")
    return name


def _sizes(header: Header) -> list[int]:
    words = header.fields.get("sizes", "").split()
    return [int(word) for word in words] if all(re.fullmatch(r"\d{1,9}", word) for word in words) else []


def _axes_fault(header: Header, sizes: list[int]) -> Refusal | None:
    encoding = header.fields.get("encoding", "").lower()
    if encoding not in ENCODINGS:
        return refusal("unsupported_format", "the NRRD encoding is neither raw nor gzip")
    if not sizes or min(sizes) < 1 or header.fields.get("dimension") != str(len(sizes)):
        return refusal("corrupt", "the NRRD header gives no sizes that fit its dimension")
    if len(sizes) == 3 and not any(
        kind in header.fields.get("kinds", "").lower() for kind in ("color", "vector", "list", "matrix")
    ):
        return None
    if len(sizes) > 3 or len(sizes) == 3:
        return refusal("four_d", "the NRRD axes are not three axes of space; export one volume a file", shape=sizes)
    return refusal("corrupt", "the NRRD file has fewer than three axes", shape=sizes)


def _dtype(header: Header) -> tuple[np.dtype[Any] | None, Refusal | None]:
    name = TYPES.get(header.fields.get("type", "").lower())
    if name is None:
        return None, refusal("unsupported_dtype", "the NRRD type is neither an integer nor a real number type")
    endian = header.fields.get("endian", "").lower()
    if name[1] != "1" and endian not in ("little", "big"):
        return None, refusal("corrupt", "the NRRD header does not say the byte order")
    return np.dtype((">" if endian == "big" else "<") + name), None


def _affine(header: Header) -> tuple[np.ndarray[Any, np.dtype[np.float64]] | None, Refusal | None]:
    signs = LPS_SIGNS.get(header.fields.get("space", "").lower())
    columns = [rawdata.vector(v, 3) for v in re.findall(r"\(([^()]*)\)", header.fields.get("spacedirections", ""))]
    origin = rawdata.vector(header.fields.get("spaceorigin", "").strip("()"), 3)
    lacking = [
        name
        for name, value in (
            ("space", signs),
            ("space directions", len(columns) == 3 and all(columns)),
            ("space origin", origin),
        )
        if not value
    ]
    if lacking:
        sentence = f"the NRRD header lacks a usable {', '.join(lacking)}, so orientation or position is not known"
        return None, refusal("missing_geometry", sentence, lacking=lacking)
    units = set(re.findall(r'"([^"]*)"', header.fields.get("spaceunits", ""))) or {"mm"}
    scale = MM_PER_UNIT.get(units.pop().lower()) if len(units) == 1 else None
    if scale is None:
        return None, refusal("missing_geometry", "the NRRD space units are not one known unit of length, such as mm")
    affine = np.eye(4)
    affine[:3, :3] = scale * np.array(columns).T
    affine[:3, 3] = scale * np.array(origin)
    return np.diag([*(signs or ()), 1.0]) @ affine, None


def _byte_skip(header: Header) -> int:
    if header.fields.get("lineskip", "0") != "0":
        raise refused("unsupported_format", "NRRD files with a line skip are not read")
    skip = header.fields.get("byteskip", "0")
    if not re.fullmatch(r"\d{1,12}", skip):
        raise refused("unsupported_format", "NRRD files with a negative byte skip are not read")
    return int(skip)
