"""Bytes at an address: a local folder or an s3:// prefix behind one small interface.

Only creates are conditional, since local disks have no conditional replace (DESIGN.md section 4, Leases). What a disk
or a server refuses comes out as a StorageError of one sentence. A server that does not answer is asked again, with
growing pauses, for RETRY_S seconds. Credentials and endpoint of s3:// are the usual AWS_ variables of the process that
asks; what travels between processes is the address alone.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from semgen_platform.errors import InputError, SemgenError, StorageError, Unreachable

Address = str | Path
"""A local path, file:// or s3://bucket/prefix."""

T = TypeVar("T")

RETRY_S = 180.0
"""How long a request is repeated while a server is away or busy; a failover or a restart takes less. The variable
SEMGEN_S3_RETRY_S sets another time."""
RETRIES, FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 100, 0.1, 5.0
CONNECT_S, SILENCE_S = 5.0, 30.0
"""A connection or an answer that takes longer is broken off and tried again."""
PART_BYTES, PARTS_AT_ONCE = 8 * 2**20, 4  # of a large file on its way up: what an upload holds in memory
COALESCE_BYTES = 256 * 2**10  # a gap between two ranges that costs less to read than another request
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
UNSENDABLE = "builder error"  # how obstore and Delta say that they may not ask an address such as http://
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_local(address: Address) -> bool:
    """Whether an address is a folder of this machine, or one that is mounted as such."""
    return "://" not in str(address) or str(address).startswith("file://")


@lru_cache(maxsize=64)
def s3_store(url: str, *, patient: bool = True) -> Any:
    """The obstore store of an s3://bucket or s3://bucket/prefix; one a process and address, since it keeps connections.

    patient : whether a request outlasts a server that is away for RETRY_S.
    """
    import obstore.store

    return obstore.store.S3Store.from_url(
        url,
        client_options={  # given whole, since they replace those that the environment would set
            "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "read_timeout": timedelta(seconds=SILENCE_S),
            "timeout": timedelta(days=1),  # of a whole answer, which may be a large file: silence is what counts
        },
        retry_config={
            "max_retries": RETRIES if patient else 0,
            "retry_timeout": timedelta(seconds=retry_s()),
            "backoff": {
                "init_backoff": timedelta(seconds=FIRST_BACKOFF_S),
                "max_backoff": timedelta(seconds=LONGEST_BACKOFF_S),
                "base": 2,
            },
        },
    )


def delta_options(address: Address) -> dict[str, str] | None:
    """What the Delta library must be told to reach an address as `s3_store` does; None for a local one."""
    if is_local(address):
        return None
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    region = found.get("AWS_DEFAULT_REGION", "us-east-1")  # without one it is looked for at a cloud's own address
    retries = {
        "max_retries": str(RETRIES),
        "retry_timeout": f"{retry_s():g}s",
        "backoff_config.init_backoff": f"{FIRST_BACKOFF_S * 1000:g}ms",
        "backoff_config.max_backoff": f"{LONGEST_BACKOFF_S:g}s",
    }
    return {"AWS_REGION": region, **found, **retries}


def retry_s() -> float:
    """Seconds for which a silent server is asked again. Raises InputError for a setting that is no number."""
    setting = os.environ.get("SEMGEN_S3_RETRY_S")
    try:
        return float(setting) if setting else RETRY_S
    except ValueError:
        raise InputError(f"SEMGEN_S3_RETRY_S is {setting!r}; give seconds, such as 120") from None


class Storage:
    """A folder of objects. Keys are relative, with forward slashes. Made by `storage_at`.

    uri : as absolute as can be.  local_root : the folder, or None for an object store.  Nothing is made by opening it.
    Every method raises StorageError where the disk is full or the store refuses, Unreachable where it stays silent.
    """

    def __init__(self, address: Address) -> None:
        uri = str(address)
        parsed = urlparse(uri)
        self.local_root: Path | None = None
        if is_local(uri):
            self.local_root = Path(parsed.path if parsed.scheme == "file" else uri).absolute()
            self.uri = str(self.local_root)
        elif parsed.scheme == "s3" and parsed.netloc:
            self.uri = uri.rstrip("/")
        elif parsed.scheme == "s3":
            raise InputError(f"address {uri} names no bucket; give s3://bucket/prefix")
        else:
            raise InputError(
                f"address {uri} has the unknown scheme {parsed.scheme}; give a folder or s3://bucket/prefix"
            )

    def get(self, key: str, *, patient: bool = True) -> bytes | None:
        """The object's bytes, or None where there is none.

        patient : whether to ask a silent server again.
        """

        def read() -> bytes | None:
            with _no_object():
                if self.local_root is not None:
                    return (self.local_root / key).read_bytes()
                return bytes(_obstore().get(s3_store(self.uri, patient=patient), key).bytes())
            return None

        return self._asked(read, patient=patient)

    def put(self, key: str, data: bytes, *, patient: bool = True) -> None:
        """Write an object whole; a reader sees the old or the new one.

        patient : whether to ask a silent server again.
        """
        self._asked(lambda: _obstore().put(self._store_that(patient=patient), key, data), patient=patient)

    def put_durably(self, key: str, data: bytes) -> None:
        """Write an object whole, so that it outlives a power cut from the moment that this returns."""
        if self.local_root is None:
            self.put(key, data)  # a store answers once it is safe
            return
        path = self.local_root / key
        with explained(self.uri):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if there is none; exactly one of several writers gets True."""
        from obstore.exceptions import AlreadyExistsError

        deadline, asked_before = time.monotonic() + retry_s(), False
        while True:
            try:
                with explained(self.uri):
                    try:
                        # obstore must not ask again by itself: it would find what its own lost answer was about
                        _obstore().put(self._store_that(patient=False), key, data, mode="create")
                    except AlreadyExistsError:  # ours, if a request was carried out and only its answer was lost
                        return asked_before and self.get(key) == data
                return True
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                asked_before = True
                time.sleep(1.0)

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

        def remove() -> None:
            with _no_object():
                _obstore().delete(self._store, key)

        self._asked(remove)

    def keys(self, prefix: str = "") -> list[str]:
        """Keys below a prefix (whole path parts)."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Bytes of every object below a prefix (whole path parts), by its key."""
        if self.local_root is not None and not self.local_root.is_dir():
            return {}
        listed = self._asked(lambda: _obstore().list(self._store, prefix=prefix or None).collect())
        return {item["path"]: item["size"] for item in listed}

    def folders(self, prefix: str) -> list[str]:
        """Names directly below a prefix that have objects below them, sorted."""
        return _last_parts(self._directly_below(prefix)["common_prefixes"])

    def names(self, prefix: str = "") -> list[str]:
        """Names directly below a prefix, of objects and of folders that have objects below them, sorted."""
        found = self._directly_below(prefix)
        return _last_parts([*found["common_prefixes"], *(item["path"] for item in found["objects"])])

    def tail(self, key: str, size: int) -> bytes | None:
        """The last `size` bytes of an object, or all that it has; None where there is none."""
        from obstore.exceptions import GenericError

        def read() -> bytes | None:
            try:
                with _no_object():
                    return bytes(_obstore().get(self._store, key, options={"range": {"suffix": size}}).bytes())
            except GenericError as error:
                if "416 Range Not Satisfiable" in str(error):  # how S3 says that an object has no byte
                    return b""
                raise
            return None

        return self._asked(read)

    def ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Bytes of an object at spans (offset, length), in their order; spans that lie close share a request."""
        if not spans:
            return []
        starts, lengths = zip(*spans, strict=True)
        found = self._asked(
            lambda: _obstore().get_ranges(self._store, key, starts=starts, lengths=lengths, coalesce=COALESCE_BYTES)
        )
        return [memoryview(data) for data in found]

    @contextmanager
    def new_folder(self, key: str, last: Sequence[str]) -> Iterator[Path]:
        """A new folder whose files are the objects below `key` once the block ends.

        Locally it is that folder itself; else a temporary one, which is uploaded file by file at the end.
        last : files that go up after all others, in this order. Where the disk is full nothing of the folder stays.
        """
        if self.local_root is not None:
            folder = self.local_root / key
            try:
                with explained(self.uri):
                    folder.mkdir(parents=True)
                    yield folder
            except StorageError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return
        with explained(tempfile.gettempdir()), tempfile.TemporaryDirectory(prefix="semgen-") as name:
            yield Path(name)
            names = sorted(path.relative_to(name).as_posix() for path in Path(name).rglob("*") if path.is_file())
            for file in [*(n for n in names if n not in last), *last]:
                self._upload(f"{key}/{file}", Path(name) / file)

    def _upload(self, key: str, path: Path) -> None:
        """An object from a file, in parts where it is large."""
        self._asked(
            lambda: _obstore().put(self._store, key, path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
        )

    def _directly_below(self, prefix: str) -> Any:
        return self._asked(lambda: _obstore().list_with_delimiter(self._store, prefix or None))

    def _asked(self, call: Callable[[], T], *, patient: bool = True) -> T:
        if patient:
            return asked(self.uri, call)
        with explained(self.uri):
            return call()

    @property
    def _store(self) -> Any:
        return self._store_that(patient=True)

    def _store_that(self, *, patient: bool) -> Any:
        return s3_store(self.uri, patient=patient) if self.local_root is None else _local_store(self.local_root)


@lru_cache(maxsize=16)
def storage_at(address: Address) -> Storage:
    """The storage at an address; one for all who ask in a process, so that they share its connections."""
    return Storage(address)


def _last_parts(paths: Iterable[str]) -> list[str]:
    return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk. Raises OSError, and leaves no part of it then."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def asked(place: str, call: Callable[[], T]) -> T:
    """The result of a call to a disk or server that may be made twice: explained, and persistently."""

    def once() -> T:
        with explained(place):
            return call()

    return persistently(once)


def persistently(call: Callable[[], T], silence: type[Exception] = Unreachable) -> T:
    """The result of a call that may be made twice, made again while a server does not answer.

    silence : what the call raises then. obstore and Delta repeat by themselves only requests that change nothing when
    they come twice, and no answer that breaks off.
    """
    deadline = time.monotonic() + retry_s()
    while True:
        try:
            return call()
        except silence:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


@contextmanager
def explained(place: str) -> Iterator[None]:
    """What a disk or a server refuses inside the block, as a StorageError; whatever else is raised stays as it is.

    place : the address or folder that the block reads or writes.
    """
    try:
        yield
    except SemgenError:
        raise
    except Exception as error:
        said = _said(place, error)
        if said is None:
            raise
        raise said from error


def _said(place: str, error: Exception) -> StorageError | None:
    text = str(error)
    found = re.search(r"\(os error (\d+)\)", text)  # as libraries in Rust name what the system said
    number = (error.errno if isinstance(error, OSError) else None) or (int(found[1]) if found else 0)
    if number in DISK_FULL:
        return StorageError(f"{place} is full ({os.strerror(number)}); make room there and run the same command again")
    if is_local(place):
        why = f"cannot be read or written ({os.strerror(number)}); mend that and run the same command again"
        return StorageError(f"{place} {why}") if number else None
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if not kinds & {"OSError", "BaseError", "DeltaError"}:  # the system's, obstore's and Delta's
        return None
    if absent := _absent_keys(text):
        why = f"{place}: {' and '.join(absent)} {'are' if len(absent) > 1 else 'is'} not set"
        # what gives a machine its role may be away for a while: only its refusal is believed at once
        kind = StorageError if re.search(r"Missing |\b4\d\d [A-Z]", text) else Unreachable
        return kind(f"{why}; set {'them' if len(absent) > 1 else 'it'} and run the same command again")
    if re.search(r"denied|forbidden|unauthori|InvalidAccessKey|SignatureDoesNotMatch", text, re.IGNORECASE):
        return StorageError(f"{place} refuses access; look at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and its rights")
    if _no_bucket(error):
        return StorageError(f"{place}: there is no bucket {urlparse(place).netloc}; make it, or mend the address")
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{place} has no bucket or object of that name; make the bucket, or mend the address")
    if UNSENDABLE in text:
        return StorageError(
            f"{place}: AWS_ENDPOINT_URL must begin with https://, or with http:// where that is allowed; "
            "set AWS_ALLOW_HTTP=true, or mend the endpoint"
        )
    if answer := answered_no(error):
        return StorageError(
            f"{place}: its server refuses the request ({answer}); look at AWS_ENDPOINT_URL, AWS_REGION and the address"
        )
    return Unreachable(
        f"{place} does not answer; see that its server runs and AWS_ENDPOINT_URL names it, "
        "then run the same command again"
    )


@contextmanager
def _no_object() -> Iterator[None]:
    """An object that is not there ends the block; a bucket that is not there is an error."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if _no_bucket(error):
            raise


def _no_bucket(error: Exception) -> bool:
    return "<Code>NoSuchBucket<" in str(error)


def _absent_keys(text: str) -> list[str]:
    """Variables that are not set, where an error says that a request could not be signed for want of them.

    Without both, the role of the machine is asked for at the cloud's own address.
    """
    unsigned = re.search(r"Missing (AccessKeyId|SecretAccessKey)|/latest/(api/token|meta-data/iam)", text)
    return [name for name in KEYS if not os.environ.get(name)] if unsigned else []


def answered_no(error: Exception) -> str | None:
    """What a server said with which asking again would not help, such as "400 Bad Request"; None where it may help.
    "builder error" is said of a request that was never sent, since its address is refused.

    Only the text of obstore's and Delta's errors tells; their own words stand before what they quote.
    """
    text = str(error)
    found = re.search(rf"status code: (\d{{3}} [\w ]+)|Received (redirect)|({UNSENDABLE})", text)
    said = found and (found[1] or found[2] or found[3])
    busy = said and (said.startswith(("408", "429", "5")) or "RequestTimeout" in text)  # S3 says that with a 400
    return None if busy else said


def _obstore() -> Any:
    import obstore

    return obstore


@lru_cache(maxsize=64)
def _local_store(root: Path) -> Any:
    from obstore.store import LocalStore

    root.mkdir(parents=True, exist_ok=True)
    return LocalStore(str(root))
