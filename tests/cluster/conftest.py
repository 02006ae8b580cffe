"""Two hosts on one machine: network namespaces that see each other through a bridge, each with a node of one Ray.

Each host has its own network, home and Ray folder; the disk is shared, as a lake on a file server is. What runs in the
namespaces was started here, so teardown ends exactly that (`ray stop` would end every Ray of the machine).
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

CPUS_PER_HOST = 2  # two workers and one CPU for Ray's own tasks need three
OBJECT_STORE_BYTES = 100 * 2**20
START_SECONDS = 120.0


@dataclass(frozen=True)
class Host:
    """One network namespace: `address` is its only one beside loopback."""

    namespace: str
    address: str
    home: Path
    token: str

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the host runs with: nothing of the caller's Ray, gloo on the host's own network."""
        own = {
            "HOME": str(self.home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0",
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        return {**{k: v for k, v in os.environ.items() if not k.startswith("RAY_")}, **own}

    def start(self, *command: str, stdout: IO[str], stderr: IO[str]) -> subprocess.Popen[str]:
        """A process on this host, in a session of its own."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def finish(self, *command: str, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """A command on this host, run to its end."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            code = self.start(*command, stdout=out, stderr=err).wait(timeout)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

    def run(self, *command: str, timeout: float = 300.0) -> str:
        """Standard output of a command on this host; fails with its standard error."""
        done = self.finish(*command, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-4000:]}"
        return done.stdout

    def commands(self) -> dict[int, str]:
        """Command line by process id of all that runs on this host now; Ray names a worker after what it does."""
        listed = subprocess.run(["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=False)
        found = {}
        for pid in listed.stdout.split():
            path = Path("/proc") / pid / "cmdline"
            if path.exists():
                found[int(pid)] = path.read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return found

    def end(self) -> None:
        """End every process of the host: asked first, then killed."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 10.0
            for pid in self.commands():
                _signal(pid, number)
            while self.commands() and time.monotonic() < deadline:
                time.sleep(0.2)


@dataclass(frozen=True)
class TwoHosts:
    """One Ray over two hosts; `ray_address` is where a driver on either joins."""

    first: Host
    second: Host
    ray_address: str


@pytest.fixture(scope="module")
def two_hosts() -> Iterator[TwoHosts]:
    """Two hosts with a running Ray; skipped, with the reason, where the machine allows no network namespaces."""
    _skip_without_namespaces()
    with ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix="sgc", dir="/tmp"))  # short: Ray's Unix sockets allow 107 bytes
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        token = secrets.token_hex(32)
        hosts = _network(undo, folder, token)
        first, second = hosts
        address = f"{first.address}:6379"
        _start_node(first, "--head", f"--port={6379}", f"--temp-dir={folder}/r", "--include-dashboard=true")
        _wait_for_nodes(first, address, 1)
        _start_node(second, f"--address={address}")
        _wait_for_nodes(first, address, 2)
        yield TwoHosts(first, second, address)


def _skip_without_namespaces() -> None:
    if shutil.which("ip") is None:
        pytest.skip("two hosts need the ip command (package iproute2)")
    if os.geteuid() != 0:
        pytest.skip("two hosts need root, to make network namespaces")
    name = f"sgtry{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"this machine allows no network namespaces: {made.stderr.strip()}")
    _ip("netns", "del", name)


def _network(undo: ExitStack, folder: Path, token: str) -> tuple[Host, Host]:
    """Two namespaces on one bridge that has no address, so neither this machine nor another run's hosts are reached."""
    unique = os.getpid()
    bridge = f"sgb{unique}"
    _ip("link", "add", bridge, "type", "bridge")
    undo.callback(_ip, "link", "del", bridge)
    _ip("link", "set", bridge, "up")
    hosts = []
    for number in (1, 2):
        host = Host(f"sg{unique}h{number}", f"10.77.0.{number}", folder / f"home{number}", token)
        host.home.mkdir()
        _ip("netns", "add", host.namespace)
        undo.callback(_ip, "netns", "del", host.namespace)
        undo.callback(host.end)
        cable = f"sgv{unique}{number}"
        _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("link", "set", cable, "master", bridge, "up")
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", host.namespace, "link", "set", device, "up")
        hosts.append(host)
    return hosts[0], hosts[1]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _start_node(host: Host, *options: str) -> None:
    log = (host.home / "ray.log").open("w")
    common = (
        f"--node-ip-address={host.address}",
        f"--num-cpus={CPUS_PER_HOST}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        "--disable-usage-stats",
        "--block",
    )
    with log:
        host.start("ray", "start", *options, *common, stdout=log, stderr=log)


def _wait_for_nodes(host: Host, address: str, count: int) -> None:
    """Return once Ray counts `count` living nodes."""
    code = (
        "import sys, ray\n"
        "ray.init(address=sys.argv[1], logging_level='ERROR', log_to_driver=False)\n"
        "print(sum(node['Alive'] for node in ray.nodes()))\n"
    )
    deadline = time.monotonic() + START_SECONDS
    last = ""
    while time.monotonic() < deadline:
        try:
            last = host.run(sys.executable, "-c", code, address, timeout=60)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            last = str(error)
        if last.strip() == str(count):
            return
        time.sleep(1.0)
    logs = "\n".join(path.read_text()[-2000:] for path in host.home.parent.glob("home*/ray.log"))
    pytest.fail(f"Ray did not reach {count} nodes in {START_SECONDS:.0f} s: {last}\n{logs}")


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
