"""Progress of long work on stderr: a line that moves on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

TERMINAL_EVERY_S = 0.2
LOG_EVERY_S = 10.0


class Progress:
    """Counts finished items of one stage and says so; `total` may be unknown. Use as a context manager."""

    def __init__(self, label: str, total: int | None = None, *, quiet: bool = False) -> None:
        self._label, self._total, self._quiet = label, total, quiet
        self._done, self._note = 0, ""
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._next = self._start if self._terminal else self._start + LOG_EVERY_S

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count `items` more as finished; `note` is shown behind the count and must name nobody."""
        self.show(self._done + items, note)

    def show(self, done: int, note: str = "") -> None:
        """Set the count to `done`."""
        self._done, self._note = done, note
        now = time.monotonic()
        if now >= self._next:
            self._write(now, final=False)
            self._next = now + (TERMINAL_EVERY_S if self._terminal else LOG_EVERY_S)

    def _write(self, now: float, *, final: bool) -> None:
        if self._quiet:
            return
        seconds = now - self._start
        count = f"{self._done}" if self._total is None else f"{self._done}/{self._total}"
        line = f"{self._label} {count} {seconds:.0f}s {self._note}".rstrip()
        if self._terminal:
            sys.stderr.write("\r\x1b[K" + line + ("\n" if final else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._write(time.monotonic(), final=True)
