"""Progress of long work on stderr: a line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 10.0


class Progress:
    """Counts finished items of one stage; `total` may be unknown. Use as a context manager: a thread says the count
    every so often, also while one item takes long."""

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label, self._total = label, total
        self._done, self._note = 0, ""
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._ended = threading.Event()
        self._saying = None if quiet else threading.Thread(target=self._say, name="progress", daemon=True)

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count `items` more as finished; `note` is shown behind the count and must name nobody."""
        self.show(self._done + items, note)

    def show(self, done: int, note: str = "") -> None:
        """Set the count to `done`."""
        self._done, self._note = done, note

    def _say(self) -> None:
        while not self._ended.wait(TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S):
            self._write(final=False)
        self._write(final=True)

    def _write(self, *, final: bool) -> None:
        seconds = time.monotonic() - self._start
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        line = f"{self._label} {count} {seconds:.0f}s {self._note}".rstrip()
        if self._terminal:
            sys.stderr.write("\r\x1b[K" + line + ("\n" if final else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        if self._saying is not None:
            self._saying.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._saying is not None:
            self._saying.join()
