"""A Ray of our own: strangers are not let in, and nothing of it stays behind, however its command ends. One that was
started before is joined where it answers."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

COMMAND = """
import sys
from semgen_pipelines.runtime import ray_session
with ray_session(None, needs={"test": 1}) as ray:
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.readline()
"""

JOINS = """
import sys
from semgen_pipelines.runtime import ray_session
from semgen_platform.errors import InputError
for address in sys.argv[1:]:
    try:
        with ray_session(address, needs={"test": 1}):
            print("joined")
    except InputError as error:
        print(error)
"""

BREAKS_OFF = """
import threading, time
from semgen_pipelines.runtime import ray_session

class Slow(threading.Semaphore):  # at which Ray Data's reader looks whether it is to end: every tenth of a second
    def acquire(self, blocking=True, timeout=None):
        return super().acquire(blocking, timeout and 10)
threading.Semaphore = Slow

class Actor:
    def __call__(self, row):
        return row

def read():
    with ray_session(None, needs={"a worker": 1}) as ray:
        rows = ray.data.range(6, override_num_blocks=6).map(
            Actor, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1
        )
        for row in rows.iter_rows():
            time.sleep(2)  # the next row has come meanwhile, and the reader waits for room
            raise ValueError
before = set(threading.enumerate())
try:
    read()
except ValueError:
    print("said", *(thread.name for thread in set(threading.enumerate()) - before))
"""

Start = Callable[[], "tuple[subprocess.Popen[str], str]"]
"""Gives the command and its Ray's address."""


@pytest.fixture
def temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # short, or Ray's sockets would not fit
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def start(temporary: Path) -> Iterator[Start]:
    """Starts a command with a Ray of its own and waits until it is up."""
    commands: list[subprocess.Popen[str]] = []

    def started() -> tuple[subprocess.Popen[str], str]:
        command = subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
        commands.append(command)
        assert command.stdout is not None
        address = command.stdout.readline().strip()
        assert address, "Ray did not start"
        return command, address

    yield started
    for command in commands:
        command.kill()
        command.communicate()


def test_an_address_at_which_no_ray_answers_is_one_sentence_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # bound, but it does not listen
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        odd = ["127.0.0.1", "127.0.0.1:", ":6379", "head:ray", "head:70000"]
        joins = subprocess.run(  # of its own, since this one has a Ray
            [sys.executable, "-c", JOINS, address, *odd], capture_output=True, text=True, timeout=60
        )
    give = "start one, or give the address of a running head as host:port"
    first, *others = joins.stdout.splitlines()
    assert first == f"no Ray answers at {address}; {give}", joins.stderr
    assert others == [f"{one!r} is no address of a Ray; {give}" for one in odd]


@pytest.mark.slow
def test_an_error_amid_the_rows_of_a_dataset_is_said_before_ray_ends() -> None:
    """Ray Data reads ahead in threads; Ray that shuts down beneath them ends the process with code 1, in silence."""
    command = subprocess.run([sys.executable, "-c", BREAKS_OFF], capture_output=True, text=True, timeout=120)
    word, *threads = command.stdout.split() or [""]
    assert (command.returncode, word) == (0, "said"), command.stderr
    assert set(threads) <= {"Prefetcher"}, "which waits for ever, and holds nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    "stranger", [{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}]
)
def test_who_does_not_have_the_token_is_not_let_in(start: Start, stranger: dict[str, str]) -> None:
    """Ray listens on every interface, so the token is what keeps others out."""
    _, address = start()
    join = f"import ray; ray.init(address={address!r}, log_to_driver=False); print('joined')"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    refused = subprocess.run(
        [sys.executable, "-c", join], env={**clean, **stranger}, capture_output=True, text=True, timeout=120
    )
    assert refused.returncode != 0
    assert "joined" not in refused.stdout
    assert "ConnectionError" in refused.stderr


@pytest.mark.slow
def test_the_folder_of_a_killed_command_is_removed_by_the_next_and_that_of_a_living_one_is_not(
    start: Start, temporary: Path
) -> None:
    killed, _ = start()
    (folder,) = temporary.iterdir()
    living, _ = start()
    killed.kill()
    killed.wait()
    assert folder.exists(), "nothing to remove: Ray cleans up after kills by itself"
    while users := list(processes_in(folder)):  # Ray's agents would take two minutes to notice
        for process in users:
            process.kill()
        psutil.wait_procs(users, timeout=5)
    last, _ = start()
    assert not folder.exists()
    assert len(list(temporary.iterdir())) == 2
    living.communicate("end\n")
    last.communicate("end\n")
    assert not list(temporary.iterdir())


def processes_in(folder: Path) -> Iterator[psutil.Process]:
    """Processes with an open file below the folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(file.path.startswith(f"{folder}/") for file in process.open_files()):
                yield process


@pytest.mark.slow
def test_a_ray_that_answers_is_joined(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "1" * 64)
    _, address = start()
    join = (
        "from semgen_pipelines.runtime import ray_session\n"
        f"with ray_session({address!r}, needs={{'test': 1}}) as ray: print(ray.get_runtime_context().gcs_address)"
    )
    joined = subprocess.run([sys.executable, "-c", join], capture_output=True, text=True, timeout=120)
    assert joined.stdout.strip() == address, joined.stderr
