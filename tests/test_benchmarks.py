"""Benchmarks run at a tiny size, so that they cannot rot; what they print at that size is no measurement."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = ("bench_deidentification", "bench_ingest")  # half a minute even when tiny: they write every kind of source
BENCHMARKS = [
    pytest.param(script, id=script.stem, marks=[pytest.mark.slow] if script.stem in SLOW else [])
    for script in sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("bench_*.py"))
]


@pytest.mark.parametrize("script", BENCHMARKS)
def test_a_benchmark_runs_and_prints_its_figures(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, script, "--tiny"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["machine"]["cores"] > 0
    assert all(figure["median"] > 0 for figure in result.get("readers", {}).values())
    assert not result.get("left")  # identifiers that a benchmark planted and found again
    assert result.get("control_found", True)
    assert not result.get("not_found_in_the_sources")
