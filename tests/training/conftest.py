"""The phantom fit of rank_program.py, in this process and in processes of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

PROGRAM = Path(__file__).parent / "rank_program.py"


@pytest.fixture(scope="session")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rank_program", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    return module


@pytest.fixture
def start_program(tmp_path: Path) -> Callable[..., list[subprocess.Popen[str]]]:
    """Starts the program with so many ranks; the caller waits for them or kills them."""

    def start(folder: Path, *arguments: str, world: int = 1) -> list[subprocess.Popen[str]]:
        store = tmp_path / f"store-{len(list(tmp_path.glob('store-*')))}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        return [
            subprocess.Popen(
                [
                    *(sys.executable, str(PROGRAM), str(folder), *arguments),
                    *("--rank", str(rank), "--world", str(world), "--store", str(store)),
                ],
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(world)
        ]

    return start


@pytest.fixture
def run_program(start_program: Callable[..., list[subprocess.Popen[str]]]) -> Callable[..., list[dict[str, Any]]]:
    """The results of all ranks, in the order of ranks."""

    def run(folder: Path, *arguments: str, world: int = 1) -> list[dict[str, Any]]:
        outputs = [rank.communicate(timeout=120)[0] for rank in start_program(folder, *arguments, world=world)]
        return [json.loads(output) for output in outputs]

    return run
