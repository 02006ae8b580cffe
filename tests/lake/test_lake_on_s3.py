"""A lake on a real S3 server is the lake that a folder holds: the same rows, bytes, answers and complaints."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pyarrow as pa
import pytest
import zarr
from tests.s3_server import S3Server
from zarr.storage import ObjectStore

from semgen_cli.main import run
from semgen_platform.errors import Busy, Damage, InputError, LakeError, NotALake, NotFound, WrongKey
from semgen_platform.lake import describe, shards, volumes
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.leases import hold, holder_of
from semgen_platform.lake.pending import commit_pending, runs_with_pending, write_pending
from semgen_platform.lake.selection import Scan, scans_from
from semgen_platform.lake.volumes import open_level, volume_key, write_volume
from semgen_platform.storage import Storage, s3_store, storage_at
from semgen_platform.volume import Volume

pytestmark = pytest.mark.slow

FINGERPRINT = "f" * 24
Row = Callable[..., dict[str, Any]]
Noise = Callable[..., Volume]


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    return s3_server.make_bucket("lakes")


@pytest.fixture(scope="module")
def s3_lake(bucket: str) -> Lake:
    """One lake for the tests that add to it, each under names of its own."""
    return create_lake(f"{bucket}/shared/lake", key_fingerprint=FINGERPRINT)


@pytest.fixture
def s3_volume(bucket: str, noise: Noise) -> tuple[str, Scan, Volume]:
    """Address of a prefix with one volume of two levels, half of it fill."""
    voxels = noise((70, 45, 81), (1.5, 0.9, 0.8)).voxels.copy()
    voxels[:, :, 40:] = shards.FILL_HU
    volume = replace(noise((70, 45, 81), (1.5, 0.9, 0.8)), voxels=voxels)
    address = f"{bucket}/{uuid.uuid4().hex}"
    row = write_volume(address, volume, "r")
    rows = pa.Table.from_pylist([{**row, "patient_id": "p", "collection": "c"}])
    return address, scans_from(rows, {})[0], volume


def test_a_lake_is_made_once_and_found_again(bucket: str) -> None:
    address = f"{bucket}/made"
    with pytest.raises(NotALake, match="lake init"):
        open_lake(address)
    lake = create_lake(address, key_fingerprint=FINGERPRINT)
    assert create_lake(f"{address}/", key_fingerprint=FINGERPRINT).lake_id == lake.lake_id
    with pytest.raises(WrongKey):
        create_lake(address, key_fingerprint="g" * 24)
    storage_at(f"{bucket}/other").put("thesis.txt", b"")
    with pytest.raises(InputError, match=r"holds thesis\.txt"):
        create_lake(f"{bucket}/other", key_fingerprint=FINGERPRINT)


def test_every_question_has_the_answer_of_the_same_lake_in_a_folder(
    bucket: str, lake: Lake, scan_row: Row, source_row: Row
) -> None:
    there = create_lake(f"{bucket}/questions", key_fingerprint=FINGERPRINT)
    for each in (lake, there):
        each.insert("sources", [source_row("s1", labels={"sex": "F"}), source_row("s2", flags=["oblique"])])
        each.insert("scans", [scan_row("s1"), scan_row("s2", spacing_z_mm=5.0, content_id="cs1")])
        each.insert("rejects", [{"source_id": "x", "state": "0", "reasons": ["pdf"], "sentence": "a PDF"}])
        assert each.commit("ingest", "r1") == 1
        each.insert("sources", [source_row("s3", collection="siteB", state="second")])
        each.insert("scans", [scan_row("s3", flags=["not_ct"])])
        assert each.commit("ingest", "r2") == 2
    for version in (1, 2):
        here, far = open_lake(f"{lake.uri}@{version}"), open_lake(f"{there.uri}@{version}")
        for name in ("scans", "sources", "rejects", "members"):
            same = [at.table(name).drop_columns(["created_at"]).to_pylist() for at in (here, far)]
            assert same[0] == same[1]
        conditions = (None, "spacing_z_mm < 3", "list_contains(flags, 'oblique')", "patient_id = 'ps2'")
        for profile in ("default", "all"):
            for where in conditions:
                found = [[s.scan_id for s in at.select_scans(profile=profile, where=where)] for at in (here, far)]
                assert found[0] == found[1]
        totals = [{**describe.totals(at), "lake": "", "lake_id": ""} for at in (here, far)]
        assert totals[0] == totals[1]
        assert describe.refusals(here)[0] == describe.refusals(far)[0]
        assert here.history()[-1]["selection"] == far.history()[-1]["selection"]
    shown = [describe.describe(at.refresh(), "s1") for at in (lake, there)]
    assert [s["split_group"] for s in shown] == ["ps1", "ps1"]
    labels = [at.refresh().table("sources", where="labels['sex'] = 'F'")["scan_id"].to_pylist() for at in (lake, there)]
    assert labels == [["s1"], ["s1"]]


def test_several_writers_lose_nothing_and_double_nothing(s3_lake: Lake, scan_row: Row) -> None:
    def write(writer: int) -> None:
        mine = open_lake(s3_lake.uri)
        for number in range(3):
            mine.insert("scans", [scan_row(f"w{writer}{number}"), scan_row(f"shared{number}")])
            mine.commit("ingest", f"r{writer}")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, range(3)))
    ids = [name for name in s3_lake.refresh().table("scans")["scan_id"].to_pylist() if name[0] in "ws"]
    expected = {f"w{writer}{number}" for writer in range(3) for number in range(3)} | {f"shared{n}" for n in range(3)}
    assert sorted(ids) == sorted(expected)
    numbers = [version["number"] for version in s3_lake.refresh().history()]
    assert numbers == list(range(len(numbers)))


def test_pending_rows_are_committed_once_and_their_files_removed(s3_lake: Lake, scan_row: Row) -> None:
    for attempt, scan in (("a1", "p1"), ("a2", "p2"), ("a2", "p1")):
        write_pending(s3_lake.uri, "pending", attempt, {"scans": [scan_row(scan)]})
    assert runs_with_pending(s3_lake) == ["pending"]
    assert commit_pending(s3_lake, "pending") == {"scans": 2}
    assert runs_with_pending(s3_lake) == []
    assert commit_pending(s3_lake, "pending") == {}


def test_a_lease_has_one_holder(s3_lake: Lake) -> None:
    with hold(s3_lake.storage, "lease"):
        assert holder_of(s3_lake.storage, "lease") is not None
        with pytest.raises(Busy), hold(s3_lake.storage, "lease"):
            pass
    assert holder_of(s3_lake.storage, "lease") is None


def test_a_volume_has_the_same_objects_as_files(s3_volume: tuple[str, Scan, Volume], tmp_path: Path) -> None:
    address, scan, volume = s3_volume
    row = write_volume(tmp_path, volume, "r")
    here, there = tmp_path / volume_key(scan.scan_id, row["attempt"]), volume_key(scan.scan_id, scan.attempt)
    names = {path.relative_to(here).as_posix() for path in here.rglob("*") if path.is_file()}
    storage = storage_at(address)
    assert {key.removeprefix(f"{there}/") for key in storage.keys("volumes")} == names
    for name in names - {volumes.COMPLETE}:
        assert storage.get(f"{there}/{name}") == (here / name).read_bytes()
    assert volumes.finished_row(address, scan.scan_id) == {
        **{name: value for name, value in row.items() if name != "run_id"},
        "attempt": scan.attempt,
    }


def test_a_volume_that_is_there_is_adopted(s3_volume: tuple[str, Scan, Volume]) -> None:
    address, scan, volume = s3_volume
    assert write_volume(address, volume, "again")["attempt"] == scan.attempt


def test_boxes_and_crops_are_read_by_ranges_and_are_what_zarr_python_reads(
    s3_volume: tuple[str, Scan, Volume],
) -> None:
    address, scan, volume = s3_volume
    key = volume_key(scan.scan_id, scan.attempt)
    group = zarr.open_group(ObjectStore(s3_store(f"{address}/{key}"), read_only=True), mode="r")
    for number in range(len(scan.levels)):
        array: Any = group[str(number)]
        np.testing.assert_array_equal(open_level(address, scan.scan_id, scan.attempt, number).whole(), array[:])
    stored, rng = open_level(address, scan.scan_id, scan.attempt, 0), np.random.default_rng(1)
    for _ in range(20):
        ends = np.sort([rng.choice(n + 1, 2, replace=False) for n in volume.voxels.shape], axis=1)
        (z0, z1), (y0, y1), (x0, x1) = ends.tolist()
        np.testing.assert_array_equal(stored.read((z0, y0, x0), (z1, y1, x1)), volume.voxels[z0:z1, y0:y1, x0:x1])
    crop = CropReader(address, [scan]).read([CropRequest(scan.scan_id, scan.zyx_to_lps_mm, (20, 20, 20))])[0]
    np.testing.assert_array_equal(crop, volume.voxels[:20, :20, :20])


def test_a_box_costs_the_bytes_of_its_chunks_and_of_small_gaps(
    bucket: str, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume, address = noise((160, 160, 160)), f"{bucket}/{uuid.uuid4().hex}"
    row, asked = write_volume(address, volume, "r"), []

    def counted(self: Storage, key: str, spans: list[tuple[int, int]]) -> list[memoryview]:
        asked.append(sum(length for _, length in spans))
        return ranges(self, key, spans)

    ranges = Storage.ranges
    monkeypatch.setattr(Storage, "ranges", counted)
    stored = open_level(address, row["scan_id"], row["attempt"], 0)
    np.testing.assert_array_equal(stored.read((5, 5, 5), (30, 30, 30)), volume.voxels[5:30, 5:30, 5:30])
    assert len(asked) == 1
    assert asked[0] < row["levels"][0]["shards"][0]["bytes"] / 100, "one of 125 chunks"


@pytest.mark.parametrize("fault", ["flipped", "cut", "emptied", "deleted", "no metadata"])
def test_damage_is_named_and_never_air(s3_volume: tuple[str, Scan, Volume], fault: str) -> None:
    address, scan, _ = s3_volume
    storage, key = storage_at(address), f"{volume_key(scan.scan_id, scan.attempt)}/0/c/0/0/0"
    data = bytearray(storage.get(key) or b"")
    if fault == "flipped":
        data[100] ^= 1
    if fault == "no metadata":
        storage.delete(key.replace("c/0/0/0", "zarr.json"))
    elif fault == "deleted":
        storage.delete(key)
    else:
        storage.put(key, bytes(data[: {"cut": len(data) // 2, "emptied": 0}.get(fault, len(data))]))
    with pytest.raises(Damage, match=f"scan {scan.scan_id} level 0"):
        open_level(address, scan.scan_id, scan.attempt, 0).whole()


def test_a_missing_volume_is_not_found(s3_volume: tuple[str, Scan, Volume]) -> None:
    address, scan, _ = s3_volume
    with pytest.raises(NotFound, match="has no volume other"):
        open_level(address, scan.scan_id, "other", 0)


def test_what_needs_a_folder_says_so_in_one_sentence(s3_lake: Lake) -> None:
    with pytest.raises(LakeError, match=r"is no local folder, which this command needs; use a lake in a folder"):
        s3_lake.artefact_dir("encoders", "e1", "0")


def test_to_resolve_refusals_asks_for_a_key_file(s3_lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lake", "rejects", "--resolve", ".", "--lake", s3_lake.uri]) == 3
    assert "give --key-file or SEMGEN_LAKE_KEY_FILE" in capsys.readouterr().err


def test_no_credential_is_stored_or_travels(s3_lake: Lake, s3_server: S3Server) -> None:
    secret = s3_server.environment["AWS_SECRET_ACCESS_KEY"]
    holder = holder_of(s3_lake.storage, "lease")
    assert secret not in s3_lake.uri + dumps(asdict(holder) if holder else {})
    store = s3_store(s3_lake.uri)
    for batch in obstore.list(store):
        for item in batch:
            assert secret.encode() not in bytes(obstore.get(store, item["path"]).bytes())
