"""The one place that starts or joins Ray, and adds up CPUs before it does.

A pipeline that takes every CPU with actors and trainers waits for ever, in silence, for one that its read task needs.
So a pipeline states what it takes, one whole CPU is added, a Ray that we start declares that many logical CPUs, and a
Ray that we join is refused when it has fewer. Nothing but this module calls `ray.init`.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from semgen_platform.errors import InputError

SPARE_CPUS = 1.0
OBJECT_STORE_BYTES = 200 * 2**20  # ids and rows only, never voxels; Ray would take 30 % of the memory
CONNECT_S = 5.0  # Ray itself would ask an address at which nobody answers for minutes
READERS = ("iter_threaded", "StreamingExecutor")  # threads of Ray Data, as their names begin
READERS_END_S = 30.0
FOLDER_PREFIX, OWNER = "sg", "owner"  # Ray's temporary folders that we make, and the file in each with our process id

# Read by Ray when it is imported or when a process of its starts.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_COLOR_PREFIX": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # the C++ core writes to the driver's stderr, past every Python logger
}


@contextmanager
def ray_session(address: str | None, *, needs: Mapping[str, float], gpus: float = 0.0) -> Iterator[Any]:
    """The `ray` module, connected: to a running Ray at `address`, or to a local one that ends with the block.

    needs : what the pipeline takes at once, in CPUs, by name, e.g. {"train workers": 2.0}; one CPU is added for Ray's
        own tasks. Nested use joins the session that is open.
    Raises InputError if no Ray answers at the address or it has too few CPUs, with the sum.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if os.environ["RAY_AUTH_MODE"] == "token" and not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else Ray writes one into the home folder
    import ray

    total = sum(needs.values()) + SPARE_CPUS
    if ray.is_initialized():
        _check_cpus(ray, needs, total, gpus)
        yield ray
        return
    with ExitStack() as cleanup:
        if address is None:
            folder = cleanup.enter_context(_own_folder(Path(_short_temporary_folder())))
            cleanup.callback(ray.shutdown)
            _start(ray, folder, math.ceil(total), gpus)
        else:
            cleanup.callback(ray.shutdown)
            _join(ray, address)
        cleanup.callback(_await_readers)
        _quiet()
        _check_cpus(ray, needs, total, gpus)
        yield ray


def _start(ray: Any, folder: Path, cpus: int, gpus: float) -> None:
    """A local Ray with its files in `folder`. Its ports are open to all interfaces, so the token guards it."""
    with _native_stderr_muted(), _own_sigterm():
        ray.init(
            address="local",
            num_cpus=max(2, cpus),
            num_gpus=int(gpus) if gpus else None,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=str(folder),
        )


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder for Ray, locked while the block runs; what killed commands left behind is removed first."""
    for owner in parent.glob(f"{FOLDER_PREFIX}*/{OWNER}"):
        with suppress(OSError), owner.open("ab") as file:  # OSError: another user's, or locked, so still in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _in_use(owner.parent):
                shutil.rmtree(owner.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=parent))
    try:
        with (folder / f".{OWNER}").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / f".{OWNER}").rename(folder / OWNER)  # only now can others see it: locked
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _in_use(folder: Path) -> bool:
    """Whether a process has a file open there: Ray's agents outlive a killed command by up to two minutes."""
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            link = os.readlink(descriptor)
            if link.startswith(f"{folder}/") and link != f"{folder}/{OWNER}":  # which we hold open ourselves
                return True
    return False


def _join(ray: Any, address: str) -> None:
    """Connect to a running Ray, with one sentence where that fails."""
    if address not in ("auto", "local") and "://" not in address:
        _check_answers(address)
    try:
        with _native_stderr_muted(), _own_sigterm():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (
        Exception
    ) as error:  # Ray raises ConnectionError, RuntimeError, ValueError or an authentication error of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"no Ray can be joined at {address} ({reason}); start one, or leave --address out") from error


def _await_readers() -> None:
    """Wait for the threads that read a dataset ahead. They are told to end when the reading is broken off, and Ray
    waits for none: one that drops an object reference while Ray shuts down ends the process with code 1, in silence.
    """
    deadline = time.monotonic() + READERS_END_S
    for thread in threading.enumerate():
        if thread.name.startswith(READERS):
            thread.join(max(0.0, deadline - time.monotonic()))


def _check_answers(address: str) -> None:
    """Raises InputError where an address is not host:port, or nobody listens there."""
    host, _, port = address.rpartition(":")
    give = "start one, or give the address of a running head as host:port"
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"{address!r} is no address of a Ray; {give}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, UnicodeError) as error:  # UnicodeError: no such name can be
        raise InputError(f"no Ray answers at {address}; {give}") from error


def _check_cpus(ray: Any, needs: Mapping[str, float], total: float, gpus: float) -> None:
    resources = ray.cluster_resources()
    have, have_gpus = float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0))
    if have + 1e-9 < total:
        parts = " + ".join(f"{cpus:g} for {name}" for name, cpus in needs.items())
        raise InputError(
            f"the Ray that was joined has {have:g} CPUs and this needs {total:g} ({parts} + {SPARE_CPUS:g} for Ray's "
            "own tasks); use fewer --workers or a Ray with more CPUs"
        )
    if have_gpus < gpus:
        raise InputError(f"the Ray that was joined has {have_gpus:g} GPUs and this needs {gpus:g}; use fewer --workers")


def _has_token() -> bool:
    return bool(os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"))


def _short_temporary_folder() -> str:
    """The temporary folder, or /tmp where its name is too long for Ray's Unix sockets (107 bytes in all)."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= 24 else "/tmp"


@contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """File descriptor 2 points nowhere inside the block: Ray's C++ core announces itself there."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """SIGTERM stays handled as it is: Ray's handler would end the process with the signal's number, and that of its
    C++ core, which is there afterwards, prints a stack."""
    from ray._private import utils

    before, installs = signal.getsignal(signal.SIGTERM), utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = installs
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _quiet() -> None:
    """Silence Ray Data's bars and the loggers of Ray's libraries, which set their own levels when they are imported."""
    from ray._private import worker
    from ray.data import DataContext

    worker._worker_logs_enabled = False  # else what Ray pushes to drivers, such as a killed actor, is printed on stdout
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray", "ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
