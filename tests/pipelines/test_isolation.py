"""Work in a child process: a crash or a hang costs one call, and no child outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from semgen_pipelines.isolation import Crashed, Isolated, TimedOut

PID = "__import__('os').getpid()"
CRASH = f"__import__('os').kill({PID}, 11)"
HANG = "__import__('time').sleep(60)"


@pytest.fixture
def evaluate() -> Iterator[Isolated[str, object]]:
    """`eval` in a child: whatever a test wants to happen there."""
    isolated: Isolated[str, object] = Isolated(eval, time_limit_s=20, memory_bytes=2**30)
    yield isolated
    isolated.close()


def test_calls_share_one_child_and_errors_come_out_as_themselves(evaluate: Isolated[str, object]) -> None:
    first = evaluate(PID)
    assert first != os.getpid()
    with pytest.raises(ZeroDivisionError):
        evaluate("1 / 0")
    assert evaluate(PID) == first


def test_a_crash_costs_one_call(evaluate: Isolated[str, object]) -> None:
    first = evaluate(PID)
    with pytest.raises(Crashed) as crashed:
        evaluate(CRASH)
    assert crashed.value.status == -signal.SIGSEGV
    assert evaluate(PID) != first


def test_a_call_that_takes_too_long_is_ended_and_its_child_with_it() -> None:
    isolated: Isolated[str, object] = Isolated(eval, time_limit_s=3, memory_bytes=2**30)
    child = isolated(PID)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        isolated(HANG)
    assert time.monotonic() - started < 10
    assert not psutil.pid_exists(int(str(child)))
    assert isolated("1 + 1") == 2
    isolated.close()


def test_a_call_that_takes_more_memory_than_it_may_ends_with_an_error_and_not_the_machine() -> None:
    isolated: Isolated[str, object] = Isolated(eval, time_limit_s=20, memory_bytes=2**28)
    with pytest.raises(MemoryError):
        isolated("len(bytes(2**30))")
    assert isolated("len(bytes(2**20))") == 2**20
    isolated.close()


def test_what_a_child_prints_goes_nowhere(capfd: pytest.CaptureFixture[str], evaluate: Isolated[str, object]) -> None:
    evaluate("print('CANARY^NAME') or __import__('os').write(2, b'CANARY^NAME')")
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_hanging_child_ends_with_a_killed_parent() -> None:
    code = (
        "import sys; from semgen_pipelines.isolation import Isolated; run = Isolated(eval, 60, 2**30);"
        f"print(run({PID!r}), flush=True); run({HANG!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    child.wait(timeout=10)
