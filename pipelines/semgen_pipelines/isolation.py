"""A child process that works through calls one by one and is kept while it is healthy.

Native decoders can crash or hang their process on damaged input; here that costs one call. The child's output goes
nowhere, since libraries quote header values, which may identify a patient. It ends with its parent, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")

PR_SET_PDEATHSIG = 1  # prctl(2)
START_LIMIT_S = 120.0  # for importing the libraries on a busy machine


class Crashed(Exception):
    """The child ended by itself in the middle of a call; `status` is its exit code, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"a child process ended with {status} in the middle of a call")
        self.status = status


class TimedOut(Exception):
    """A call took too long, and the child was killed."""


@dataclass(frozen=True)
class _Answer(Generic[R]):
    """What a call came to: its value, or the error that it raised."""

    value: R | None = None
    error: Exception | None = None


class Isolated(Generic[A, R]):
    """`work`, which must be picklable, in a child process that is started at the first call.

    memory_bytes : most memory of the child; beyond it a call ends with MemoryError, or Crashed where a library does not
        look at what it is given.
    """

    def __init__(self, work: Callable[[A], R], time_limit_s: float, memory_bytes: int) -> None:
        self._work, self._limit_s, self._memory_bytes = work, time_limit_s, memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None

    def __call__(self, argument: A) -> R:
        """The result, or the child's exception as itself. Raises Crashed, TimedOut; the next call has a new child."""
        pipe = self._pipe or self._start()
        try:
            pipe.send(argument)
            answered = pipe.poll(self._limit_s)
            answer: _Answer[R] | None = pipe.recv() if answered else None
        except (EOFError, OSError):
            raise Crashed(self.close()) from None
        if answer is None:
            self.close(kill=True)
            raise TimedOut
        if answer.error is not None:
            raise answer.error
        return answer.value  # type: ignore[return-value]  # None only where the work returns None

    def close(self, *, kill: bool = False) -> int:
        """End the child. Returns its exit code, which is its own where it had ended already, and 0 without a child.

        kill : at once, so that a call which was given up leaves nothing behind.
        """
        if self._child is None or self._pipe is None:
            return 0
        if kill:
            self._child.kill()
        self._pipe.close()
        try:
            status = self._child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self._child.kill()
            status = self._child.wait()
        self._child = self._pipe = None
        return status

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        descriptor = theirs.fileno()
        command = (
            f"from semgen_pipelines.isolation import serve; serve({descriptor}, {os.getpid()}, {self._memory_bytes})"
        )
        self._child = subprocess.Popen(
            [sys.executable, "-c", command],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()
        self._pipe = ours
        ours.send(self._work)
        try:
            ready = ours.poll(START_LIMIT_S) and ours.recv()
        except (EOFError, OSError):
            ready = False
        if not ready:
            status = self.close()
            if status < 0:
                raise Crashed(status)
            raise RuntimeError(f"a child process could not start (exit status {status})")
        return ours


def serve(descriptor: int, parent: int, memory_bytes: int) -> None:
    """The child: receive the work, then argument after argument, until the parent closes the pipe or ends."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # it ended before the kernel was told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pipe = Connection(descriptor)
    try:
        work = pipe.recv()
        pipe.send(True)
        while True:
            _answer(pipe, work, pipe.recv())
    except EOFError:
        return


def _answer(pipe: Connection, work: Callable[[Any], Any], argument: Any) -> None:
    try:
        answer = _Answer(value=work(argument))
    except Exception as error:
        answer = _Answer(error=_portable(error))
    pipe.send(answer)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions cannot be made again from their arguments
        return RuntimeError(f"{type(error).__name__} in a child process")
    return error
