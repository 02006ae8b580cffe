"""Progress goes to stderr, a line now and then where there is no terminal, and never under quiet."""

from __future__ import annotations

import time

import pytest

from semgen_platform import progress
from semgen_platform.progress import Progress


def test_without_a_terminal_short_work_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("ingest", 3) as counting:
        for _ in range(3):
            counting.advance(note="refused=1")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["ingest 3/3 0s refused=1"]


def test_an_unknown_total_shows_the_count_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("list") as counting:
        counting.show(7)
    assert capsys.readouterr().err == "list 7 0s\n"


def test_quiet_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("embed", 1, quiet=True) as counting:
        counting.advance()
    assert capsys.readouterr().err == ""


def test_one_long_item_is_no_silence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.02)
    with Progress("ingest: listing, files") as counting:
        counting.advance(5)
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 2
    assert set(lines) == {"ingest: listing, files 5 0s"}
