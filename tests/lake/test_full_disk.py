"""A disk that fills up in mid-write leaves nothing that is taken for whole, and one sentence."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_platform.errors import StorageError
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.pending import commit_pending, write_pending
from semgen_platform.lake.volumes import finished_row, open_level, write_volume
from semgen_platform.volume import Volume

pytestmark = pytest.mark.slow

Noise = Callable[..., Volume]
FULL = r"is full \(No space left on device\); make room there and run the same command again"


def _fill(folder: Path) -> None:
    """Take every last byte."""
    with suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@pytest.fixture
def lake_on(small_disk: Callable[[int], Any]) -> tuple[Lake, Any]:
    disk = small_disk(8)
    return create_lake(str(disk.folder / "lake"), key_fingerprint="f"), disk


def test_a_volume_that_does_not_fit_leaves_no_folder_and_is_written_once_there_is_room(
    lake_on: tuple[Lake, Any], noise: Noise
) -> None:
    lake, disk = lake_on
    volume = noise((200, 200, 200))
    with pytest.raises(StorageError, match=FULL):
        write_volume(lake.uri, volume, "r")
    assert not [path for path in (lake.root / "volumes").rglob("*") if path.is_file()]
    disk.grow(64)
    row = write_volume(lake.uri, volume, "r")
    np.testing.assert_array_equal(open_level(lake.uri, row["scan_id"], row["attempt"], 0).whole(), volume.voxels)


@pytest.mark.parametrize("room", range(0, 60_000, 8_000))
def test_wherever_the_disk_fills_up_a_volume_is_whole_or_absent(
    lake_on: tuple[Lake, Any], noise: Noise, room: int
) -> None:
    lake, disk = lake_on
    _fill(disk.folder)
    with (disk.folder / "ballast").open("rb+") as file:
        file.truncate(max(0, (disk.folder / "ballast").stat().st_size - room))
    volume = noise((20, 24, 28))
    with suppress(StorageError):
        write_volume(lake.uri, volume, "r")
    (disk.folder / "ballast").unlink()
    row = write_volume(lake.uri, volume, "again")
    np.testing.assert_array_equal(open_level(lake.uri, row["scan_id"], row["attempt"], 0).whole(), volume.voxels)
    assert finished_row(lake.uri, row["scan_id"]) is not None
    assert len(list(lake.root.rglob("complete.json"))) == 1


def test_rows_that_do_not_fit_are_neither_pending_nor_in_a_table(
    lake_on: tuple[Lake, Any], scan_row: Callable[..., dict[str, Any]]
) -> None:
    lake, disk = lake_on
    write_pending(lake.uri, "run", "a", {"scans": [scan_row("s1")]})
    _fill(disk.folder)
    with pytest.raises(StorageError, match=FULL):
        write_pending(lake.uri, "run", "a", {"scans": [scan_row("s2")]})
    with pytest.raises(StorageError, match=FULL):
        commit_pending(lake, "run")
    with suppress(StorageError):
        lake.commit("ingest", "run")
    assert lake.refresh().version == 0
    (disk.folder / "ballast").unlink()
    assert commit_pending(lake, "run") == {"scans": 1}
    assert lake.commit("ingest", "run") == 1
    assert lake.refresh().table("scans")["scan_id"].to_pylist() == ["s1"]


def test_a_lease_ends_on_a_full_disk_with_the_error_of_the_work(lake_on: tuple[Lake, Any]) -> None:
    lake, disk = lake_on

    def work() -> None:
        with hold(lake.storage, "run"):
            _fill(disk.folder)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    (disk.folder / "ballast").unlink()
    (lake.root / "leases" / "run" / "1.end").write_bytes(b"")
    with hold(lake.storage, "run"):
        pass


def test_a_full_temporary_folder_is_named_for_a_lake_elsewhere(
    small_disk: Callable[[int], Any], noise: Noise, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("s3_server")
    disk = small_disk(1)
    monkeypatch.setattr("tempfile.tempdir", str(disk.folder))
    with pytest.raises(StorageError, match=rf"{disk.folder} is full"):
        write_volume(f"{server.make_bucket('full')}/lake", noise((150, 150, 150)), "r")
    assert not list(disk.folder.iterdir())
