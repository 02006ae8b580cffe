"""kill -9 of an ingest's driver, workers and decoders at random moments: the same command completes it.

SEMGEN_KILLS says how many moments (3 unless told; the closing note of a release has 20). Run with -s for the digests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
import zarr
from blake3 import blake3
from numpy.typing import NDArray
from zarr.storage import ObjectStore

from semgen_platform.ids import digest_of
from semgen_platform.lake.lake import create_lake, open_lake
from semgen_platform.lake.pending import runs_with_pending
from semgen_platform.lake.volumes import volume_key
from semgen_platform.privacy import key_fingerprint
from semgen_platform.storage import is_local, s3_store

KEY = b"k" * 32
KILLS = int(os.environ.get("SEMGEN_KILLS", "3"))
SCANS, VICTIMS = 16, ("driver", "worker", "decoder")


def fill(archive: Path) -> None:
    """Sixteen scans, four of them in an archive, one mask and one text."""
    archive.mkdir()
    for number in range(SCANS):
        rng = np.random.default_rng(number)
        hu = rng.normal(-1000, 10, (48, 48, 120))
        hu[8:40, 10:38] = rng.normal(40, 15, (32, 28, 120))
        nib.save(nib.Nifti1Image(hu.astype(np.int16), np.diag([1.5, 1.5, 2.0, 1.0])), archive / f"{number}.nii.gz")
    with zipfile.ZipFile(archive / "four.zip", "w") as packed:
        for number in range(4):
            packed.write(archive / f"{number}.nii.gz", f"{number}.nii.gz")
            (archive / f"{number}.nii.gz").unlink()
    mask = np.zeros((48, 48, 40), np.uint8)
    mask[10:20, 10:20] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), archive / "mask.nii.gz")
    (archive / "notes.txt").write_text("nothing")


def start(archive: Path, lake: str, key: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "semgen_cli.main", "ingest", str(archive), "--lake", lake, "--key-file", str(key)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def contents(lake: str) -> str:
    """Digest of every row but for times and attempts, and of every voxel as zarr-python reads it."""
    opened = open_lake(lake)
    rows = {
        name: sorted(opened.table(name).drop_columns(dropped).to_pylist(), key=str)
        for name, dropped in {
            "scans": ["created_at", "run_id", "attempt"],
            "sources": ["created_at", "run_id"],
            "rejects": ["created_at", "run_id"],
        }.items()
    }
    voxels = {
        row["scan_id"]: blake3(level_0(lake, volume_key(row["scan_id"], row["attempt"])).tobytes()).hexdigest()
        for row in opened.table("scans", columns=["scan_id", "attempt"]).to_pylist()
    }
    return digest_of([rows, voxels])


def level_0(lake: str, key: str) -> NDArray[Any]:
    address = f"{lake}/{key}"
    store = Path(address) if is_local(lake) else ObjectStore(s3_store(address), read_only=True)
    return np.asarray(zarr.open_group(store, mode="r")["0"][:])  # type: ignore[index]


def victims(process: subprocess.Popen[bytes], kind: str) -> Iterator[psutil.Process]:
    mark = {"worker": "ray::", "decoder": "semgen_pipelines.isolation"}
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.Error):
            if any(mark[kind] in word for word in child.cmdline()):
                yield child


def strike(process: subprocess.Popen[bytes], kind: str, chance: random.Random) -> str:
    """Kill one process of this kind, or the driver where there is none yet; what was killed."""
    with suppress(psutil.Error):
        found = [] if kind == "driver" else list(victims(process, kind))
        if found:
            chance.choice(found).kill()
            return kind
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return "driver"


@pytest.mark.slow
@pytest.mark.timeout(120 + 120 * KILLS)
@pytest.mark.parametrize(("place", "kills"), [("folder", KILLS), ("bucket", -(-KILLS // 3))])
def test_after_kills_at_random_moments_the_lake_is_that_of_an_undisturbed_run(
    place: str, kills: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    archive, key, chance = tmp_path / "archive", tmp_path / "key", random.Random(20)
    fill(archive)
    key.write_bytes(KEY)
    above = str(tmp_path) if place == "folder" else request.getfixturevalue("s3_server").make_bucket("kills")
    whole = create_lake(f"{above}/whole", key_fingerprint=key_fingerprint(KEY)).uri
    started = time.monotonic()
    assert start(archive, whole, key).wait() == 0
    seconds, expected = time.monotonic() - started, contents(whole)
    print(f"\nundisturbed, {place}, {seconds:.1f} s {expected}")
    number = 0
    while number < kills:
        lake = create_lake(f"{above}/killed-{number}-{seconds:.2f}", key_fingerprint=key_fingerprint(KEY)).uri
        process, moment = start(archive, lake, key), chance.uniform(0.05, 0.95) * seconds
        time.sleep(moment)
        if process.poll() is not None:  # the machine is faster than it was: a kill now would prove nothing
            assert process.returncode == 0
            seconds *= 0.8
            continue
        killed = strike(process, VICTIMS[number % len(VICTIMS)], chance)
        process.wait()
        done = len(open_lake(lake).table("scans"))
        assert start(archive, lake, key).wait() == 0
        found = contents(lake)
        print(f"{number} {killed} killed at {moment:.1f} s, {done} scans committed then; {found}")
        assert found == expected
        assert not runs_with_pending(open_lake(lake))
        number += 1
