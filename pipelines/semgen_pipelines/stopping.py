"""SIGTERM and Ctrl-C while workers train: the first asks them to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from semgen_platform.errors import Interrupted, Preempted, SemgenError

POLL_S = 0.2
GRACE_S = 25.0
"""How long workers may take to save; Kubernetes kills 30 s after SIGTERM."""


class Stopping:
    """Whether a signal came; the file `request` tells workers, wherever they run on the shared storage."""

    def __init__(self, request: Path) -> None:
        self._request, self.signal, self._since = request, 0, 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal, self._since = number, time.monotonic()
        self._request.touch()

    def wait_for(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread, so that this one can handle signals, and raise its error.

        After a signal it is left alone GRACE_S later and its error says nothing new: who signals a whole process group
        also ends Ray, and the work then fails or never returns.
        """
        errors: list[BaseException] = []

        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="work", daemon=True)
        thread.start()
        while thread.is_alive() and not (self.signal and time.monotonic() > self._since + GRACE_S):
            thread.join(POLL_S)
        if errors and not self.signal:
            raise errors[0]

    def error(self, what: str) -> SemgenError:
        """The error that ends the command after the workers have saved."""
        kind, name = (Interrupted, "Ctrl-C") if self.signal == signal.SIGINT else (Preempted, "SIGTERM")
        return kind(f"{name}: {what}; run the same command again to go on")


@contextmanager
def graceful_stop(request: Path) -> Iterator[Stopping]:
    """Handle both signals inside the block. In another than the main thread signals are not ours to handle."""
    request.unlink(missing_ok=True)
    stopping = Stopping(request)
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = {number: signal.signal(number, stopping) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        request.unlink(missing_ok=True)
