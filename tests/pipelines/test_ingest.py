"""Ingest: every source is counted once, every refusal explained, nothing is done twice, and nobody is named."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest

from semgen_pipelines.convert import IngestConfig
from semgen_pipelines.ingest import IngestSummary, check_rejects, dry_run, ingest
from semgen_platform.errors import ConfigError, Incomplete, InputError, StorageError, WrongKey
from semgen_platform.lake.describe import refusals
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.resolving import paths_of
from semgen_platform.lake.volumes import open_level
from semgen_platform.privacy import key_fingerprint

KEY = b"k" * 32
REAL = Path(__file__).parents[3] / "shared" / "data" / "real"


def write_ct(path: Path, seed: int, *, slices: int = 20, affine: np.ndarray | None = None) -> np.ndarray:
    """A small NIfTI file with air, water and bone; its voxels (x, y, z) in HU."""
    rng = np.random.default_rng(seed)
    hu = np.full((24, 28, slices), -1000.0) + rng.normal(0, 10, (24, 28, slices))
    hu[4:20, 5:23] = rng.normal(20, 15, (16, 18, slices))
    hu[8:12, 8:12] = 700
    hu = hu.astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(hu, np.diag([1.5, 1.5, 3.0, 1.0]) if affine is None else affine)
    image.set_sform(image.affine, 1)
    nib.save(image, path)
    return hu


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))


def run(lake: Lake, *roots: Path, **options: object) -> IngestSummary:
    config = IngestConfig(**options.pop("config", {}))  # type: ignore[arg-type]
    return ingest(list(roots), lake, KEY, config, quiet=True, **options)  # type: ignore[arg-type]


def test_each_source_is_counted_once_and_a_second_run_reads_nothing(lake: Lake, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for number in range(3):
        write_ct(archive / f"deep/er/scan{number}.nii.gz", number)
    write_ct(archive / "short.nii", 9, slices=5)
    (archive / "notes.txt").write_text("seen by the radiologist")

    first = run(lake, archive)
    assert (first.found, first.ingested, first.already, first.rejected) == (5, 3, 0, 2)
    assert first.reasons == {"too_few_slices": 1, "not_an_image": 1}

    second = run(lake, archive)
    assert (second.found, second.ingested, second.already, second.rejected) == (5, 0, 3, 2)
    assert (second.decoded, second.bytes_stored, second.flagged) == (0, 0, first.flagged)
    assert second.lake_version == first.lake_version


def test_voxels_and_world_positions_are_those_that_nibabel_reads(lake: Lake, tmp_path: Path) -> None:
    turn = np.deg2rad(9)
    oblique = np.array(
        [
            [-1.5, 0, 0, 40],
            [0, np.cos(turn) * 1.5, -np.sin(turn) * 3, -60],
            [0, np.sin(turn) * 1.5, np.cos(turn) * 3, 12],
            [0, 0, 0, 1],
        ]
    )
    hu = write_ct(tmp_path / "archive/oblique.nii.gz", 1, affine=oblique)
    run(lake, tmp_path / "archive")

    (scan,) = lake.refresh().select_scans(profile="all")
    stored = open_level(lake.root, scan.scan_id, scan.attempt, 0).read((0, 0, 0), scan.shape_zyx)
    to_ijk = np.linalg.inv(scan.ijk_to_lps_mm)
    for ijk in [(0, 0, 0), (23, 1, 2), (3, 27, 19), (9, 9, 11)]:
        ras = nib.affines.apply_affine(oblique, ijk)
        x, y, z = nib.affines.apply_affine(to_ijk, ras * [-1, -1, 1])
        assert np.allclose([x, y, z], np.rint([x, y, z]), atol=1e-3)
        assert stored[round(z), round(y), round(x)] == hu[ijk]


def test_a_changed_file_is_a_new_state_and_an_added_one_is_all_that_is_read(lake: Lake, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    write_ct(archive / "a.nii.gz", 1)
    write_ct(archive / "b.nii.gz", 2)
    run(lake, archive)
    write_ct(archive / "b.nii.gz", 3)
    write_ct(archive / "c.nii.gz", 4)

    summary = run(lake, archive)
    assert (summary.found, summary.ingested, summary.already, summary.decoded) == (3, 2, 1, 2)
    assert len(lake.refresh().table("sources")) == 4


def test_the_same_scan_from_two_places_is_one_scan_with_two_sources(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/a.nii.gz", 1)
    write_ct(tmp_path / "archive/copy/a.nii", 1)
    summary = run(lake, tmp_path / "archive")
    assert summary.ingested == 2
    assert len(lake.refresh().table("scans")) == 1
    assert len(lake.refresh().table("sources")) == 2


def test_a_manifest_names_patients_and_labels(lake: Lake, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_ct(tmp_path / f"archive/{name}.nii.gz", ord(name))
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,patient_id,sex\na.nii.gz,P1,F\nb.nii.gz,P1,F\n")
    run(lake, tmp_path / "archive", manifest_file=manifest)

    rows = lake.refresh().table("sources").to_pylist()
    named = [row for row in rows if "patient_unknown" not in row["flags"]]
    assert len({row["patient_id"] for row in named}) == 1
    assert [dict(row["labels"]) for row in named] == [{"sex": "F"}] * 2
    assert len({row["patient_id"] for row in rows}) == 2
    assert not any("P1" in str(row) for row in rows)


def test_another_manifest_files_known_scans_anew_only_where_that_is_asked_for(lake: Lake, tmp_path: Path) -> None:
    archive, manifest = tmp_path / "archive", tmp_path / "list.csv"
    for number, name in enumerate("abc"):
        write_ct(archive / f"{name}.nii", number)
    manifest.write_text("path,patient_id,sex\na.nii,P1,F\nb.nii,P2,M\nc.nii,P3,M\n")
    run(lake, archive, manifest_file=manifest)
    before = {row["state"]: row for row in lake.refresh().table("sources").to_pylist()}

    manifest.write_text("path,patient_id,sex\na.nii,P1,F\nb.nii,P1,M\nc.nii,P3,F\n")
    said = run(lake, archive, manifest_file=manifest)
    assert (said.already, said.filed_otherwise, said.decoded) == (3, 2, 0)
    done = run(lake, archive, manifest_file=manifest, refile=True)
    assert (done.already, done.ingested, done.filed_otherwise) == (1, 2, 0)
    again = run(lake, archive, manifest_file=manifest, refile=True)
    assert (again.already, again.ingested, again.filed_otherwise) == (3, 0, 0)

    lake = lake.refresh()
    assert len(lake.table("scans")) == 3
    newer = [row for row in lake.table("sources").to_pylist() if row["state"] not in before]
    assert sorted(dict(row["labels"])["sex"] for row in newer) == ["F", "M"]
    scans = lake.select_scans(profile="all")
    assert len({scan.patient_id for scan in scans}) == 2  # a and b are of one patient now, and of one split


def test_the_operators_words_are_no_part_of_the_recipe_that_is_kept(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/meier_3.nii", 1)
    config = {"patient_namespace": "Charity Hospital", "patient_from": "(meier)_[0-9]+"}
    run(lake, tmp_path / "archive", config=config)
    (row,) = lake.refresh().table("runs").to_pylist()
    assert "Charity" not in row["recipe"]
    assert "meier" not in row["recipe"]
    assert '"min_slices":16' in row["recipe"]


def test_a_report_that_lies_in_the_lake_or_cannot_be_written_ends_before_the_work(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/a.nii", 1)
    for report, says in (
        (lake.root / "report.csv", "lies in the lake"),
        (tmp_path / "nowhere/report.csv", "cannot be written"),
        (tmp_path, "cannot be written"),
    ):
        with pytest.raises(ConfigError, match=says):
            run(lake, tmp_path / "archive", report=report)
    assert lake.refresh().version == 0


def test_a_group_that_matches_nothing_names_no_patient(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/ct.nii", 1)
    write_ct(tmp_path / "archive/P7_ct.nii", 2)
    run(lake, tmp_path / "archive", config={"patient_from": r"(P\d+)?_?ct"})
    assert len({row["patient_id"] for row in lake.refresh().table("sources").to_pylist()}) == 2


def test_a_report_for_which_there_is_no_room_is_one_sentence_and_the_lake_complete(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/a.nii", 1)
    with pytest.raises(StorageError, match="No space left on device"):
        run(lake, tmp_path / "archive", report=Path("/dev/full"))
    assert run(lake, tmp_path / "archive").already == 1


def test_the_operators_report_gives_paths_back_and_the_lake_does_not(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/Doe_Archibald/scan.nii.gz", 1)
    (tmp_path / "archive/Doe_Archibald/letter.txt").write_text("Dear Archibald")
    report = tmp_path / "report.csv"
    run(lake, tmp_path / "archive", report=report)

    with report.open(newline="") as file:
        rows = {Path(row["source"]).name: row for row in csv.DictReader(file)}
    assert rows["scan.nii.gz"]["status"] == "ingested"
    assert (rows["letter.txt"]["status"], rows["letter.txt"]["reason"]) == ("rejected", "not_an_image")
    files = [path for path in lake.root.rglob("*") if path.is_file()]
    assert not [
        path for path in files if "Archibald" in str(path.relative_to(lake.root)) or b"Archibald" in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ("missing", InputError, "does not exist"),
        ("empty", InputError, "no file"),
        ("key", WrongKey, "key"),
        ("rule", ConfigError, "--patient-from"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(
    lake: Lake, tmp_path: Path, fault: str, error: type[Exception], says: str
) -> None:
    archive = tmp_path / "archive"
    if fault != "missing":
        archive.mkdir()
    if fault in ("key", "rule"):
        write_ct(archive / "a.nii.gz", 1)
    config = IngestConfig(patient_from="(" if fault == "rule" else "file")
    with pytest.raises(error, match=says):
        ingest([archive], lake, b"x" * 32 if fault == "key" else KEY, config, quiet=True)
    assert lake.refresh().version == 0
    assert not (lake.root / "volumes").exists()


def test_too_many_refusals_end_incomplete(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "archive/a.nii.gz", 1)
    (tmp_path / "archive/notes.txt").write_text("x")
    summary = run(lake, tmp_path / "archive")
    check_rejects(summary, "50%")
    check_rejects(summary, "1")
    with pytest.raises(Incomplete, match="1 of 2"):
        check_rejects(summary, "0")
    with pytest.raises(ConfigError, match="--max-rejects"):
        check_rejects(summary, "many")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real scans of ../shared/data/real are not here")
def test_the_real_scans_are_all_counted_and_none_twice(lake: Lake) -> None:
    first = run(lake, REAL)
    assert first.found == first.ingested + first.rejected
    second = run(lake, REAL)
    assert (second.found, second.ingested, second.decoded) == (first.found, 0, 0)
    assert (second.already, second.rejected) == (first.ingested, first.rejected)


def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for number in range(3):
        write_ct(folder / f"{number}.nii", number)
    (folder / "notes.txt").write_text("nothing")
    run(lake, folder)
    write_ct(folder / "new.nii", 9)
    (folder / "report.pdf").write_bytes(b"%PDF-1.7")
    before = sorted(p.relative_to(lake.root) for p in lake.root.rglob("*"))
    said = dry_run([folder], lake.refresh(), KEY, IngestConfig(), quiet=True)
    assert sorted(p.relative_to(lake.root) for p in lake.root.rglob("*")) == before
    assert (said.found, said.to_read, said.already, said.rejected) == (6, 1, 3, 2)
    assert said.reasons == {"not_an_image": 1, "pdf": 1}
    assert said.bytes_to_read == (folder / "new.nii").stat().st_size
    assert said.seconds > 0
    done = run(lake, folder)
    assert (done.found, done.ingested, done.already, done.rejected) == (6, 1, 3, 2)


def test_with_the_key_refusals_get_their_paths_back_and_without_it_nothing(lake: Lake, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_ct(folder / "short.nii", 1, slices=5)
    with zipfile.ZipFile(folder / "packed.zip", "w") as target:
        target.writestr("deep/notes.txt", "nothing")
    run(lake, folder)
    _, every = refusals(lake.refresh())
    found = paths_of(lake, every, folder, KEY)
    assert {row["reasons"][0]: found[row["source_id"]] for row in every} == {
        "too_few_slices": str(folder / "short.nii"), "not_an_image": str(folder / "packed.zip" / "deep/notes.txt"),
    }  # fmt: skip
    with pytest.raises(WrongKey):
        paths_of(lake, every, folder, b"x" * 32)


def test_the_members_of_an_archive_are_sources_with_labels_of_their_own(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "a.nii.gz", 1)
    write_ct(tmp_path / "b.nii", 2)
    packed = tmp_path / "in" / "packed.zip"
    packed.parent.mkdir()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(tmp_path / "a.nii.gz", "deep/a.nii.gz")
        target.write(tmp_path / "b.nii", "b.nii")
        target.writestr("notes.txt", "nothing")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,patient_id,site\npacked.zip/deep/a.nii.gz,P1,north\npacked.zip/b.nii,P2,south\n")
    report = tmp_path / "report.csv"
    summary = run(lake, packed.parent, manifest_file=manifest, report=report)
    assert (summary.found, summary.ingested, summary.reasons) == (3, 2, {"not_an_image": 1})
    rows = lake.refresh().table("sources").to_pylist()
    assert sorted(dict(row["labels"])["site"] for row in rows) == ["north", "south"]
    assert len({row["patient_id"] for row in rows}) == 2
    assert all("patient_unknown" not in row["flags"] for row in rows)
    with report.open(newline="") as file:
        said = {row["member"]: (row["source"], row["status"]) for row in csv.DictReader(file)}
    assert said == {
        "deep/a.nii.gz": (str(packed), "ingested"), "b.nii": (str(packed), "ingested"),
        "notes.txt": (str(packed), "rejected"),
    }  # fmt: skip
    again = run(lake, packed.parent, manifest_file=manifest)
    assert (again.already, again.rejected, again.decoded) == (2, 1, 0)


@pytest.mark.slow
def test_a_file_that_comes_back_as_it_was_speaks_again(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.nii"
    write_ct(path, 1)
    good, stamp = path.read_bytes(), path.stat().st_mtime_ns
    (first,) = {run(lake, tmp_path / "in").ingested}
    path.write_bytes(good[: len(good) // 2])
    assert run(lake, tmp_path / "in").reasons == {"truncated": 1}
    assert lake.refresh().select_scans() == []
    for _ in range(2):  # the second time there is nothing to do
        path.write_bytes(good)
        os.utime(path, ns=(stamp, stamp))
        again = run(lake, tmp_path / "in")
        assert (again.ingested + again.already, again.rejected) == (1, 0)
        assert len(lake.refresh().select_scans()) == 1
    assert (first, again.decoded) == (1, 0)


def test_a_file_that_cannot_be_read_for_a_while_withdraws_nothing(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.nii"
    write_ct(path, 1)
    run(lake, tmp_path / "in")
    aside = path.rename(tmp_path / "aside.nii")
    path.symlink_to(tmp_path / "nowhere")  # as where a mount is gone
    assert run(lake, tmp_path / "in").reasons == {"unreadable": 1}
    assert len(lake.refresh().select_scans()) == 1
    path.unlink()
    aside.rename(path)
    assert run(lake, tmp_path / "in").already == 1


def test_a_source_that_takes_too_long_is_refused_until_it_is_given_the_time(lake: Lake, tmp_path: Path) -> None:
    write_ct(tmp_path / "in" / "a.nii.gz", 1)
    assert run(lake, tmp_path / "in", config={"time_limit_s": 1e-4}).reasons == {"timed_out": 1}
    again = run(lake, tmp_path / "in", config={"time_limit_s": 60.0})
    assert (again.ingested, again.rejected) == (1, 0)
    assert len(lake.refresh().select_scans()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "reasons"), [(1, {}), (2, {"decoder_failed": 1})])
def test_a_decoder_that_crashes_once_is_tried_again_and_one_that_crashes_twice_costs_its_source(
    kills: int, reasons: dict[str, int], lake: Lake, tmp_path: Path
) -> None:
    write_ct(tmp_path / "in" / "a.nii.gz", 1)
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    with KillDecoders(kills) as killer:
        summary = run(lake, tmp_path / "in", workers=1)
    assert len(killer.killed) == kills
    assert summary.reasons == {"not_an_image": 1, **reasons}
    assert summary.ingested == 1 - len(reasons)
    again = run(lake, tmp_path / "in", workers=1)
    assert (again.decoded, again.ingested) == (len(reasons), len(reasons))  # a crash may pass, and is tried again


class KillDecoders:
    """Inside the block, the first so many decoding processes are killed as soon as they are seen."""

    def __init__(self, most: int) -> None:
        self.most, self.killed, self._done = most, set[int](), threading.Event()
        self._before = set(self._decoders())
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> KillDecoders:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while len(self.killed) < self.most and not self._done.wait(0.02):
            for pid in set(self._decoders()) - self._before - self.killed:
                if len(self.killed) < self.most:
                    os.kill(pid, signal.SIGKILL)
                    self.killed.add(pid)

    def _decoders(self) -> Iterator[int]:
        for process in psutil.Process().children(recursive=True):  # Ray's workers are ours, and no other run's
            with suppress(psutil.Error):
                if any("semgen_pipelines.isolation" in word for word in process.cmdline()):
                    yield process.pid


def wait_for_volumes(lake: Lake, number: int) -> None:
    """Until so many volumes are finished, a minute at most."""
    deadline = time.monotonic() + 60
    while len(list(lake.root.glob("volumes/*/*/*/complete.json"))) < number and time.monotonic() < deadline:
        time.sleep(0.02)


def start(archive: Path, lake: Lake, key: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "semgen_cli.main", "ingest", str(archive), "--lake", lake.uri, "--json", "-q"]
    return subprocess.Popen(
        [*command, "--key-file", str(key)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_ingest_says_how_to_go_on(number: signal.Signals, code: int, tmp_path: Path) -> None:
    archive, key = tmp_path / "archive", tmp_path / "key"
    for scan in range(24):
        write_ct(archive / f"{scan}.nii.gz", scan, slices=120)
    key.write_bytes(KEY)
    lake = create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))  # test_random_kills.py goes on
    stopped = start(archive, lake, key)
    wait_for_volumes(lake, 6)
    stopped.send_signal(number)
    said = stopped.communicate(timeout=60)
    assert (stopped.returncode, said[1].count("\n")) == (code, 1), said
    assert "run the same command again" in said[1]
    assert len(open_lake(lake.uri).table("scans")) < 24, "stopped too late to prove anything"


@pytest.mark.slow
def test_two_ingests_into_one_lake_at_once_are_both_complete(tmp_path: Path) -> None:
    """Eight scans each, four of them the same in both."""
    key = tmp_path / "key"
    key.write_bytes(KEY)
    for scan in range(12):
        for archive in ("one",) * (scan < 8) + ("two",) * (scan >= 4):
            write_ct(tmp_path / archive / f"{scan}.nii.gz", scan, slices=60)
    lake = create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))
    both = [start(tmp_path / archive, lake, key) for archive in ("one", "two")]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert all(json.loads(out)["ingested"] + json.loads(out)["already"] == 8 for out, _ in said)
    scans = open_lake(lake.uri).table("scans")
    assert len(scans) == len(set(scans["scan_id"].to_pylist())) == 12
    for scan_id, attempt in zip(scans["scan_id"].to_pylist(), scans["attempt"].to_pylist(), strict=True):
        assert open_level(lake.root, scan_id, attempt, 0).whole().shape == (60, 28, 24)
