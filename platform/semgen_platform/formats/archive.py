"""Zip, tar and tar.gz files, read in place: what members they have, and each member's bytes as a stream.

Nothing is ever extracted under a member's name, so no name can lead anywhere; one that tries is refused all the same.
Archives come from outside, so that names, counts, sizes and ratios are bounded before memory or disk is taken for them.
Each process keeps the few archives it used last open; a tar.gz is inflated, and a tar of a bucket copied, once into an
unnamed temporary file, which ends with the process however that ends; a zip of a bucket is read where it is.
Sources: PKWARE APPNOTE 6.3 (zip), POSIX.1-2001 pax (tar), RFC 1952 (gzip).
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from semgen_platform.formats import files
from semgen_platform.formats.content import ZIP_MAGIC
from semgen_platform.formats.refusing import Refused, refusal, refused
from semgen_platform.volume import Refusal

DEFLATE_RATIO = 1032
"""No deflate stream grows by more, so that a larger promise is a lie found before memory is taken for it."""

OPEN_ARCHIVES = 2  # kept open by a process; sources of one archive follow each other
MOST_MEMBERS = 1_000_000
MEMBER_LIMIT = 2**35
"""Bytes of one member, 32 GiB: a whole-body scan of 1024 x 1024 x 8000 float32 voxels."""
RATIO_LIMIT, RATIO_FREE = 200, 2**32
"""An archive may grow by this factor, and the first 4 GiB are free: CT grows two- to fivefold, empty slices more."""
COPY_BYTES = 2**20
ZIP_LIST_BYTES = 2**27
"""Of a zip's list of members: an entry takes 46 bytes and its name, and is many times as large in memory."""
TAR_NAME_BYTES = 2**20
"""Of a name in a tar, or of the extended header that holds it; tarfile reads them whole."""
TEMPORARY_SHARE = 20
"""Of the temporary folder a twentieth is left to others."""
REMOTE_FRESH_S = 60.0
"""So long an archive of a bucket is taken to be what it was; if it is not, its stream says so."""
GZIP_MAGIC = b"\x1f\x8b"
ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED_BIT = 0x1


@dataclass(frozen=True)
class Member:
    """One entry that is no folder.

    validator : (size, CRC of its bytes) in a zip, (size, time of change) in a tar.  refusal : why it is not read.
    """

    name: str
    size: int
    validator: tuple[int, int]
    refusal: Refusal | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    """An open archive: its members by name in the order of the file, and how to open the n-th entry."""

    members: dict[str, Member]
    number: dict[str, int]
    open: Callable[[int], io.RawIOBase]
    close: Callable[[], None]


@dataclass(eq=False)
class _Kept:
    """An archive that stays open, as it was at its validator, which was asked for last at `checked` (monotonic)."""

    archive: _Opened
    validator: tuple[int, int]
    checked: float


_kept: OrderedDict[str, _Kept] = OrderedDict()


def members(path: str) -> tuple[Member, ...]:
    """The members of an archive, folders left out; of two with one name in a tar the later counts, as tar has it.

    Raises Refused where the archive as a whole cannot be read or breaks a limit, OSError.
    """
    return tuple(_archive(path).members.values())


def find(path: str, name: str) -> Member | None:
    """One member by its name. Raises as `members` does."""
    return _archive(path).members.get(name)


def open_member(path: str, name: str) -> BinaryIO:
    """The bytes of one member as a seekable stream. Its errors, in reading too, are Refused or OSError."""
    member = find(path, name)
    if member is None:
        raise refused("unreadable", "the archive has no such member any more")
    if member.refusal is not None:
        raise Refused(member.refusal)
    archive = _archive(path)
    return io.BufferedReader(archive.open(archive.number[name]))


def _archive(path: str) -> _Opened:
    kept = _kept.pop(path, None)
    now = time.monotonic()
    if kept is None or not files.is_remote(path) or now - kept.checked > REMOTE_FRESH_S:
        validator = files.validator(path)
        if kept is not None and kept.validator != validator:
            kept.archive.close()
            kept = None
        kept = kept or _Kept(_open(path, *validator), validator, now)
        kept.checked = now
    _kept[path] = kept
    while len(_kept) > OPEN_ARCHIVES:
        _kept.popitem(last=False)[1].archive.close()
    return kept.archive


def _open(path: str, size: int, stamp: int) -> _Opened:
    """By the first bytes: zipfile would find a zip at the end of a tar, and miss all else in it."""
    with ExitStack() as closing, _refusals():
        file = closing.enter_context(files.open_file(path))
        is_zip = file.read(4).startswith(ZIP_MAGIC)
        file.seek(0)
        if is_zip:
            opened = _open_zip(file, size)
        else:
            plain = closing.enter_context(_plain_tar(file, size, remote=files.is_remote(path)))
            opened = _open_tar(plain, stamp)
        closing.pop_all()
    return opened


@contextmanager
def _refusals() -> Iterator[None]:
    """What the archive libraries raise for damaged files, which may be anything, as refusals."""
    try:
        yield
    except (Refused, MemoryError):
        raise
    except (EOFError, tarfile.ReadError):
        raise refused("truncated", "the archive ends early") from None
    except OSError as error:
        if error.errno is None:  # gzip.BadGzipFile and its like, which no system call raised
            raise refused("corrupt", "the archive is damaged") from None
        raise
    except Exception as error:
        raise refused("corrupt", "the archive is damaged", error=type(error).__name__) from None


def _indexed(listed: list[Member]) -> tuple[dict[str, Member], dict[str, int]]:
    if len(listed) > MOST_MEMBERS:
        raise refused("too_many_members", "the archive has too many members", members=len(listed), limit=MOST_MEMBERS)
    return {m.name: m for m in listed}, {m.name: n for n, m in enumerate(listed)}


def _clean(name: str) -> str:
    """The name without "./" and "//", so that what a header says of a neighbour finds it, and in characters that can be
    written; tar names may be of any encoding."""
    return str(PurePosixPath(name)).encode("utf-8", "backslashreplace").decode()


def _name_fault(name: str) -> Refusal | None:
    pure = PurePosixPath(name.replace("\\", "/"))
    if not pure.parts:
        return refusal("not_an_image", "the member has no name")
    if pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0][:2] or "\0" in name:
        return refusal("path_escape", "the member's name leads outside the archive")
    return None


def _size_fault(size: int) -> Refusal | None:
    if size <= MEMBER_LIMIT:
        return None
    return refusal(
        "too_large", "the member is larger than is read from an archive", bytes=size, limit_bytes=MEMBER_LIMIT
    )


def _check_growth(inflated: int, stored: int) -> None:
    if inflated > max(RATIO_FREE, RATIO_LIMIT * stored):
        raise refused(
            "decompression_bomb",
            f"the archive grows more than {RATIO_LIMIT}-fold when it is inflated",
            bytes=stored,
            limit_ratio=RATIO_LIMIT,
        )


# --- zip ---


def _open_zip(stream: BinaryIO, size: int) -> _Opened:
    if not zipfile.is_zipfile(stream):
        raise refused("truncated", "the archive ends before its list of members")
    bounded = _ListBounded(stream, ZIP_LIST_BYTES)
    file: Any = zipfile.ZipFile(bounded)
    bounded.limit = None
    if min((info.header_offset for info in file.infolist()), default=0):
        raise refused("corrupt", "the archive does not begin with its first member: another was put before it")
    infos = [info for info in file.infolist() if not info.filename.endswith("/")]
    _check_names([_clean(info.filename) for info in infos])
    _check_growth(sum(info.file_size for info in infos), size)
    listed, number = _indexed([_zip_member(info) for info in infos])

    def open_number(number: int) -> io.RawIOBase:
        with _refusals():
            return _Translated(file.open(infos[number]))

    return _Opened(listed, number, open_number, stream.close)


class _ListBounded:
    """The stream of an archive, of which nothing is read at once that is larger than the limit, if there is one: the
    list of members of a zip, or a name in a tar."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self._read: Callable[[int], bytes] = stream.read
        self.limit: int | None = limit
        self.seek, self.tell, self.close = stream.seek, stream.tell, stream.close
        self.seekable = stream.seekable

    def read(self, size: int = -1) -> bytes:
        if self.limit is not None and size > self.limit:
            sentence = "the archive's list of members, or a name in it, is too long"
            raise refused("too_many_members", sentence, limit_bytes=self.limit)
        return self._read(size)


def _check_names(names: list[str]) -> None:
    """In a zip nothing says which of two members with one name counts, and one of them would be lost."""
    if len(set(names)) < len(names):
        doubled = len(names) - len(set(names))
        raise refused(
            "corrupt", "members of the archive share a name; pack it with names of their own", doubled=doubled
        )


def _zip_member(info: zipfile.ZipInfo) -> Member:
    fault = _name_fault(info.filename) or _size_fault(info.file_size)
    if info.flag_bits & ENCRYPTED_BIT:
        fault = refusal("encrypted", "the member is encrypted; unpack the archive with its password")
    elif info.compress_type not in ZIP_METHODS:
        fault = fault or refusal(
            "unsupported_format", "the member is compressed in a way that is not read; pack it with deflate",
            method=info.compress_type,
        )  # fmt: skip
    elif stat.S_ISLNK(info.external_attr >> 16):
        fault = fault or refusal("not_an_image", "the member is a link")
    elif info.file_size > DEFLATE_RATIO * info.compress_size + COPY_BYTES:
        fault = fault or refusal(
            "decompression_bomb", "the member promises more bytes than its compressed ones can hold",
            bytes=info.compress_size, promised_bytes=info.file_size,
        )  # fmt: skip
    return Member(_clean(info.filename), info.file_size, (info.file_size, info.CRC), fault)


class _Translated(io.RawIOBase):
    """A stream of a zip member whose library errors come out as refusals."""

    name = ""  # pydicom asks

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _refusals():
            data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _refusals():
            return int(self._inner.seek(offset, whence))

    def tell(self) -> int:
        return int(self._inner.tell())

    def close(self) -> None:
        self._inner.close()
        super().close()


# --- tar ---


def _open_tar(file: Any, stamp: int) -> _Opened:
    """stamp : time of change of the archive, for members that have none of their own."""
    end = os.fstat(file.fileno()).st_size
    listed: list[Member] = []
    places: list[tuple[int, int]] = []  # (start, size), in which a long list takes less than in what tarfile gives
    bounded: Any = _ListBounded(file, TAR_NAME_BYTES)
    with tarfile.open(fileobj=bounded, mode="r:") as tar:
        behind = 0
        for info in tar:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps each of them a second time
            if tar.offset <= behind:
                raise refused("corrupt", "a member of the archive has a size that leads back to an earlier one")
            behind = tar.offset
            if not info.isdir():
                listed.append(_tar_member(info, end, stamp))
                places.append((info.offset_data, info.size))
            if len(listed) > MOST_MEMBERS:
                break
        else:
            _check_end(file, tar.offset)
    members, number = _indexed(listed)
    return _Opened(members, number, lambda n: _Part(file.fileno(), *places[n]), file.close)


def _check_end(file: Any, offset: int) -> None:
    """A tar ends with blocks of zeros. tarfile stops as quietly at a damaged header or at the end of a cut file, and
    the slices behind it would be missed."""
    file.seek(offset)
    ending = file.read(tarfile.BLOCKSIZE)
    if not ending:
        raise EOFError
    if ending.strip(b"\0"):
        raise refused("corrupt", "the archive is damaged behind one of its members")


def _tar_member(info: tarfile.TarInfo, end: int, stamp: int) -> Member:
    fault = _name_fault(info.name) or _size_fault(info.size)
    if fault is None and not info.isreg():
        fault = refusal("not_an_image", "the member is a link, pipe or device and no regular file")
    if fault is None and info.issparse():
        fault = refusal("unsupported_format", "the member is stored with holes; pack it without --sparse")
    if fault is None and info.offset_data + info.size > end:
        fault = refusal("truncated", "the archive ends within this member", bytes=end - info.offset_data)
    return Member(_clean(info.name), info.size, (info.size, int(info.mtime * 1e9) or stamp), fault)


def _plain_tar(file: BinaryIO, size: int, *, remote: bool) -> Any:
    """The archive as a plain tar on a disk: the file itself, or a copy of what is far or inflated of a gzip one."""
    zipped = file.read(2) == GZIP_MAGIC
    file.seek(0)
    if not zipped and not remote:
        return file
    inflated = 0
    with ExitStack() as closing:
        plain = closing.enter_context(tempfile.TemporaryFile())
        reading: Any = closing.enter_context(gzip.GzipFile(fileobj=file)) if zipped else file
        while block := reading.read(COPY_BYTES):
            disk = shutil.disk_usage(tempfile.gettempdir())
            if disk.free < disk.total // TEMPORARY_SHARE:
                raise OSError(errno.ENOSPC, "the temporary folder is full")
            inflated += plain.write(block)
            _check_growth(inflated, size)
        plain.seek(0)
        file.close()
        closing.pop_all()
        return plain


class _Part(io.RawIOBase):
    """Bytes `start` to `start + size` of an open file, which several such streams share."""

    name = ""  # pydicom asks

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor, self._start, self._size, self._at = descriptor, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._descriptor, wanted, self._start + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at
