"""Two hosts run ingest and ten steps of pretraining over one lake, one worker on each host."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

pytestmark = pytest.mark.cluster

SCANS = 12
SHAPE_XYZ = (96, 96, 40)
COMMAND_SECONDS = 300.0

WHERE_TASKS_RUN = """
import json, sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=1, scheduling_strategy="SPREAD")
def where():
    time.sleep(2)  # else the first worker is free again before the other host has started one
    return ray.util.get_node_ip_address()

print(json.dumps(sorted(set(ray.get([where.remote() for _ in range(8)])))))
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of NIfTI files: water cylinders with noise in air, each of another radius."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(10)
    x, y, _ = np.indices(SHAPE_XYZ) - (np.array(SHAPE_XYZ).reshape(3, 1, 1, 1) - 1) / 2
    for number in range(SCANS):
        body = np.hypot(x, y) < 25 + number
        volume_hu = np.where(body, 20.0, -1000.0) + rng.normal(0, 10, SHAPE_XYZ)
        image = nib.Nifti1Image(np.rint(volume_hu).astype(np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))
        nib.save(image, folder / f"patient{number:02}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def lake(two_hosts: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name an empty lake and its key."""
    folder = tmp_path_factory.mktemp("lake")
    (folder / "key").write_bytes(bytes(range(32)))
    options = ["--lake", str(folder / "lake"), "--key-file", str(folder / "key")]
    two_hosts.first.run("semgen-platform", "lake", "init", *options)
    return options


def run_watched(hosts: Any, work: str, *command: str) -> tuple[dict[str, Any], list[set[int]]]:
    """The JSON that a command of the first host prints, and per host the workers whose name holds `work`."""
    seen: list[set[int]] = [set(), set()]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = hosts.first.start("semgen-platform", *command, "--json", stdout=out, stderr=err)
        deadline = time.monotonic() + COMMAND_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            for workers, host in zip(seen, (hosts.first, hosts.second), strict=True):
                workers |= {pid for pid, line in host.commands().items() if line.startswith("ray::") and work in line}
            time.sleep(0.2)
        if process.poll() is None:
            process.terminate()
            raise subprocess.TimeoutExpired(command, COMMAND_SECONDS)
        out.seek(0)
        err.seek(0)
        assert process.returncode == 0, err.read()[-4000:]
        return json.loads(out.read()), seen


def test_tasks_reach_both_hosts(two_hosts: Any) -> None:
    out = two_hosts.first.run(sys.executable, "-c", WHERE_TASKS_RUN, two_hosts.ray_address)
    assert json.loads(out.splitlines()[-1]) == ["10.77.0.1", "10.77.0.2"]


def test_ingest_has_a_worker_on_each_host_and_fills_one_lake(two_hosts: Any, scans: Path, lake: list[str]) -> None:
    command = ("ingest", str(scans), *lake, "--workers", "2", "--address", two_hosts.ray_address)
    first, workers = run_watched(two_hosts, "ConvertSource", *command)
    assert [len(on_host) for on_host in workers] == [1, 1]
    assert (first["found"], first["ingested"], first["rejected"]) == (SCANS, SCANS, 0)

    again, _ = run_watched(two_hosts, "ConvertSource", *command)
    assert (again["found"], again["already"], again["decoded"]) == (SCANS, SCANS, 0)
