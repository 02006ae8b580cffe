"""SIGTERM and Ctrl-C while workers train: the first asks them to save and stop, the second stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

from semgen_platform.errors import Interrupted, Preempted, SemgenError

POLL_S = 0.2

T = TypeVar("T")


class Stopping:
    """Whether a signal came; the file `request` tells workers, wherever they run on the shared storage."""

    def __init__(self, request: Path) -> None:
        self._request, self.signal = request, 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number
        self._request.touch()

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


def in_thread(work: Callable[[], T]) -> T:
    """The result or error of `work`, run beside this thread, which stays free to handle signals meanwhile."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="train", daemon=True)  # a second signal must not wait for it
    thread.start()
    while thread.is_alive():
        thread.join(POLL_S)
    if errors:
        raise errors[0]
    return results[0]
