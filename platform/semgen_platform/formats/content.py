"""What a file is by its first bytes; names and extensions decide nothing here.

Sources: DICOM PS3.10 section 7.1 and PS3.5 section 7.1 (data elements), the NIfTI-1 and NIfTI-2 headers, the NRRD and
MetaImage format descriptions. Pure functions of bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Literal

HEAD_BYTES = 4096  # enough for a NIfTI-2 header inside gzip, a tar header, and the keys at the top of a MetaImage
INFLATED_BYTES = 1024  # of a gzip member: NIfTI-2 needs 544, tar 512

Content = Literal[
    "dicom", "nifti", "nifti_pair", "analyze", "nrrd", "metaimage", "pdf", "zip", "tar", "other_archive",
    "other_volume", "gzipped_volume", "damaged_gzip", "empty", "unknown",
]  # fmt: skip

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
OTHER_ARCHIVE_MAGIC = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
OTHER_VOLUME_MAGIC = (b"\x89HDF\r\n\x1a\n", b"CDF\x01", b"CDF\x02")  # MINC 2 and 1
EXPLICIT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
METAIMAGE_KEY = re.compile(rb"^(ObjectType|NDims|Comment|ObjectSubType|ID|ParentID|Name)\s*=", re.MULTILINE)


def inflated(head: bytes) -> bytes | None:
    """The first bytes inside a gzip file, itself if it is none, or None where the stream is damaged."""
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, INFLATED_BYTES)
    except zlib.error:
        return None


def content_of(head: bytes) -> Content:
    """The kind of content that a file beginning with `head` (HEAD_BYTES, or all of a shorter file) holds."""
    if not head:
        return "empty"
    gzipped = head[:2] == b"\x1f\x8b"
    inner = inflated(head)
    if inner is None:
        return "damaged_gzip"
    nifti = _nifti_content(inner)
    if nifti is not None:
        return nifti
    if gzipped:
        return "tar" if is_tar(inner) else "unknown" if _scan_content(inner) is None else "gzipped_volume"
    scan = _scan_content(head)
    if scan is not None:
        return scan
    if head.startswith(b"%PDF-"):
        return "pdf"
    if head.startswith(ZIP_MAGIC):
        return "zip"
    if is_tar(head):
        return "tar"
    if head.startswith(OTHER_ARCHIVE_MAGIC):
        return "other_archive"
    return "other_volume" if head.startswith(OTHER_VOLUME_MAGIC) else "unknown"


def _scan_content(head: bytes) -> Content | None:
    if is_dicom(head):
        return "dicom"
    if head.startswith(b"NRRD000"):
        return "nrrd"
    return "metaimage" if METAIMAGE_KEY.match(head) and b"DimSize" in head else None


def is_tar(head: bytes) -> bool:
    """Whether a POSIX or GNU tar begins here. Older ones have no mark and are not recognised."""
    return head[257:262] == b"ustar"


def is_dicom(head: bytes) -> bool:
    """Whether a DICOM file begins here: preamble and prefix, or a first data element of group 2 or 8 without them."""
    return head[128:132] == b"DICM" or has_bare_dataset(head)


def has_bare_dataset(head: bytes) -> bool:
    """Whether `head` begins with a plausible element of group 0002 or 0008: explicit VR, or a short implicit length."""
    if len(head) < 12:
        return False
    for order in "<>":
        group, element, length = struct.unpack(order + "HHI", head[:8])
        if group in (0x0002, 0x0008) and element <= 0x0070:
            return head[4:6] in EXPLICIT_VRS or (order == "<" and 0 < length <= 256)
    return False


def nifti_shape_xyz(header: bytes) -> tuple[int, ...]:
    """Voxels along each axis of a NIfTI or Analyze header; none for an axis count that is no such."""
    order = _byte_order(header)
    assert order is not None, "only called for headers that content_of knows"
    if struct.unpack(order + "i", header[:4])[0] == 540:
        dims = struct.unpack(order + "8q", header[16:80])
    else:
        dims = struct.unpack(order + "8h", header[40:56])
    return tuple(max(0, int(n)) for n in dims[1 : dims[0] + 1]) if 1 <= dims[0] <= 7 else ()


def _byte_order(header: bytes) -> str | None:
    for order in "<>":
        if len(header) >= 4 and struct.unpack(order + "i", header[:4])[0] in (348, 540):
            return order
    return None


def nifti_version(header: bytes) -> int:
    """1 or 2 by the header size in its first four bytes; 0 for anything else, 1 for Analyze too."""
    order = _byte_order(header)
    if order is None or len(header) < 348:
        return 0
    return 2 if struct.unpack(order + "i", header[:4])[0] == 540 else 1


def is_pair(header: bytes) -> bool:
    """Whether the voxels of this NIfTI header lie in a file of their own."""
    return header[344:348] == b"ni1\x00" or header[4:8] == b"ni2\x00"


def _nifti_content(header: bytes) -> Content | None:
    version = nifti_version(header)
    if not version:
        return None
    if header[344:348] == b"n+1\x00" or (version == 2 and header[4:8] == b"n+2\x00"):
        return "nifti"
    if is_pair(header):
        return "nifti_pair"
    dimensions = struct.unpack((_byte_order(header) or "<") + "h", header[40:42])[0]
    return "analyze" if version == 1 and 1 <= dimensions <= 7 else None
