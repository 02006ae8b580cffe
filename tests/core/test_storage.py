"""Bytes at an address: whole objects, and creates of which exactly one wins; alike in a folder and on an S3 server."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import deltalake
import pytest
from tests.breaking_proxy import BreakingProxy
from tests.s3_server import S3Server

from semgen_platform.errors import InputError, StorageError, Unreachable
from semgen_platform.formats.remote import S3File, Unhelpful
from semgen_platform.storage import Storage, delta_options, explained, is_local

NOBODY = "http://127.0.0.1:9"  # the discard port: nobody listens
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A new storage of either kind."""
    if request.param == "folder":
        return Storage(str(tmp_path / "lake"))
    server: S3Server = request.getfixturevalue("s3_server")
    return Storage(f"{server.make_bucket('storage')}/lake")


def test_what_was_put_comes_back(storage: Storage) -> None:
    storage.put("runs/r1/state.json", b"{}")
    assert storage.get("runs/r1/state.json") == b"{}"
    storage.put_durably("runs/r2/state.json", b"[]")
    assert storage.get("runs/r2/state.json") == b"[]"


def test_a_local_storage_is_a_folder_that_is_made_when_something_is_written(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "lake")
    assert storage.get("lake.json") is None
    assert list(storage.keys()) == []
    assert not (tmp_path / "lake").exists()
    storage.put("runs/r1/state.json", b"{}")
    assert (tmp_path / "lake" / "runs" / "r1" / "state.json").read_bytes() == b"{}"


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
        for key in range(6):
            winners = list(pool.map(lambda writer, key=key: write(writer, key), range(8)))
            assert sum(winners) == 1
            assert storage.get(f"leases/{key}.json") == str(winners.index(True)).encode()


def test_keys_lists_whole_path_parts(storage: Storage) -> None:
    for key in ("runs/a/1", "runs/a/2", "runs/ab/3", "other"):
        storage.put(key, b"12")
    assert sorted(storage.keys("runs/a")) == ["runs/a/1", "runs/a/2"]
    assert len(list(storage.keys())) == 4
    assert storage.sizes("runs/ab") == {"runs/ab/3": 2}
    assert storage.folders("runs") == ["a", "ab"]
    assert storage.folders("nothing") == []
    assert list(storage.keys("nothing")) == []


def test_parts_of_an_object_are_read_by_their_places(storage: Storage) -> None:
    data = bytes(range(256)) * 5000
    storage.put("shard", data)
    assert storage.tail("shard", 20) == data[-20:]
    assert storage.tail("shard", 2 * len(data)) == data
    assert storage.tail("absent", 20) is None
    spans = [(900_000, 10), (3, 70_000), (70_003, 1), (3, 2)]
    assert [bytes(part) for part in storage.ranges("shard", spans)] == [data[a : a + n] for a, n in spans]
    assert storage.ranges("shard", []) == []


def test_the_end_of_an_object_without_bytes_is_nothing(storage: Storage) -> None:
    storage.put("empty", b"")
    assert storage.tail("empty", 20) == b""


def test_files_of_a_new_folder_become_objects_and_the_last_ones_come_last(storage: Storage) -> None:
    large = bytes(range(256)) * (80 * 2**10)  # 20 MiB: in parts
    with storage.new_folder("volumes/a", last=("zarr.json", "complete.json")) as folder:
        for name in ("complete.json", "zarr.json", "0/zarr.json"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
        (folder / "0" / "shard").write_bytes(large)
        if storage.local_root is None:
            assert not storage.sizes("volumes"), "nothing is there before the block ends"
    assert storage.get("volumes/a/0/shard") == large
    assert set(storage.sizes("volumes/a")) == {
        f"volumes/a/{name}" for name in ("0/shard", "0/zarr.json", "complete.json", "zarr.json")
    }
    assert storage.local_root is not None or not folder.exists()


def test_a_new_folder_whose_making_failed_has_no_last_file(storage: Storage) -> None:
    def make() -> None:
        with storage.new_folder("volumes/a", last=("complete.json",)) as folder:
            (folder / "0").write_bytes(b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make()
    assert storage.get("volumes/a/complete.json") is None


def test_a_file_address_is_the_folder_it_names(tmp_path: Path) -> None:
    Storage(f"file://{tmp_path}/lake").put("lake.json", b"{}")
    assert (tmp_path / "lake" / "lake.json").is_file()


def test_an_unknown_scheme_is_one_sentence() -> None:
    with pytest.raises(InputError, match=r"ftp://host/lake has the unknown scheme ftp; give a folder or s3://"):
        Storage("ftp://host/lake")
    with pytest.raises(InputError, match=r"s3:///lake names no bucket"):
        Storage("s3:///lake")


def test_a_folder_that_may_not_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "lake.json").mkdir()
    with pytest.raises(StorageError, match="cannot be read or written"):
        Storage(tmp_path / "lake").get("lake.json")


@pytest.mark.parametrize("setting", ["", "0.3"])
def test_a_server_that_is_not_there_is_asked_for_as_long_as_was_set_and_then_named(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": NOBODY,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "SEMGEN_S3_RETRY_S": setting,
    }.items():
        monkeypatch.setenv(name, value)
    options = delta_options("s3://bucket/lake")
    assert options is not None
    assert (options["retry_timeout"], options["AWS_REGION"]) == ("0.3s" if setting else "180s", "us-east-1")
    if setting:
        storage = Storage(f"s3://bucket/{uuid.uuid4().hex}")
        for ask in (
            lambda: storage.get("lake.json"),
            lambda: storage.create("lake.json", b""),
            lambda: list(storage.keys()),
        ):
            with pytest.raises(Unreachable, match=r"s3://bucket/\w+ does not answer; .*AWS_ENDPOINT_URL"):
                ask()


@contextmanager
def refusing_server(status: int) -> Iterator[tuple[str, list[str]]]:
    """(address, paths that were asked for) of a server that answers everything so."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [400, 301])
def test_an_answer_with_which_asking_again_would_not_help_is_one_sentence_at_once(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    with refusing_server(status) as (endpoint, asked):
        for name, value in {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StorageError, match=r"refuses the request \((400 Bad Request|redirect)\).*AWS_REGION"):
            Storage(f"s3://bucket/{uuid.uuid4().hex}").get("lake.json")
        with pytest.raises(Unhelpful):
            S3File(f"s3://odd-{status}/scan.nii")
        assert len(asked) == 3  # of an object once more, since an empty one refuses its first bytes


@pytest.mark.parametrize("answers", [True, False])
def test_where_no_key_is_set_and_the_machine_has_no_role_the_missing_variables_are_named(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """A server of roles that refuses is believed; one that is silent is asked again, since it may have been away."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    with refusing_server(404) as (roles, _):
        for name, value in {
            "AWS_ENDPOINT_URL": NOBODY,
            "AWS_METADATA_ENDPOINT": roles if answers else NOBODY,
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1",
            "SEMGEN_S3_RETRY_S": "60" if answers else "0.3",
        }.items():
            monkeypatch.setenv(name, value)
        address, start = f"s3://bucket/{uuid.uuid4().hex}", time.monotonic()
        for ask in (
            lambda: Storage(address).get("lake.json"),
            lambda: Storage(address).create("lake.json", b""),
            lambda: deltalake.DeltaTable(address, storage_options=delta_options(address)),
        ):
            with pytest.raises(StorageError, match=f"{' and '.join(KEYS)} are not set") as caught, explained(address):
                ask()
            assert isinstance(caught.value, Unreachable) is not answers
        assert time.monotonic() - start < 20


@pytest.mark.parametrize("absent", KEYS)
def test_a_key_without_its_other_half_is_named_at_once(monkeypatch: pytest.MonkeyPatch, absent: str) -> None:
    for name, value in {"AWS_ENDPOINT_URL": NOBODY, "AWS_ALLOW_HTTP": "true", **dict.fromkeys(KEYS, "a")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(absent)
    storage, start = Storage(f"s3://bucket/{uuid.uuid4().hex}"), time.monotonic()
    for ask in (lambda: storage.get("lake.json"), lambda: storage.put("a", b""), lambda: storage.create("a", b"")):
        with pytest.raises(StorageError, match=rf"{storage.uri}: {absent} is not set"):
            ask()
    assert time.monotonic() - start < 5


def test_http_that_was_not_allowed_is_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    for name, value in {"AWS_ENDPOINT_URL": NOBODY, "SEMGEN_S3_RETRY_S": "60", **dict.fromkeys(KEYS, "a")}.items():
        monkeypatch.setenv(name, value)
    address, start = f"s3://bucket/{uuid.uuid4().hex}", time.monotonic()
    for ask in (
        lambda: Storage(address).get("lake.json"),
        lambda: Storage(address).create("lake.json", b""),
        lambda: Storage(address).keys(),
        lambda: deltalake.DeltaTable(address, storage_options=delta_options(address)),
    ):
        with pytest.raises(StorageError, match=r"set AWS_ALLOW_HTTP=true") as caught, explained(address):
            ask()
        assert not isinstance(caught.value, Unreachable)
    with pytest.raises(Unhelpful):
        S3File("s3://not-allowed/scan.nii")
    assert time.monotonic() - start < 20


def test_local_addresses_need_no_options_of_a_server(tmp_path: Path) -> None:
    assert is_local(tmp_path)
    assert is_local(f"file://{tmp_path}")
    assert not is_local("s3://bucket/lake")
    assert delta_options(tmp_path) is None


@pytest.mark.slow
def test_a_wrong_key_and_an_absent_bucket_are_named(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3_server.make_bucket("rights")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"refuses access; look at AWS_ACCESS_KEY_ID"):
        Storage(f"{bucket}/wrong").put("lake.json", b"")
    monkeypatch.undo()
    absent = Storage("s3://no-such-bucket/lake")
    for ask in (
        lambda: absent.get("lake.json"),
        lambda: absent.tail("lake.json", 10),
        lambda: absent.delete("lake.json"),
        absent.keys,
    ):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/lake: there is no bucket no-such-bucket; make it"):
            ask()


@pytest.mark.slow
def test_an_answer_that_breaks_off_is_asked_for_again(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"{s3_server.make_bucket('broken')}/lake")
    storage.put("runs/r1/state.json", bytes(1000))
    proxy = BreakingProxy(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    asked = Storage(f"{storage.uri}/runs")  # another address, so that nothing has a connection yet
    try:
        for ask, answer in (
            (lambda: asked.get("r1/state.json"), bytes(1000)),
            (lambda: asked.tail("r1/state.json", 10), bytes(10)),
            (lambda: [bytes(part) for part in asked.ranges("r1/state.json", [(1, 900)])], [bytes(900)]),
            (lambda: asked.sizes("r1"), {"r1/state.json": 1000}),
            (lambda: asked.folders(""), ["r1"]),
            (lambda: asked.names("r1"), ["state.json"]),
        ):
            proxy.left = 1
            assert ask() == answer
            assert proxy.left == 0, "no answer was broken off"
        with S3File(f"{asked.uri}/r1/state.json") as file:
            assert file.read() == bytes(1000)
        proxy.left = 1
        with S3File(f"{asked.uri}/r1/state.json") as file:
            assert proxy.left == 0, "no answer was broken off"
            assert file.read() == bytes(1000)
    finally:
        proxy.close()


@pytest.mark.slow
def test_a_create_whose_answer_was_lost_is_known_as_ones_own(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_server.make_bucket("lost")
    proxy = BreakingProxy(s3_server.endpoint, left=1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    storage = Storage(f"{bucket}/lake")
    try:
        assert storage.create("versions/1.json", b"mine")
        assert proxy.left == 0, "no answer was lost"
        assert storage.get("versions/1.json") == b"mine"
        assert not storage.create("versions/1.json", b"yours")
    finally:
        proxy.close()
