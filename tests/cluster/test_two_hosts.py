"""Two hosts run ingest and ten steps of pretraining over one lake, one worker on each host."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
import pytest

from semgen_platform.discovery.rows import BASE_BOX_ZYX_MM, box_matrix, member_row
from semgen_platform.lake.lake import open_lake

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


HOLD_CPUS = """
import sys, time, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False)
group = ray.util.placement_group([{"CPU": 1}, {"CPU": 1}], strategy="STRICT_SPREAD")
ray.get(group.ready())
print("held", flush=True)
time.sleep(600)
"""

PLACES_LPS_ZYX_MM = ((58.0, -95.0, -95.0), (58.0, -70.0, -95.0), (40.0, -95.0, -70.0))
TEN_STEPS = tuple(
    word
    for setting in (
        "network.width=2",
        "crops.shape_zyx=[16,16,16]",
        "perturbation.elastic_sigma_voxels=2",
        "perturbation.elastic_alpha=20",
        "training.classification_epochs=1",
        "training.epochs=1",
        "training.epoch_crops=20",
        "training.batch_size=4",
    )
    for word in ("--set", setting)
)


@dataclass(frozen=True)
class Ingested:
    """An ingest over both hosts: the command, what it printed, and the workers seen on each host."""

    command: tuple[str, ...]
    summary: dict[str, Any]
    workers: list[set[int]]


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


@pytest.fixture(scope="module")
def ingested(two_hosts: Any, scans: Path, lake: list[str]) -> Ingested:
    command = ("ingest", str(scans), *lake, "--workers", "2", "--address", two_hosts.ray_address)
    return Ingested(command, *run_watched(two_hosts, "ConvertSource", *command))


@pytest.fixture(scope="module")
def discovery(lake: list[str], ingested: Ingested) -> str:
    """Three patterns at the same places of every patient, the last two of whom validate."""
    name = "dcluster"
    opened = open_lake(lake[1])
    rows = [
        member_row(
            name,
            pattern,
            scan.scan_id,
            scan.patient_id,
            "val" if number >= SCANS - 2 else "train",
            box_matrix(np.eye(4), place, 1.0),
            scale=1.0,
            jitter=0,
            score=0.9,
        )
        for number, scan in enumerate(opened.select_scans(profile="all"))
        for pattern, place in enumerate(PLACES_LPS_ZYX_MM)
    ]
    opened.insert("members", rows)
    opened.insert(
        "patterns",
        [
            {"discovery_id": name, "pattern": pattern, "box_zyx_mm": BASE_BOX_ZYX_MM, "kept": True}
            for pattern in range(len(PLACES_LPS_ZYX_MM))
        ],
    )
    head = {"discovery_id": name, "encoder_id": "ecluster", "recipe_name": "test", "selection": "all", "seed": 0}
    opened.insert("discoveries", [head])
    opened.commit("discover", name)
    return name


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


@contextmanager
def one_cpu_left_on_each_host(hosts: Any) -> Iterator[None]:
    """Inside, Ray has one free CPU a host: it would else pack both ranks of a training onto one."""
    with tempfile.TemporaryFile("w+") as out:
        holder = hosts.first.start(sys.executable, "-c", HOLD_CPUS, hosts.ray_address, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + COMMAND_SECONDS
            while not _says(out, "held") and holder.poll() is None and time.monotonic() < deadline:
                time.sleep(0.2)
            assert _says(out, "held")
            yield
        finally:
            holder.terminate()
            holder.wait(30)


def _says(out: IO[str], word: str) -> bool:
    out.seek(0)
    return word in out.read()


def test_tasks_reach_both_hosts(two_hosts: Any) -> None:
    out = two_hosts.first.run(sys.executable, "-c", WHERE_TASKS_RUN, two_hosts.ray_address)
    assert json.loads(out.splitlines()[-1]) == ["10.77.0.1", "10.77.0.2"]


def test_ingest_has_a_worker_on_each_host_and_fills_one_lake(two_hosts: Any, ingested: Ingested) -> None:
    assert [len(on_host) for on_host in ingested.workers] == [1, 1]
    summary = ingested.summary
    assert (summary["found"], summary["ingested"], summary["rejected"]) == (SCANS, SCANS, 0)

    again, _ = run_watched(two_hosts, "ConvertSource", *ingested.command)
    assert (again["found"], again["already"], again["decoded"]) == (SCANS, SCANS, 0)


def test_too_few_cpus_on_a_joined_ray_are_refused_with_the_sum(two_hosts: Any, scans: Path, lake: list[str]) -> None:
    command = ("ingest", str(scans), *lake, "--collection", "more", "--workers", "8")
    done = two_hosts.first.finish("semgen-platform", *command, "--address", two_hosts.ray_address)
    assert done.returncode == 3
    assert "has 4 CPUs and this needs 9 (8 for ingest workers + 1 for Ray's own tasks)" in done.stderr


def test_pretraining_has_a_rank_on_each_host_and_makes_the_weights_of_one_host(
    two_hosts: Any, lake: list[str], discovery: str
) -> None:
    command = ("pretrain", *lake[:2], "--discovery", discovery, "--recipe", "tiny", *TEN_STEPS, "--workers", "2")
    with one_cpu_left_on_each_host(two_hosts):
        spread, ranks = run_watched(two_hosts, "TrainWorker", *command, "--address", two_hosts.ray_address)
    assert [len(on_host) for on_host in ranks] == [1, 1]
    assert (spread["steps"], spread["found"], spread["skipped_steps"]) == (10, False, 0)

    alone = json.loads(two_hosts.first.run("semgen-platform", *command, "--resume", "no", "--json"))
    assert (alone["run_id"], alone["attempt"]) == (spread["run_id"], "1")
    assert alone["weights_digest"] == spread["weights_digest"]
