"""Ingest of what is no folder: manifests, and buckets of a real S3 server, also while it is away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import obstore
import pytest

from semgen_pipelines.convert import IngestConfig
from semgen_pipelines.ingest import dry_run, ingest
from semgen_platform.lake.describe import refusals
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.resolving import paths_of
from semgen_platform.privacy import key_fingerprint
from semgen_platform.storage import s3_store

KEY = b"k" * 32


def write_ct(path: Path, seed: int, *, slices: int = 20) -> Path:
    """A small NIfTI file with air, water and bone."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(-1000, 10, (24, 28, slices))
    hu[4:20, 5:23] = rng.normal(20, 15, (16, 18, slices))
    hu[8:12, 8:12] = 700
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(hu.astype(np.int16), np.diag([1.5, 1.5, 3.0, 1.0]))
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return path


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))


def test_a_manifest_as_source_names_patients_collections_and_labels(lake: Lake, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for number, name in enumerate(("a.nii.gz", "sub/b.nii.gz", "sub/c.nii", "unlisted.nii")):
        write_ct(archive / name, number)
    with zipfile.ZipFile(archive / "p.zip", "w") as packed:
        packed.write(write_ct(tmp_path / "d.nii", 9), "in/d.nii")
    manifest = archive / "list.csv"
    manifest.write_text(
        "path,patient_id,collection,sex\na.nii.gz,P1,north,F\nsub/*.nii*,P2,,M\np.zip/in/d.nii,P3,north,\ngone.nii,P4,,\n"
    )
    said = dry_run([manifest], lake, KEY, IngestConfig(collection="south"), quiet=True)
    assert (said.found, said.to_read, said.reasons) == (5, 4, {"unreadable": 1})
    summary = ingest([manifest], lake, KEY, IngestConfig(collection="south"), quiet=True)
    assert (summary.found, summary.ingested, summary.reasons) == (5, 4, {"unreadable": 1})

    rows = lake.refresh().table("sources").to_pylist()
    assert Counter((row["collection"], dict(row["labels"]).get("sex", "")) for row in rows) == {
        ("north", "F"): 1, ("north", ""): 1, ("south", "M"): 2,
    }  # fmt: skip
    assert sorted(Counter(row["patient_id"] for row in rows).values()) == [1, 1, 2]
    assert all("patient_unknown" not in row["flags"] for row in rows)
    _, refused = refusals(lake.refresh())
    assert paths_of(lake, refused, manifest, KEY) == {refused[0]["source_id"]: str(archive / "gone.nii")}

    write_ct(archive / "gone.nii", 17)  # as where a mount comes back
    again = ingest([manifest], lake, KEY, IngestConfig(collection="south"), quiet=True)
    assert (again.ingested, again.already, again.rejected) == (1, 4, 0)


# --- a bucket: in a process of its own, since Ray's workers have the environment of the process that started them ---


class Archive:
    """Scans in a folder and in a bucket, and lakes made of one or the other."""

    def __init__(self, folder: Path, address: str, scans: int, slices: int) -> None:
        self.folder, self.address, self._key = folder / "archive", address, folder / "key"
        self._key.write_bytes(KEY)
        for number in range(scans):
            write_ct(self.folder / f"deep/{number:02d}.nii.gz", number, slices=slices)
        (self.folder / "notes.txt").write_text("nothing")
        with zipfile.ZipFile(self.folder / "p.zip", "w") as packed:
            packed.write(write_ct(folder / "d.nii", 99), "in/d.nii")
        bucket, _, prefix = address.removeprefix("s3://").partition("/")
        for file in self.folder.rglob("*.*"):
            obstore.put(s3_store(f"s3://{bucket}"), f"{prefix}/{file.relative_to(self.folder)}", file.read_bytes())

    def start(self, source: Path | str, lake: Lake, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "semgen_cli.main", "ingest", str(source), "--lake", lake.uri, "--json"]
        return subprocess.Popen(
            [*command, "--key-file", str(self._key), "-q"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | environment,
        )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    return dict(json.loads(out))


def rows_of(lake: Lake) -> list[Any]:
    """What the lake holds; the state of an object and of a file differ, as do their validators."""
    newest = open_lake(lake.uri)
    scans = newest.table("scans").drop_columns(["created_at", "run_id", "attempt"]).to_pylist()
    sources = newest.table("sources").drop_columns(["created_at", "run_id", "state"]).to_pylist()
    return [sorted(rows, key=str) for rows in (scans, sources)]


def finished(lake: Lake) -> int:
    """Volumes."""
    return len(list(lake.root.glob("volumes/*/*/*/complete.json")))


def lakes(folder: Path) -> list[Lake]:
    return [create_lake(str(folder / name), key_fingerprint=key_fingerprint(KEY)) for name in ("local", "remote")]


@pytest.mark.slow
def test_a_prefix_gives_the_scans_that_its_folder_gives(s3_server: Any, tmp_path: Path) -> None:
    archive = Archive(tmp_path, f"{s3_server.make_bucket('whole')}/in", scans=4, slices=20)
    local, remote = lakes(tmp_path)
    first, second = (ended(archive.start(*pair)) for pair in ((archive.folder, local), (archive.address, remote)))
    assert (second["found"], second["ingested"], second["rejected"]) == (6, 5, 1)
    assert first["reasons"] == second["reasons"]
    assert rows_of(local) == rows_of(remote)
    again = ended(archive.start(archive.address, remote))
    assert (again["already"], again["decoded"]) == (5, 0)


@pytest.mark.slow
def test_an_ingest_outlasts_a_server_that_is_away_for_twenty_seconds(s3_server: Any, tmp_path: Path) -> None:
    archive = Archive(tmp_path, f"{s3_server.make_bucket('outage')}/in", scans=40, slices=160)
    local, remote = lakes(tmp_path)
    process = archive.start(archive.address, remote)
    deadline = time.monotonic() + 120
    while finished(remote) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    s3_server.kill()
    assert process.poll() is None, process.communicate()
    done = finished(remote)
    time.sleep(20)
    s3_server.start()
    summary = ended(process)
    assert done < 41, "all was read before the outage"
    assert (summary["found"], summary["ingested"], summary["rejected"]) == (42, 41, 1)
    ended(archive.start(archive.folder, local))
    assert rows_of(remote) == rows_of(local)


@pytest.mark.slow
def test_a_server_that_stays_away_ends_the_ingest_in_one_sentence_and_refuses_nothing(
    s3_server: Any, tmp_path: Path
) -> None:
    archive = Archive(tmp_path, f"{s3_server.make_bucket('away')}/in", scans=24, slices=160)
    lake = lakes(tmp_path)[1]
    process = archive.start(archive.address, lake, SEMGEN_S3_RETRY_S="2")
    deadline = time.monotonic() + 120
    while finished(lake) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    s3_server.kill()
    try:
        said = process.communicate(timeout=120)
    finally:
        s3_server.start()
    assert (process.returncode, said[0], said[1].count("\n")) == (3, "", 1), said
    assert "does not answer" in said[1]
    assert "run the same command again" in said[1]
    summary = ended(archive.start(archive.address, lake))
    assert (summary["ingested"] + summary["already"], summary["rejected"]) == (25, 1)
