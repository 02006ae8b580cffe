"""Leases: at most one live process does a thing, and a dead one's place is taken over.

Only creates are conditional on every storage, so a lease is a row of files leases/<name>/<epoch>.json that are created
and never changed; the highest epoch speaks. Its holder rewrites <epoch>.beat again and again, and leaves <epoch>.end
when it is done. Who finds a lease without an end
- on the same host (boot and process space are the same) looks at the process: dead, it is taken over at once, so that
  the same command goes on after kill -9;
- elsewhere watches the beat, by its own clock alone: it is taken over once the beat has not moved for STALE_S.
Taking over is creating epoch + 1, which one of several watchers can do. Source: DESIGN.md section 4, Leases.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from semgen_platform.errors import Busy, ConfigError, StorageError
from semgen_platform.storage import Storage

BEAT_S = 2.0
STALE_S = 15.0
"""Several beats, since a loaded disk or store may hold one up."""
POLL_S = 0.5
DEAD_STATES = "ZX"  # of /proc/<pid>/stat: ended, though its parent has not asked yet

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Holder:
    """A process that no other is taken for: pid and start time within one boot and process space of a host."""

    host: str
    boot: str
    space: str
    pid: int
    started: str


class Lease:
    """A lease that this process holds; made by `hold`."""

    def __init__(self, storage: Storage, name: str, epoch: int) -> None:
        self._storage, self.name, self.epoch = storage, name, epoch

    def check(self) -> None:
        """Raise Busy if another process has taken over, as it may after this one stood still for long."""
        newest = _newest_epoch(self._storage, self.name)
        if newest != self.epoch:
            raise Busy(f"{self.name} was taken over by another process while this one stood still; run it again")

    def beat(self, count: int) -> None:
        """Show that the holder lives."""
        self._storage.put(_key(self.name, self.epoch, "beat"), str(count).encode(), patient=False)


@contextmanager
def hold(storage: Storage, name: str) -> Iterator[Lease]:
    """Hold the lease `name` for the time of a `with` block.

    Returns at once where the last holder has ended or is a dead process of this host; waits up to STALE_S for a sign of
    life of a holder elsewhere. Raises Busy if the holder lives.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} is no name for a lease; use letters, digits, '.', '_' and '-'")
    lease = _acquire(storage, name)
    done = threading.Event()
    beating = threading.Thread(target=_keep_beating, args=(lease, done), name=f"lease {name}", daemon=True)
    beating.start()
    try:
        yield lease
    finally:
        done.set()
        beating.join()
        try:
            storage.put(_key(name, lease.epoch, "end"), b"", patient=False)
        except StorageError as error:  # a dead holder is noticed without it
            _log.warning("lease %s cannot be ended: %s", name, error)


def holder_of(storage: Storage, name: str) -> Holder | None:
    """Who holds a lease that has not ended, alive or not; None if nobody does."""
    epoch = _newest_epoch(storage, name)
    return None if epoch is None else _holder_at(storage, name, epoch)


def _holder_at(storage: Storage, name: str, epoch: int) -> Holder | None:
    if storage.get(_key(name, epoch, "end")) is not None:
        return None
    data = storage.get(_key(name, epoch, "json"))
    return Holder(**json.loads(data)) if data is not None else None


def _acquire(storage: Storage, name: str) -> Lease:
    me = _this_process()
    while True:
        epoch = _newest_epoch(storage, name) or 0
        holder = _holder_at(storage, name, epoch)
        if holder is not None and _lives(storage, name, epoch, holder):
            place = "on this host" if _same_space(holder, me) else f"on host {holder.host}"
            raise Busy(f"{name} is being worked on by process {holder.pid} {place}; wait for it or end it")
        mine = epoch + 1
        if not storage.create(_key(name, mine, "json"), json.dumps(asdict(me)).encode()):
            continue  # another process was faster: look at who it is
        if _newest_epoch(storage, name) != mine:  # made from an old view, and higher epochs exist
            storage.delete(_key(name, mine, "json"))
            continue
        _remove_older(storage, name, mine)
        return Lease(storage, name, mine)


def _lives(storage: Storage, name: str, epoch: int, holder: Holder) -> bool:
    if _same_space(holder, _this_process()):
        return _start_of(holder.pid) == holder.started
    seen = storage.get(_key(name, epoch, "beat"))
    deadline = time.monotonic() + STALE_S
    while time.monotonic() < deadline:
        time.sleep(POLL_S)
        asked = time.monotonic()
        if storage.get(_key(name, epoch, "end")) is not None:
            return False
        if storage.get(_key(name, epoch, "beat")) != seen:
            return True
        deadline += time.monotonic() - asked  # while a store is away nobody can beat
    return False


def _same_space(one: Holder, other: Holder) -> bool:
    """Whether process numbers mean the same for both: containers of one host share the boot, not the process space."""
    known = bool(one.boot and one.space and one.started)
    return known and (one.boot, one.space) == (other.boot, other.space)


def _this_process() -> Holder:
    proc = Path("/proc")  # absent outside Linux: then only the beat tells
    boot, space = proc / "sys/kernel/random/boot_id", proc / "self/ns/pid"
    return Holder(
        host=socket.gethostname(),
        boot=boot.read_text().strip() if boot.is_file() else "",
        space=os.readlink(space) if space.exists() else "",
        pid=os.getpid(),
        started=_start_of(os.getpid()) or "",
    )


def _start_of(pid: int) -> str | None:
    """When a process of this host began, in clock ticks since boot; None if there is none or it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return None if fields[0] in DEAD_STATES else fields[19]


def _keep_beating(lease: Lease, done: threading.Event) -> None:
    count = 0
    while not done.is_set():
        try:
            lease.beat(count)
        except StorageError as error:  # the next beat may come through
            _log.warning("lease %s cannot show that its holder lives: %s", lease.name, error)
        count += 1
        done.wait(BEAT_S)


def _newest_epoch(storage: Storage, name: str) -> int | None:
    names = [key.rpartition("/")[2] for key in storage.keys(f"leases/{name}")]
    return max((int(n.removesuffix(".json")) for n in names if n.endswith(".json")), default=None)


def _remove_older(storage: Storage, name: str, epoch: int) -> None:
    for key in list(storage.keys(f"leases/{name}")):
        if int(key.rpartition("/")[2].partition(".")[0]) < epoch:
            storage.delete(key)


def _key(name: str, epoch: int, kind: str) -> str:
    return f"leases/{name}/{epoch}.{kind}"
