"""Bytes at an address: whole objects, and creates of which exactly one wins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from semgen_platform.errors import InputError
from semgen_platform.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "lake"))


def test_what_was_put_comes_back_and_lies_in_the_folder(storage: Storage) -> None:
    storage.put("runs/r1/state.json", b"{}")
    assert storage.get("runs/r1/state.json") == b"{}"
    assert storage.local_root is not None
    assert (storage.local_root / "runs" / "r1" / "state.json").read_bytes() == b"{}"


def test_an_absent_object_is_none_and_deleting_it_is_no_error(storage: Storage) -> None:
    assert storage.get("versions/1.json") is None
    storage.delete("versions/1.json")


def test_put_replaces_and_delete_removes(storage: Storage) -> None:
    storage.put("heartbeat", b"1")
    storage.put("heartbeat", b"2")
    assert storage.get("heartbeat") == b"2"
    storage.delete("heartbeat")
    assert storage.get("heartbeat") is None


def test_a_create_never_replaces(storage: Storage) -> None:
    assert storage.create("versions/1.json", b"mine")
    assert not storage.create("versions/1.json", b"yours")
    assert storage.get("versions/1.json") == b"mine"


def test_of_many_writers_exactly_one_creates(storage: Storage) -> None:
    def write(writer: int, key: int) -> bool:
        return storage.create(f"leases/{key}.json", str(writer).encode())

    with ThreadPoolExecutor(8) as pool:
        for key in range(20):
            winners = list(pool.map(lambda writer, key=key: write(writer, key), range(8)))
            assert sum(winners) == 1
            assert storage.get(f"leases/{key}.json") == str(winners.index(True)).encode()


def test_keys_lists_whole_path_parts(storage: Storage) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/ab/3", "other"):
        storage.put(key, b"")
    assert sorted(storage.keys("runs/a")) == ["runs/a/1", "runs/a/2"]
    assert len(list(storage.keys())) == 4


def test_a_file_address_is_the_folder_it_names(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}/lake").put("lake.json", b"{}")
    assert (tmp_path / "lake" / "lake.json").is_file()


def test_an_unknown_scheme_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ftp://host/lake has the unknown scheme ftp; give a folder or s3://"):
        Storage("ftp://host/lake")
