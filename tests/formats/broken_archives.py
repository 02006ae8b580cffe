"""Broken archives and files of other kinds, and the near miss of each."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from tests.formats.broken import NII, NII_GZ, Build, Case, file
from tests.formats.broken_dicom import dicom, named

Member = tuple[str, bytes]


def zip_bytes(*members: Member, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as packed:
        for name, data in members:
            packed.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return stream.getvalue()


def tar_bytes(*members: Member, **fields: Any) -> bytes:
    """A tar of these members; fields of the first one's header are changed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for n, (name, data) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items() if n == 0 else ():
                setattr(info, key, value)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def with_size(tar: bytes, size_field: bytes) -> bytes:
    """The tar with another size in its first header, and the checksum to it."""
    header = bytearray(tar[:512])
    header[124:136] = size_field
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tar[512:]


def archive(data: bytes, scan: bytes = b"") -> Build:
    """An archive, and for the independent reader the NIfTI scan that lies in it."""

    def build(folder: Path) -> None:
        file(data, "packed")(folder)
        if scan:
            (folder / "plain").mkdir()
            (folder / "plain" / "a.nii").write_bytes(scan)

    return build


def zip_patched(packed: bytes, signature: bytes, offset: int, value: bytes) -> bytes:
    """The zip with bytes of its first record of this signature replaced."""
    at = packed.index(signature) + offset
    return packed[:at] + value + packed[at + len(value) :]


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
ENCRYPTED = zip_patched(zip_patched(zip_bytes(("a.nii", NII)), LOCAL, 6, b"\1"), CENTRAL, 8, b"\1")
ZIP, TAR = zip_bytes(("a.nii", NII)), tar_bytes(("a.nii", NII))
TWO_MEMBERS = tar_bytes(("b.txt", b"x"), ("a.nii", NII))
TWO_GIB = struct.pack("<I", 2**31)
ITSELF = (-512).to_bytes(12, "big", signed=True)  # in base 256: the next header would be this one again
ARCHIVE_CASES = [
    Case(
        "a name that leads outside", "zip", ("path_escape",),
        archive(zip_bytes(("../a.nii", NII))),
        archive(zip_bytes(("a..b/.../a.nii", NII)), NII),
    ),
    Case(
        "an absolute name", "tar", ("path_escape",),
        archive(tar_bytes(("/a.nii", NII))),
        archive(tar_bytes(("./a.nii", NII)), NII),
    ),
    Case(
        "an archive cut in half", "zip", ("truncated",),
        archive(ZIP[: len(ZIP) // 2]),
        archive(ZIP, NII),
    ),
    Case(
        "an archive cut between its members", "tar", ("truncated",),
        archive(TAR[: 512 + -(-len(NII) // 512) * 512]),
        archive(TAR[: 512 + -(-len(NII) // 512) * 512 + 1024], NII),
    ),
    Case(
        "a checksum of another member", "zip", ("corrupt",),
        archive(zip_patched(ZIP, CENTRAL, 16, b"\0\0\0\0")),
        archive(zip_patched(ZIP, CENTRAL, 38, b"\1"), NII),  # an attribute that nothing rests on
    ),
    Case(
        "two members of one name", "zip", ("corrupt",),
        archive(zip_bytes(("a/b.nii", NII), ("a//b.nii", NII))),
        archive(zip_bytes(("a/b.nii", NII)), NII),
    ),
    Case(
        "a size that leads back", "tar", ("corrupt",),
        archive(TWO_MEMBERS[:1024] + with_size(TWO_MEMBERS[1024:], ITSELF)),
        archive(with_size(TAR, b"\x80" + len(NII).to_bytes(11, "big")), NII),
    ),
    Case(
        "damage between two headers", "tar", ("corrupt",),
        archive(TWO_MEMBERS[:1172] + b"\xff\xff" + TWO_MEMBERS[1174:]),  # in the checksum of the second header
        archive(TAR, NII),
    ),
    Case(
        "an encrypted member", "zip", ("encrypted",),
        archive(ENCRYPTED),
        archive(ZIP, NII),
    ),
    Case(
        "a member packed by bzip2", "zip", ("unsupported_format",),
        archive(zip_bytes(("a.nii", NII), method=zipfile.ZIP_BZIP2)),
        archive(zip_bytes(("a.nii", NII), method=zipfile.ZIP_STORED), NII),
    ),
    Case(
        "an archive inside another", "zip", ("unsupported_format",),
        archive(zip_bytes(("inner.zip", ZIP))),
        archive(zip_bytes(("a.zip/a.nii", NII)), NII),
    ),
    Case(
        "an archive inside another", "tar", ("unsupported_format",),
        archive(tar_bytes(("inner.tar", TAR))),
        archive(tar_bytes(("a.tar/a.nii.gz", NII_GZ)), NII),
    ),
    Case(
        "an empty archive", "zip", ("not_an_image",),
        archive(zip_bytes()),
        archive(ZIP, NII),
    ),
    Case(
        "a link in an archive", "tar", ("not_an_image",),
        archive(tar_bytes(("a.nii", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        archive(tar_bytes(("a.nii", NII), type=tarfile.AREGTYPE), NII),
    ),
    Case(
        "a member above the limit", "zip", ("too_large",),
        archive(zip_bytes(("a.nii", NII + b"\0"))),
        archive(ZIP, NII), limits={"MEMBER_LIMIT": len(NII)},
    ),
    Case(
        "a member above the limit", "tar", ("too_large",),
        archive(tar_bytes(("a.nii", NII + b"\0"))),
        archive(TAR, NII), limits={"MEMBER_LIMIT": len(NII)},
    ),
    Case(
        "a bomb", "zip", ("decompression_bomb",),
        archive(zip_bytes(("a.nii", bytes(2**22)))),
        archive(ZIP, NII), limits={"RATIO_FREE": 2**14},
    ),
    Case(
        "a bomb", "tar", ("decompression_bomb",),
        archive(gzip.compress(tar_bytes(("a.nii", bytes(2**22))))),
        archive(gzip.compress(TAR), NII), limits={"RATIO_FREE": 2**14},
    ),
    Case(
        "a promise that deflate cannot keep", "zip", ("decompression_bomb",),
        archive(zip_patched(ZIP, CENTRAL, 24, TWO_GIB)),
        archive(ZIP, NII),
    ),
    Case(
        "a member too many", "zip", ("too_many_members",),
        archive(zip_bytes(("a.nii", NII), ("b.txt", b"x"), ("c.txt", b"x"))),
        archive(zip_bytes(("a.nii", NII), ("b.txt", b"x")), NII), limits={"MOST_MEMBERS": 2},
    ),
    Case(
        "a member too many", "tar", ("too_many_members",),
        archive(tar_bytes(("a.nii", NII), ("b.txt", b"x"), ("c.txt", b"x"))),
        archive(tar_bytes(("a.nii", NII), ("b.txt", b"x")), NII), limits={"MOST_MEMBERS": 2},
    ),
]  # fmt: skip

# --- other files ---


def linked(target: str) -> Build:
    def build(folder: Path) -> None:
        file(NII, "b.nii")(folder)
        (folder / "in").rename(folder / "plain")
        (folder / "in").mkdir()
        (folder / "in" / "a.nii").symlink_to(folder / target)

    return build


def pipe(folder: Path) -> None:
    (folder / "in").mkdir()
    os.mkfifo(folder / "in" / "a.nii")


OTHER_CASES = [
    Case("a text", "file", ("not_an_image",), file(b"no scan", "a.txt"), file(NII, "a.txt", plain="a.nii")),
    Case("a pipe", "file", ("not_an_image",), pipe, file(NII)),
    Case("a PDF", "file", ("pdf",), file(b"%PDF-1.4", "a.nii"), file(NII, "a.pdf", plain="a.nii")),
    Case(
        "an archive of another kind", "file", ("unsupported_format",),
        file(b"7z\xbc\xaf\x27\x1c" + bytes(40), "a.nii"),
        file(NII, "a.7z", plain="a.nii"),
    ),
    Case(
        "an HDF5 file", "file", ("unsupported_format",),
        file(b"\x89HDF\r\n\x1a\n" + bytes(40), "a.nii"),
        file(NII, "a.h5", plain="a.nii"),
    ),
    Case(
        "a text that is named as a slice", "file", ("corrupt",),
        file(b"no scan", "a.dcm"),
        named(dicom(), "a.txt"),
    ),
    Case("a link to nowhere", "file", ("unreadable",), linked("nowhere"), linked("plain/b.nii")),
]  # fmt: skip
