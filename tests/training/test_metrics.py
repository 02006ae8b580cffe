"""Metrics: append-only rows, each step once after any number of starts, and TensorBoard (USERS.md item 23)."""

from __future__ import annotations

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from semgen_platform.training.metrics import MetricsWriter, read_metrics, read_new_rows


def write(folder: Path, resumed: int, steps: list[int], loss: float) -> MetricsWriter:
    writer = MetricsWriter(folder, step=resumed)
    for step in steps:
        writer.write("train", step, {"loss": loss, "stage": 1})
    return writer


def test_after_a_kill_and_a_resume_each_step_is_there_once_and_the_later_start_wins(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3, 4], loss=1.0)  # killed: never closed
    write(tmp_path, 2, [3, 4, 5], loss=2.0).close()
    rows = read_metrics(tmp_path, "train")
    assert [(row["step"], row["start"], row["loss"]) for row in rows] == [
        (1, 1, 1.0),
        (2, 1, 1.0),
        (3, 2, 2.0),
        (4, 2, 2.0),
        (5, 2, 2.0),
    ]


def test_a_line_torn_by_a_kill_costs_nothing_but_itself(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2], loss=1.0).close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    write(tmp_path, 1, [2, 3], loss=2.0).close()
    assert [row["step"] for row in read_metrics(tmp_path, "train")] == [1, 2, 3]


def test_a_reader_that_follows_gets_whole_lines_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_new_rows(path, 0) == ([], 0)
    path.write_text('{"step": 1}\n{"st')
    rows, offset = read_new_rows(path, 0)
    assert [row["step"] for row in rows] == [1]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert [row["step"] for row in read_new_rows(path, offset)[0]] == [2]


def test_every_line_is_json_even_where_a_loss_is_no_number(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path, step=0)
    writer.write("train", 1, {"loss": float("nan")})
    writer.close()
    line = (tmp_path / "metrics.jsonl").read_text().strip()
    assert json.loads(line, parse_constant=lambda name: 1 / 0)["loss"] is None


def test_tensorboard_shows_one_run_without_the_steps_that_were_lost(tmp_path: Path) -> None:
    write(tmp_path, 0, [1, 2, 3], loss=1.0).close()
    write(tmp_path, 1, [2, 3], loss=2.0).close()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1.0), (2, 2.0), (3, 2.0)]
