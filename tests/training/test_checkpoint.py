"""Checkpoints are whole or absent (USERS.md item 18)."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from semgen_platform.errors import ConfigError
from semgen_platform.training.checkpoint import newest_checkpoint, save_checkpoint, weights_digest


def save(folder: Path, step: int, *, keep: int = 3, digest: str = "a") -> Path:
    return save_checkpoint(folder, {"x": torch.full((1000,), float(step))}, step=step, config_digest=digest, keep=keep)


def test_newest_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path, config_digest="a") is None
    for step in (2, 10, 9):
        save(tmp_path, step)
    found = newest_checkpoint(tmp_path, config_digest="a")
    assert found is not None
    assert found.step == 10
    assert torch.equal(found.state["x"], torch.full((1000,), 10.0))


def test_the_last_ones_are_kept_and_nothing_else_lies_there(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004", "step-00000005"]


@pytest.mark.parametrize("fault", ["flipped bit", "cut short", "no manifest", "torn manifest", "empty folder"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 1)
    place = save(tmp_path, 2)
    state, manifest = place / "state.pt", place / "manifest.json"
    data = bytearray(state.read_bytes())
    if fault == "flipped bit":
        data[len(data) // 2] ^= 1
        state.write_bytes(data)
    elif fault == "cut short":
        state.write_bytes(data[:-100])
    elif fault == "no manifest":
        manifest.unlink()
    elif fault == "torn manifest":
        manifest.write_text(manifest.read_text()[:20])
    else:
        state.unlink()
        manifest.unlink()
    with caplog.at_level(logging.WARNING):
        found = newest_checkpoint(tmp_path, config_digest="a")
    assert found is not None
    assert found.step == 1
    assert "step-00000002 is damaged" in caplog.text


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    save(tmp_path, 1, digest="a")
    with pytest.raises(ConfigError, match="another configuration; give --resume no"):
        newest_checkpoint(tmp_path, config_digest="b")


def test_reading_runs_no_pickled_code(tmp_path: Path) -> None:
    place = save_checkpoint(tmp_path, {"x": Path("evil")}, step=1, config_digest="a", keep=1)
    assert json.loads((place / "manifest.json").read_text())["step"] == 1
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        newest_checkpoint(tmp_path, config_digest="a")


SAVER = """
import sys, torch
from pathlib import Path
from semgen_platform.training.checkpoint import save_checkpoint
step = int(sys.argv[2])
print("ready", flush=True)
while True:
    step += 1
    state = {"x": torch.full((2_000_000,), float(step))}
    save_checkpoint(Path(sys.argv[1]), state, step=step, config_digest="a", keep=2)
"""


@pytest.mark.slow
def test_killed_at_twenty_random_moments_of_saving_the_newest_is_always_whole(tmp_path: Path) -> None:
    step = 0
    for round_number in range(20):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path), str(step)], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout is not None
        saver.stdout.readline()
        time.sleep(0.05 + 0.023 * round_number)
        saver.kill()
        saver.communicate()
        found = newest_checkpoint(tmp_path, config_digest="a")
        assert found is None or torch.equal(found.state["x"], torch.full((2_000_000,), float(found.step)))
        assert found is not None or step == 0
        step = max(step, found.step if found else 0)
    assert step > 20


def test_weights_digest_tells_values_names_types_and_shapes_apart() -> None:
    x = torch.arange(6.0)
    digests = [
        weights_digest({"a": x}),
        weights_digest({"b": x}),
        weights_digest({"a": x + 1e-6}),
        weights_digest({"a": x.view(2, 3)}),
        weights_digest({"a": x.double()}),
        weights_digest({"a": torch.tensor(3)}),
    ]
    assert len(set(digests)) == 6
    assert weights_digest({"a": x, "b": x}) == weights_digest({"b": x.clone(), "a": x.clone()})
    assert weights_digest({"a": x.view(2, 3).T}) == weights_digest({"a": x.view(2, 3).T.contiguous()})
