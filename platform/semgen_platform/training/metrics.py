"""What a run measured: one append-only file of JSON lines, and TensorBoard beside it.

A row is keyed by (start, kind, step), where `start` counts how often the run was started. A start that resumes repeats
the steps since the last checkpoint; on overlap the later start wins, so a killed and resumed run reads as one run
(USERS.md item 23).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class MetricsWriter:
    """Appends rows to `folder/metrics.jsonl` and numbers to `folder/tensorboard/`. One process of a run has one."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """step : the one that this start goes on from; TensorBoard drops what an earlier start wrote after it."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        self.start = 1 + max((row["start"] for row in _rows(path)), default=0)
        written = path.read_bytes() if path.exists() else b""
        self._file = path.open("a", encoding="utf-8")
        if written and not written.endswith(b"\n"):  # a kill in the middle of a line
            self._file.write("\n")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """One row, on disk for other processes when this returns; numbers also go to TensorBoard as kind/name."""
        row = {"start": self.start, "kind": kind, "step": step, **values}
        self._file.write(
            json.dumps({name: None if _not_finite(value) else value for name, value in row.items()}) + "\n"
        )
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, float):
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._board.close()


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Rows of one kind in the order of steps, each step once: the latest start's."""
    newest = {row["step"]: row for row in _rows(folder / METRICS) if row["kind"] == kind}
    return [newest[step] for step in sorted(newest)]


def read_new_rows(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """Rows behind a byte offset and the offset after them; an unfinished line is left for the next call."""
    if not path.exists():
        return [], 0
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return [row for line in whole.splitlines() if (row := _row(line))], offset + len(whole)


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_new_rows(path, 0)[0]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # torn by a kill in the middle of a line
        return None
