"""Who may work, and when another takes over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from semgen_platform.errors import Busy, ConfigError
from semgen_platform.lake import leases
from semgen_platform.lake.leases import hold, holder_of
from semgen_platform.storage import Storage

Start = Callable[..., "subprocess.Popen[str]"]

HOLD_UNTIL_ENDED = """
import sys, time
from semgen_platform.lake.leases import hold
from semgen_platform.storage import Storage

with hold(Storage(sys.argv[1]), "run"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path))


def _epochs(storage: Storage) -> list[str]:
    return sorted(key for key in storage.keys("leases/run") if key.endswith(".json"))


def _live_elsewhere(storage: Storage, **changed: Any) -> None:
    """Leave a lease as a process of another host does."""
    with hold(storage, "run"):
        holder = holder_of(storage, "run")
    assert holder is not None
    other = replace(holder, **{"host": "other", "boot": "another boot", **changed})
    storage.put("leases/run/2.json", json.dumps(asdict(other)).encode())
    storage.put("leases/run/2.beat", b"17")


def test_a_lease_is_free_again_once_its_holder_is_done(storage: Storage) -> None:
    for epoch in (1, 2):
        with hold(storage, "run") as lease:
            assert lease.epoch == epoch
            holder = holder_of(storage, "run")
            assert holder is not None
            assert holder.pid == os.getpid()
        assert holder_of(storage, "run") is None
    assert _epochs(storage) == ["leases/run/2.json"], "older ones are cleared away"


def test_a_lease_is_free_again_after_an_error(storage: Storage) -> None:
    with pytest.raises(RuntimeError), hold(storage, "run"):
        raise RuntimeError
    with hold(storage, "run"):
        pass


def test_a_second_start_beside_a_live_one_is_refused(storage: Storage) -> None:
    with hold(storage, "run"), pytest.raises(Busy, match=f"process {os.getpid()} on this host"), hold(storage, "run"):
        pass


def test_leases_of_other_names_do_not_meet(storage: Storage) -> None:
    with hold(storage, "run"), hold(storage, "run2"):
        holders = [holder_of(storage, name) for name in ("run", "run2")]
    assert holders[0] == holders[1] is not None, "this process holds both"


def test_a_live_process_of_this_host_keeps_its_lease_and_a_killed_one_loses_it_at_once(
    storage: Storage, tmp_path: Path, start: Start
) -> None:
    other = start(HOLD_UNTIL_ENDED, tmp_path)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(Busy, match=f"process {other.pid} on this host"), hold(storage, "run"):
        pass
    os.kill(other.pid, signal.SIGKILL)
    time.sleep(0.2)  # a zombie now, since nobody has waited for it
    began = time.monotonic()
    with hold(storage, "run") as lease:
        assert lease.epoch == 2
    assert time.monotonic() - began < 2
    other.communicate()


def test_a_process_number_that_was_given_again_is_not_taken_for_the_holder(storage: Storage) -> None:
    with hold(storage, "run"):
        holder = holder_of(storage, "run")
    assert holder is not None
    storage.put("leases/run/2.json", json.dumps(asdict(replace(holder, started="1"))).encode())
    with hold(storage, "run") as lease:
        assert lease.epoch == 3


def test_a_holder_elsewhere_whose_beat_moves_is_left_alone(storage: Storage) -> None:
    _live_elsewhere(storage)
    beat = threading.Timer(0.7, lambda: storage.put("leases/run/2.beat", b"18"))
    beat.start()
    with pytest.raises(Busy, match="on host other"), hold(storage, "run"):
        pass
    beat.join()


@pytest.mark.parametrize("changed", [{}, {"boot": None, "space": "another container"}], ids=["host", "container"])
def test_a_holder_elsewhere_whose_beat_stands_still_is_taken_over(
    storage: Storage, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "STALE_S", 1.5)
    if "boot" in changed:
        changed = {**changed, "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    _live_elsewhere(storage, **changed)
    began = time.monotonic()
    with hold(storage, "run") as lease:
        assert lease.epoch == 3
    assert time.monotonic() - began >= 1.5


def test_a_holder_beats_while_it_works(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.05)
    with hold(storage, "run"):
        seen = set()
        for _ in range(20):
            seen.add(storage.get("leases/run/1.beat"))
            time.sleep(0.05)
    assert len(seen) >= 3


def test_a_holder_that_was_taken_over_learns_it(storage: Storage) -> None:
    with hold(storage, "run") as lease:
        lease.check()
        storage.put("leases/run/2.json", b"{}")
        with pytest.raises(Busy, match="taken over"):
            lease.check()


def test_an_old_view_does_not_win_against_a_higher_epoch(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process saw epoch 1 end and stood still; epochs 2 and 3 came, and 2 was cleared away."""
    with hold(storage, "run"):
        pass
    real, stale = leases._newest_epoch, iter([1])
    with hold(storage, "run"):
        pass
    with hold(storage, "run"):
        monkeypatch.setattr(leases, "_newest_epoch", lambda *a: next(stale, None) or real(*a))
        with pytest.raises(Busy), hold(storage, "run"):
            pass
        assert _epochs(storage) == ["leases/run/3.json"]


def test_of_many_that_start_at_once_exactly_one_holds(storage: Storage) -> None:
    outcomes: list[str] = []
    together, done = threading.Barrier(8), threading.Barrier(8)

    def attempt() -> None:
        together.wait()
        try:
            with hold(storage, "run"):
                outcomes.append("held")
                done.wait()
        except Busy:
            outcomes.append("busy")
            done.wait()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["busy"] * 7 + ["held"]


def test_a_name_that_would_lead_elsewhere_is_refused(storage: Storage) -> None:
    with pytest.raises(ConfigError, match="is no name"), hold(storage, "../lake"):
        pass
