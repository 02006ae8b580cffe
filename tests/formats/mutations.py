"""Seeded mutants of small files of every format, and what listing and reading make of each.

A mutant is a function of the seeds and its number, so that a failure can be made again from the number alone. Changes
are blind (bits, runs, cuts, insertions) or know the fields of a header (lengths, dimensions, offsets, value
representations, checksums). Packed files are changed inside as often as outside, where the checksums of zip and gzip
would stop them.
"""

from __future__ import annotations

import gzip
import io
import re
import shutil
import struct
import sys
import tarfile
import traceback
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SEED = 11

STAGES = ("listed", "header", "pixels", "volume")
"""How far a mutant came: refused by the listing, by its header, while its voxels were decoded, or read."""

Random = np.random.Generator
Field = tuple[int, int, str]
"""(offset, bytes, code) of a header field: "<" and ">" are integers, "<f" and ">f" real numbers, "V" a value
representation, "t" a text of fixed size, "l" a line of a text header."""


@dataclass(frozen=True)
class Seed:
    """One file to be mutated as `name`, among the others of its folder or archive.

    order, implicit : how DICOM elements are written.  pixels_at : where voxels begin.  packing : "", gzip, zip, tar,
    tar.gz, or deflated for a DICOM data set that begins at `packed_at`.
    """

    format: str
    name: str
    data: bytes
    pixels_at: int
    others: tuple[tuple[str, bytes], ...] = ()
    packing: str = ""
    order: str = "<"
    implicit: bool = False
    packed_at: int = 0

    @property
    def kind(self) -> str:
        return f"{self.format} {self.packing}".strip()


@dataclass(frozen=True)
class Mutant:
    """files : by name.  said : what was changed."""

    seed: Seed
    files: dict[str, bytes]
    said: str


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. problem : "" where all is well, else what no input may bring about."""

    kind: str
    stage: str
    said: str
    problem: str = ""


# --- making a mutant ---


def mutant(seeds: Sequence[Seed], number: int) -> Mutant:
    rng = np.random.default_rng([SEED, number])
    seed = seeds[number % len(seeds)]
    data, said = seed.data, []
    outside = bool(seed.packing) and rng.random() < 0.5
    for _ in range(0 if outside else 1 + int(rng.integers(3) == 0)):
        data, what = _changed(data, inner_fields(seed, data), seed.pixels_at, rng)
        said.append(what)
    name, packed = _packed(seed, data)
    if outside:
        packed, what = _changed(packed, outer_fields(seed.packing, packed), max(64, seed.packed_at), rng)
        said.append(f"packed {what}")
    files = {name: packed} if seed.packing in ("zip", "tar", "tar.gz") else {**dict(seed.others), name: packed}
    return Mutant(seed, files, f"{seed.kind}: {', '.join(said)}")


def _changed(data: bytes, fields: list[Field], body_at: int, rng: Random) -> tuple[bytes, str]:
    """The data after one change, most often one of the body behind the headers; and what it was."""
    if fields and rng.random() < 0.3:
        return _changed_field(data, fields[int(rng.integers(len(fields)))], rng)
    if not data:
        return data, "nothing, for nothing is left"
    low = body_at if body_at < len(data) and rng.random() < 0.75 else 0
    at, count = int(rng.integers(low, max(low + 1, len(data)))), int(rng.integers(1, 65))
    name = str(rng.choice(["bits", "run", "cut", "removal", "insertion", "copy"], p=[0.35, 0.2, 0.1, 0.1, 0.15, 0.1]))
    if name == "bits":
        changed = bytearray(data)
        for bit in rng.integers(at * 8, min(len(data), at + count) * 8, int(rng.integers(1, 9))):
            changed[bit // 8] ^= 1 << (bit % 8)
        return bytes(changed), f"bits at {at}"
    run = bytes([int(rng.choice([0, 255, 40, int(rng.integers(256))]))]) * count
    if name == "run":
        return data[:at] + run[: len(data) - at] + data[at + count :], f"run at {at}"
    if name == "cut":
        return data[:at], f"cut at {at}"
    if name == "removal":
        return data[:at] + data[at + count :], f"removal at {at}"
    inserted = run if name == "insertion" else data[at : at + count]
    return data[:at] + inserted + data[at:], f"{name} at {at}"


def _changed_field(data: bytes, field: Field, rng: Random) -> tuple[bytes, str]:
    at, size, code = field
    old = data[at : at + size]
    new = _hostile_value(old, code, rng)
    tail = data[at + size :]
    changed = data[:at] + new + tail
    return changed, f"field at {at}: {old[:16]!r} to {new[:16]!r}"


def _hostile_value(old: bytes, code: str, rng: Random) -> bytes:
    """Another value of a field, of the same size but for texts in text headers ("l", a line)."""
    size = len(old)
    if code == "V":
        return bytes(rng.choice(VALUE_REPRESENTATIONS))
    if code == "l":
        return _hostile_line(old, rng)
    if code == "t":
        text = bytes(rng.choice(TEXTS)) if rng.random() < 0.7 else rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        return text[:size].ljust(size, b" ")
    if code.endswith("f"):
        value = float(rng.choice([np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-30, 1e30, 352.0, 1.5]))
        return struct.pack(code[0] + {4: "f", 8: "d"}[size], value)
    top = 1 << (8 * size)
    was = int.from_bytes(old, "little" if code == "<" else "big")
    values = [0, 1, 2, top - 1, top // 2, top // 2 - 1, was + 1, was - 1, was * 2, int(rng.integers(1 << 16))]
    return (values[int(rng.integers(len(values)))] % top).to_bytes(size, "little" if code == "<" else "big")


def _hostile_line(old: bytes, rng: Random) -> bytes:
    """A line of a text header without its number, with another one, twice, or not at all."""
    numbers = list(re.finditer(rb"-?\d[\d.]*", old))
    choice = int(rng.integers(4))
    if choice == 0 or not numbers:
        return b"" if rng.random() < 0.5 else old + old
    match = numbers[int(rng.integers(len(numbers)))]
    new = b"" if choice == 1 else bytes(rng.choice(TEXTS))
    return old[: match.start()] + new + old[match.end() :]


TEXTS = np.array(
    [b"-1", b"0", b"1", b"9" * 20, b"9" * 400, b"nan", b"inf", b"1e400", b"1e308", b"-1e308", b"1\\2\\3", b"()" * 9,
     b"LIST", b"%d", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.1.99", b"../a", b"\xff\xfe",
     b"ISO_IR 999"],
    dtype=object,
)  # fmt: skip
VALUE_REPRESENTATIONS = np.array(
    [b"SQ", b"US", b"UN", b"OB", b"DS", b"IS", b"FD", b"AT", b"PN", b"UI", b"OW", b"LO", b"ZZ", b"\0\0"], dtype=object
)
LONG_LENGTHS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


def inner_fields(seed: Seed, data: bytes) -> list[Field]:
    if seed.format == "dicom":
        return dicom_fields(data, seed.order, implicit=seed.implicit)
    if seed.format == "nifti":
        return NIFTI_2_FIELDS if data[:2] == b"\x1c\x02" else NIFTI_1_FIELDS
    return [(m.start(), len(m.group()), "l") for m in re.finditer(rb"[^\n]*\n", data[: seed.pixels_at])]


def dicom_fields(data: bytes, order: str, *, implicit: bool) -> list[Field]:
    """Value representations, lengths and values of the elements as they follow one another, items among them."""
    at, fields = 132 if data[128:132] == b"DICM" else 0, list[Field]()
    while at + 12 <= len(data):
        meta = data[at : at + 2] == b"\2\0"
        byte_order = "<" if meta else order
        group = struct.unpack(byte_order + "H", data[at : at + 2])[0]
        head, length_at, length_size = 8, at + 4, 4
        if group != 0xFFFE and (meta or not implicit):
            fields.append((at + 4, 2, "V"))
            long = data[at + 4 : at + 6] in LONG_LENGTHS
            head, length_at, length_size = (12, at + 8, 4) if long else (8, at + 6, 2)
        length = int.from_bytes(data[length_at : length_at + length_size], "little" if byte_order == "<" else "big")
        fields.append((length_at, length_size, byte_order))
        at += head
        if 0 < length <= 64 and at + length <= len(data):
            fields.append((at, length, byte_order if length == 2 else "t"))
        at += 0 if length == 0xFFFFFFFF else length
    return fields


NIFTI_1_FIELDS: list[Field] = [
    (0, 4, "<"), *[(40 + 2 * n, 2, "<") for n in range(8)], (70, 2, "<"), (72, 2, "<"),
    *[(76 + 4 * n, 4, "<f") for n in range(4)], (108, 4, "<f"), (112, 4, "<f"), (116, 4, "<f"), (123, 1, "<"),
    (252, 2, "<"), (254, 2, "<"), *[(256 + 4 * n, 4, "<f") for n in range(18)], (344, 4, "t"),
]  # fmt: skip
NIFTI_2_FIELDS: list[Field] = [
    (0, 4, "<"), (12, 2, "<"), (14, 2, "<"), *[(16 + 8 * n, 8, "<") for n in range(8)],
    *[(104 + 8 * n, 8, "<f") for n in range(4)], (168, 8, "<"), (176, 8, "<f"), (184, 8, "<f"),
    (344, 4, "<"), (348, 4, "<"), *[(352 + 8 * n, 8, "<f") for n in range(18)], (500, 4, "<"),
]  # fmt: skip
ZIP_FIELDS = {  # signature: (offset, bytes) of flags, method, checksum, sizes, lengths, offsets
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (38, 4), (42, 4)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}
TAR_FIELDS = ((0, 100), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155))


def outer_fields(packing: str, data: bytes) -> list[Field]:
    if packing == "zip":
        found = [(m.start(), fields) for key, fields in ZIP_FIELDS.items() for m in re.finditer(re.escape(key), data)]
        return [(start + offset, size, "<") for start, fields in found for offset, size in fields]
    if packing == "tar":
        starts = [match.start() - 257 for match in re.finditer(b"ustar", data)]
        return [(start + offset, size, "t") for start in starts for offset, size in TAR_FIELDS]
    if packing == "deflated":
        return []
    return [(3, 1, "<"), (8, 1, "<"), (len(data) - 8, 4, "<"), (len(data) - 4, 4, "<")]  # of gzip


# --- packing ---


def _packed(seed: Seed, data: bytes) -> tuple[str, bytes]:
    """(name, bytes) of the file that the mutant lies in."""
    if seed.packing == "gzip":
        return f"{seed.name}.gz", gzip.compress(data, 1, mtime=0)
    if seed.packing == "deflated":
        deflate = zlib.compressobj(1, wbits=-15)
        return seed.name, data[: seed.packed_at] + deflate.compress(data[seed.packed_at :]) + deflate.flush()
    if not seed.packing:
        return seed.name, data
    members = {seed.name: data, **dict(seed.others)}
    packed = _zip(members) if seed.packing == "zip" else _tar(members)
    return "packed", gzip.compress(packed, 1, mtime=0) if seed.packing == "tar.gz" else packed


def _zip(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, data in members.items():
            packed.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED, 1)
    return stream.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return stream.getvalue()


# --- reading a mutant; in a child process ---

_decoding = [False]  # whether the decoder was entered since this was last cleared
_written: list[str] = []  # names of files that were opened for writing outside the mutant's folder


def attempt(seeds: Sequence[Seed], scratch: Path, number: int) -> Outcome:
    """List and read one mutant in a folder of its own below `scratch`, which is then removed."""
    _prepared(scratch)
    made = mutant(seeds, number)
    folder = scratch / f"{number}"
    folder.mkdir()
    for name, data in made.files.items():
        (folder / name).write_bytes(data)
    _written.clear()
    try:
        stage, problem = _read(folder, made)
    except BaseException as error:  # a panic of a decoder is no Exception, and must not get here either
        stage, problem = STAGES[0], "".join(traceback.format_exception(error))
    if _written:
        problem += f" wrote to {_written}"
    shutil.rmtree(folder)
    return Outcome(made.seed.kind, stage, made.said, problem)


def _read(folder: Path, made: Mutant) -> tuple[str, str]:
    """(how far the mutated file came, what is wrong with any result)."""
    from semgen_platform.formats.reader import read_source
    from semgen_platform.formats.sniff import list_sources
    from semgen_platform.volume import Volume

    stage, problem = 0, ""
    for source in list_sources(folder):
        _decoding[0] = False
        result = read_source(source, min_slices=1)
        if isinstance(result, Volume):
            problem += _fault(result)
        names = {place.member or Path(place.path).name for place in source.files}
        if source.refusal is None and names & {made.seed.name, f"{made.seed.name}.gz"}:
            stage = max(stage, 3 if isinstance(result, Volume) else 2 if _decoding[0] else 1)
    return STAGES[stage], problem


def _fault(volume: Any) -> str:
    """What no volume may be, whatever its file was."""
    regular = np.isfinite(volume.ijk_to_lps_mm).all() and min(volume.spacing_zyx_mm) > 0
    sound = volume.voxels.dtype in (np.int16, np.float32) and volume.voxels.size and np.isfinite(volume.voxels).all()
    return "" if regular and sound else f"a volume of {volume.voxels.dtype} voxels {volume.voxels.shape} is not sound"


@cache
def _prepared(scratch: Path) -> None:
    """Once in a process: watch what it opens for writing, and where decoding begins."""
    import nibabel  # noqa: F401  # so that no mutant pays for it
    from pydicom.pixels.decoders.base import Decoder

    from semgen_platform.formats import rawdata, reader, sniff  # noqa: F401

    sys.dont_write_bytecode = True
    sys.addaudithook(lambda event, arguments: _watch(event, arguments, str(scratch)))
    for owner, name in ((Decoder, "as_array"), (rawdata.Block, "read")):
        setattr(owner, name, _noted(getattr(owner, name)))


def _noted(decode: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        _decoding[0] = True
        return decode(*arguments, **options)

    return noted


def _watch(event: str, arguments: tuple[Any, ...], scratch: str) -> None:
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")
    writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & 0o3)  # O_WRONLY, O_RDWR
    if (changes or writes) and not isinstance(arguments[0], int) and not str(arguments[0]).startswith(scratch):
        _written.append(str(arguments[0]))
