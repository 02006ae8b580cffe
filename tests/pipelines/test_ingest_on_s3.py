"""Ingest into a lake on a real S3 server, through the command line: all the way, outages, and a disk that fills up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.s3_server import S3Server

from semgen_pipelines.convert import IngestConfig
from semgen_pipelines.ingest import ingest
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.privacy import key_fingerprint

pytestmark = pytest.mark.slow

KEY = b"k" * 32
SCANS = 8
OUTAGE_S = 20.0


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many CTs of about 2 MB each, and a letter."""
    folder = tmp_path_factory.mktemp("archive")
    for number in range(SCANS):
        hu = np.full((112, 128, 64), -1000.0) + np.random.default_rng(number).normal(0, 20, (112, 128, 64))
        hu[16:96, 16:100] += 1020
        hu[40:60, 40:60] = 700
        image = nib.Nifti1Image(hu.astype(np.int16), np.diag([1.5, 1.5, 3.0, 1.0]))
        image.set_sform(image.affine, 1)
        nib.save(image, folder / f"{number}.nii.gz")
    (folder / "letter.txt").write_text("Dear colleague")
    return folder


@pytest.fixture(scope="module")
def whole(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of scans of an uninterrupted ingest into a folder."""
    lake = create_lake(str(tmp_path_factory.mktemp("whole") / "lake"), key_fingerprint=key_fingerprint(KEY))
    ingest([archive], lake, KEY, IngestConfig(), quiet=True)
    return _rows(lake)


def _rows(lake: Lake) -> list[dict[str, Any]]:
    """What an ingest leaves, but for names of attempts and times; the digests of all shards are in it."""
    return lake.refresh().table("scans").drop_columns(["created_at", "run_id", "attempt"]).to_pylist()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    return path


@pytest.fixture
def s3_lake(s3_server: S3Server) -> Lake:
    address = f"{s3_server.make_bucket('ingest')}/lake"
    return create_lake(address, key_fingerprint=key_fingerprint(KEY))


def _start(*arguments: object, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-m", "semgen_cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def _run(*arguments: object) -> tuple[int, str, str]:
    process = _start(*arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def _wait_for_volumes(lake: Lake, number: int) -> None:
    deadline = time.monotonic() + 60
    while sum(key.endswith("complete.json") for key in lake.storage.keys("volumes")) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_whole_way_works_on_s3_and_gives_the_lake_of_a_folder(
    s3_server: S3Server, archive: Path, whole: list[dict[str, Any]], key_file: Path
) -> None:
    lake = ("--lake", f"{s3_server.make_bucket('whole')}/lake")
    code, _, err = _run("lake", "init", *lake)
    assert (code, err.count("\n")) == (3, 1)
    assert "needs a pseudonym key of its own" in err
    assert _run("lake", "init", *lake, "--key-file", key_file)[0] == 0
    adding = ("ingest", archive, *lake, "--key-file", key_file, "--json", "-q")
    code, out, err = _run(*adding)
    assert (code, err) == (0, "")
    first = json.loads(out)
    assert (first["found"], first["ingested"], first["rejected"]) == (SCANS + 1, SCANS, 1)
    opened = open_lake(lake[1])
    assert _rows(opened) == whole
    again = json.loads(_run(*adding)[1])
    assert (again["ingested"], again["already"], again["decoded"]) == (0, SCANS, 0)
    scan = opened.select_scans()[0].scan_id
    for look in (["ls"], ["stats"], ["show", scan], ["rejects", "--resolve", archive, "--key-file", key_file]):
        code, out, err = _run("lake", *look, *lake, "--json")
        assert (code, err) == (0, "")
        assert scan in out or look[0] in ("stats", "rejects")
    assert "letter.txt" in out
    assert not list(opened.storage.keys(f"runs/{first['run_id']}/0/pending"))
    for command in ("train-encoder", "embed"):  # before anything else: there is no encoder either
        code, _, err = _run(command, *lake, "-q")
        assert (code, err.count("\n")) == (3, 1), err
        assert "is no local folder, which this command needs" in err


def test_an_outage_of_20_seconds_in_mid_run_is_survived(
    s3_server: S3Server, s3_lake: Lake, archive: Path, whole: list[dict[str, Any]], key_file: Path
) -> None:
    process = _start("ingest", archive, "--lake", s3_lake.uri, "--key-file", key_file, "--json", "-q")
    _wait_for_volumes(s3_lake, 2)
    s3_server.stop()
    try:
        time.sleep(OUTAGE_S)
        assert process.poll() is None, "the run ended in the outage, or the outage came too late to prove anything"
    finally:
        s3_server.start()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert json.loads(out)["ingested"] == SCANS
    assert _rows(s3_lake) == whole


def test_a_longer_outage_ends_in_one_sentence_and_the_same_command_completes(
    s3_server: S3Server, s3_lake: Lake, archive: Path, whole: list[dict[str, Any]], key_file: Path
) -> None:
    adding = ("ingest", archive, "--lake", s3_lake.uri, "--key-file", key_file, "--json", "-q")
    process = _start(*adding, SEMGEN_S3_RETRY_S="2")
    _wait_for_volumes(s3_lake, 2)
    s3_server.stop()
    try:
        out, err = process.communicate(timeout=120)
    finally:
        s3_server.start()
    assert process.returncode in (3, 4), err
    assert (out, err.count("\n")) == ("", 1), err
    assert "does not answer" in err
    assert "run the same command again" in err
    code, out, err = _run(*adding)
    assert code == 0, err
    assert _rows(s3_lake) == whole


def test_a_full_disk_ends_in_one_sentence_and_the_same_command_completes_once_there_is_room(
    small_disk: Callable[[int], Any], archive: Path, whole: list[dict[str, Any]], key_file: Path
) -> None:
    disk = small_disk(6)
    lake = create_lake(str(disk.folder / "lake"), key_fingerprint=key_fingerprint(KEY))
    adding = ("ingest", archive, "--lake", lake.uri, "--key-file", key_file, "--json", "-q")
    code, out, err = _run(*adding)
    assert (code, out, err.count("\n")) == (3, "", 1), err
    assert f"{lake.uri} is full (No space left on device); make room there and run the same command again" in err
    disk.grow(128)
    code, out, err = _run(*adding)
    assert code == 0, err
    summary = json.loads(out)
    assert summary["ingested"] + summary["already"] == SCANS
    assert _rows(lake) == whole
    finished = [path.parent.parent.name for path in lake.root.glob("volumes/*/*/*/complete.json")]
    assert sorted(finished) == [row["scan_id"] for row in whole], "each scan has one whole volume"
    assert not list(lake.root.glob("runs/*/0/pending/*.json"))
