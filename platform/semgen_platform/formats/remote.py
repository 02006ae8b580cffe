"""Objects of s3:// buckets: one as a seekable stream, what is known of it, and the listing of a prefix.

A stream asks for a window first; what is read on from its end is one further answer, taken as it arrives. So a header
costs one small request, a CT slice one, and a large file two, however large. Requests and answers that break off are
repeated while a server is away (storage.py); once that did not help, those after it are tried once only until one
succeeds, so that a server that stays away costs that time once and not for every object. Errors are OSError with a
number and without a name.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from semgen_platform.storage import answered_no, persistently, s3_store

T = TypeVar("T")

SCHEME = "s3://"

HEAD_BYTES = 2**16
"""First window of a listing: the header of nearly every CT slice and of every other format."""
WINDOW_BYTES = 2**20
"""First window of a reader: a CT slice of 512 x 512 whole."""
PIECE_BYTES = 2**20  # of an answer that is taken as it arrives
SKIPPED_BYTES = 2**20  # ahead that are read and dropped, since a request of its own would take longer
AT_ONCE = 16  # requests of a listing: most of the time of each is waiting
PAGE_KEYS = 1000  # as many as a server gives in one answer


class ServerGone(ConnectionError):
    """No answer, or only such as break off, after all retries."""


class Unhelpful(OSError):
    """The server says no, for a reason that is not known here; asking again would not help."""


class _Patience:
    """Whether the last request succeeded in the end; else the next is not waited for."""

    lost = False


@contextmanager
def _requests() -> Iterator[None]:
    """What obstore raises as OSError. Raises ServerGone."""
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such object") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        raise PermissionError(errno.EACCES, "the server denies the object") from None
    except exceptions.PreconditionError:
        raise OSError(errno.ESTALE, "the object changed while it was read") from None
    except exceptions.BaseError as error:
        if "NoSuchBucket" in str(error):  # of a list request obstore makes no difference, but quotes the answer
            raise FileNotFoundError(errno.ENOENT, "no such bucket") from None
        answer = answered_no(error)
        if answer == "403 Forbidden":
            raise PermissionError(errno.EACCES, "the server denies the list") from None
        if answer is not None:
            raise Unhelpful(errno.EIO, "the server refuses the request") from None
        raise ServerGone(errno.EIO, "the server does not answer") from None


def _asked(call: Callable[[], T]) -> T:
    """The result of a call that may be made twice. Raises OSError."""

    def once() -> T:
        with _requests():
            return call()

    try:
        result = once() if _Patience.lost else persistently(once, ServerGone)
    except ServerGone:
        _Patience.lost = True
        raise
    _Patience.lost = False
    return result


def parts_of(url: str) -> tuple[str, str]:
    """(bucket, key or prefix without slashes at its ends)."""
    bucket, _, key = url.removeprefix(SCHEME).partition("/")
    return bucket, key.strip("/")


def _store(bucket: str) -> Any:
    return s3_store(f"{SCHEME}{bucket}", patient=not _Patience.lost)


def validator(url: str) -> tuple[int, int]:
    """(size, digest of the etag or else the time of change) of an object. Raises OSError."""
    import obstore

    bucket, key = parts_of(url)
    return _validator(_asked(lambda: obstore.head(_store(bucket), key)))


def exists(url: str) -> bool:
    """Whether there is such an object. Raises OSError where the server does not say."""
    try:
        validator(url)
    except FileNotFoundError:
        return False
    return True


def answers(url: str) -> bool:
    """Whether the server lists the bucket now: what failed before was then the object's own fault."""
    import obstore

    bucket, _ = parts_of(url)
    store = s3_store(f"{SCHEME}{bucket}", patient=False)
    try:
        with _requests():
            next(iter(obstore.list(store, chunk_size=1)), None)
    except OSError:
        return False
    return True


def objects(url: str) -> Iterator[list[tuple[str, int]]]:
    """Pages of (address, size) of all objects below a prefix, in the server's order, in which what lies below one
    folder stands together. Raises OSError."""
    import obstore

    bucket, prefix = parts_of(url)
    pages, last = None, None

    def next_page() -> Any:
        nonlocal pages
        rest, pages = pages, None
        if rest is None:  # the first, or one that broke off: what follows the last one that came
            rest = iter(obstore.list(_store(bucket), prefix=prefix or None, offset=last, chunk_size=PAGE_KEYS))
        page = next(rest, None)
        pages = rest
        return page

    while page := _asked(next_page):
        last = page[-1]["path"]
        yield [(f"{SCHEME}{bucket}/{item['path']}", item["size"]) for item in page]


def opened(urls: Iterable[str]) -> Iterator[S3File | OSError]:
    """Each object with its first window, or why it cannot be read, in order; several are asked for at once."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting: deque[Future[S3File | OSError]] = deque()
        for url in urls:
            waiting.append(pool.submit(_opened, url))
            if len(waiting) >= 2 * AT_ONCE:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _opened(url: str) -> S3File | OSError:
    try:
        return S3File(url, HEAD_BYTES)
    except OSError as error:
        return error


def _validator(meta: Any) -> tuple[int, int]:
    tag = meta["e_tag"]
    if tag is None:
        return meta["size"], int(meta["last_modified"].timestamp() * 1e9)
    return meta["size"], int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=7).digest())


class S3File(io.RawIOBase):
    """The bytes of one object as it was when it was opened; one that changes meanwhile ends in OSError."""

    name = ""  # pydicom asks

    def __init__(self, url: str, first_bytes: int = WINDOW_BYTES) -> None:
        self._bucket, self._key = parts_of(url)
        self._window_bytes, self._tag = first_bytes, None
        self._at = self._start = 0
        self._answer: Iterator[Any] | None = None  # what follows the window
        self._window = memoryview(b"")
        self.validator = self._first_window()
        self.size = self.validator[0]

    def _first_window(self) -> tuple[int, int]:
        try:
            self._window, meta = self._whole({"range": (0, self._window_bytes)})
        except Unhelpful:  # an empty object has no range to give
            import obstore

            meta = _asked(lambda: obstore.head(_store(self._bucket), self._key))
            if meta["size"]:
                raise
        self._tag = meta["e_tag"]
        return _validator(meta)

    def _get(self, options: dict[str, Any]) -> Any:
        import obstore

        pinned: Any = options if self._tag is None else {**options, "if_match": self._tag}
        return obstore.get(_store(self._bucket), self._key, options=pinned)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._at >= self.size:
            return 0
        if not self._start <= self._at < self._end:
            self._move()
        part = self._window[self._at - self._start :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._answer, self._window = None, memoryview(b"")
        super().close()

    @property
    def _end(self) -> int:
        return self._start + len(self._window)

    def _move(self) -> None:
        """Bring the window to where is read: on through the answer, or by a request where that is elsewhere."""
        if self._start < self._end <= self._at <= self._end + SKIPPED_BYTES:
            while self._at >= self._end:
                piece = self._next_piece()
                self._start, self._window = self._end, piece
            return
        # the end of a file is read backwards: of a zip, whose list of members lies there
        start = max(0, min(self._at, self.size - HEAD_BYTES))
        self._start, self._window, self._answer = start, memoryview(b""), None
        self._window, _ = self._whole({"range": (start, min(self.size, start + HEAD_BYTES))})

    def _next_piece(self) -> memoryview:
        """What follows the window. An answer that breaks off is asked for again from there."""

        def piece() -> Any:
            answer, self._answer = self._answer, None
            if answer is None:
                answer = iter(self._get({"range": {"offset": self._end}}).stream(min_chunk_size=PIECE_BYTES))
            found = next(answer, None)
            self._answer = answer
            return found

        found = _asked(piece)
        if found is None:
            raise OSError(errno.EIO, "the object ends early")
        return memoryview(bytes(found))

    def _whole(self, options: dict[str, Any]) -> tuple[memoryview, Any]:
        """A whole answer, and what the server says of the object."""

        def answer() -> tuple[memoryview, Any]:
            found = self._get(options)
            return memoryview(bytes(found.bytes())), found.meta

        return _asked(answer)
