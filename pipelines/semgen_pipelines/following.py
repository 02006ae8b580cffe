"""Steps that ranks write to a metrics file, shown by the driver while it waits for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from semgen_platform.training.metrics import METRICS, read_new_rows

EVERY_S = 0.5


@contextmanager
def follow_metrics(folder: Path, kind: str, show: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Call `show` with each new row of `kind` in folder/metrics.jsonl, from a thread that ends with the block."""
    path, ended = folder / METRICS, threading.Event()
    offset = path.stat().st_size if path.exists() else 0  # rows of an earlier start are not news

    def watch() -> None:
        nonlocal offset
        while True:
            last = ended.wait(EVERY_S)
            rows, offset = read_new_rows(path, offset)
            for row in rows:
                if row["kind"] == kind:
                    show(row)
            if last:
                return

    thread = threading.Thread(target=watch, name="follow-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
