"""Scans in a bucket of a real S3 server: what a folder is, its prefix is, in few requests."""

from __future__ import annotations

import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import obstore
import pytest
import SimpleITK as sitk
from tests.breaking_proxy import BreakingProxy

from semgen_platform import storage
from semgen_platform.errors import InputError
from semgen_platform.formats import files, remote
from semgen_platform.formats.manifest import read_manifest
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.storage import s3_store
from semgen_platform.volume import Volume

STRANGE = ("with space/ü.txt", "100%.txt", "a+b&c=d.txt", "paren(1)/x#y?.txt", "~tilde'.txt")


@pytest.fixture(scope="session")
def bucket(s3_server: Any) -> str:
    return str(s3_server.make_bucket("archive"))


@pytest.fixture
def folder(series: Any, tmp_path: Path) -> Path:
    """A series in two folders, a gzipped NIfTI, a MetaImage with a data file before its header, archives, texts."""
    root, ct = tmp_path / "in", series()
    slices = sorted(ct.write(root / "dicom" / "a").iterdir())
    (root / "dicom" / "b").mkdir()
    for file in slices[:7]:
        file.rename(root / "dicom" / "b" / file.name)
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(ct.hu_ZYX.T.copy(), affine), root / "scan.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(ct.hu_ZYX), str(root / "z.mhd"))
    (root / "z.raw").rename(root / "m.raw")
    (root / "z.mhd").write_text((root / "z.mhd").read_text().replace("z.raw", "m.raw"))
    with zipfile.ZipFile(root / "p.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(root / "scan.nii.gz", "deep/scan.nii.gz")
        packed.write(root / "z.mhd", "z.mhd")
        packed.write(root / "m.raw", "m.raw")
    with tarfile.open(root / "p.tar.gz", "w:gz") as zipped, tarfile.open(root / "p.tar", "w") as plain:
        for tar in (zipped, plain):
            tar.add(root / "scan.nii.gz", "deep/scan.nii.gz")
            tar.add(root / "z.mhd", "z.mhd")
            tar.add(root / "m.raw", "m.raw")
    for name in STRANGE:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    (root / "empty.nii").write_bytes(b"")
    return root


def upload(folder: Path, address: str) -> str:
    bucket, prefix = remote.parts_of(address)
    store = s3_store(f"s3://{bucket}")
    for file in folder.rglob("*"):
        if file.is_file():
            obstore.put(store, f"{prefix}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return address


def put(address: str, data: bytes) -> str:
    bucket, key = remote.parts_of(address)
    obstore.put(s3_store(f"s3://{bucket}"), key, data)
    return address


def said(sources: Iterator[Source]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """By name: kind, how many files of what sizes, slices, and the voxels, affine and flags, or the reasons."""
    found = {}
    for source in sources:
        result = read_source(source)
        what: tuple[Any, ...]
        if isinstance(result, Volume):
            what = (result.voxels.tobytes(), result.ijk_to_lps_mm.tobytes(), result.flags)
        else:
            what = result.reasons
        found[source.name_parts] = (source.kind, [size for size, _ in source.validators], source.slices, *what)
    return found


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests for bytes or facts of single objects that obstore is asked for."""
    made: list[str] = []
    for name in ("get", "head"):
        real = getattr(obstore, name)

        def counted(*args: Any, _real: Any = real, _name: str = name, **options: Any) -> Any:
            wanted = (options.get("options") or {}).get("range")
            made.append(f"{_name} to the end" if isinstance(wanted, dict) else _name)
            return _real(*args, **options)

        monkeypatch.setattr(obstore, name, counted)
    return made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests that give up after a second."""
    monkeypatch.setattr(storage, "RETRY_S", 1.0)
    s3_store.cache_clear()
    yield
    s3_store.cache_clear()
    remote._Patience.lost = False


def test_a_prefix_is_what_its_folder_is(folder: Path, bucket: str) -> None:
    assert said(list_sources(upload(folder, f"{bucket}/same"))) == said(list_sources(folder))


def test_a_state_changes_with_its_object_and_only_then(tmp_path: Path, bucket: str) -> None:
    def states() -> dict[tuple[str, ...], str]:
        return {source.name_parts: source.state() for source in list_sources(f"{bucket}/state")}

    for name in ("a", "b"):
        put(f"{bucket}/state/{name}.txt", b"one")
    before = states()
    assert states() == before
    put(f"{bucket}/state/a.txt", b"two")
    after = states()
    assert after[("path", "a.txt")] != before[("path", "a.txt")]
    assert after[("path", "b.txt")] == before[("path", "b.txt")]


def test_globs_single_objects_and_members_are_named_as_through_the_prefix(folder: Path, bucket: str) -> None:
    root = upload(folder, f"{bucket}/ways")
    whole = {source.name_parts: source.state() for source in list_sources(root)}
    for address in ("scan.nii.gz", "*.nii.gz", "dicom/**", "p.zip/deep", "p.zip/*.mhd", "p.tar.gz/deep/scan.nii.gz"):
        found = {source.name_parts: source.state() for source in list_sources(f"{root}/{address}")}
        assert found, address
        assert found.items() <= {**whole, **{("path", *n[1:]): s for n, s in whole.items()}}.items(), address
    assert len(list(list_sources(f"{root}/**/*.nii.gz"))) == 1


def test_a_manifest_may_name_objects_and_lie_beside_them(folder: Path, bucket: str, tmp_path: Path) -> None:
    root = upload(folder, f"{bucket}/named")
    put(f"{root}/list.csv", b"path,patient_id\nscan.nii.gz,P1\np.zip/deep,P2\nnowhere.nii,P3\n")
    (tmp_path / "list.csv").write_text(f"path,patient_id\n{root}/scan.nii.gz,P1\n{root}/dicom,P2\n{root}/no/*.nii,P3\n")
    for manifest, names in ((f"{root}/list.csv", 3), (str(tmp_path / "list.csv"), 3)):
        found = list(list_sources(manifest))
        assert len(found) == names
        rows = [read_manifest(manifest).of(source.files) for source in found]
        assert {row.patient_id for row in rows if row} == {"P1", "P2", "P3"}
        assert [s.refusal.reasons for s in found if s.refusal] == [("unreadable",)]


def test_listing_a_series_costs_one_small_request_a_slice(
    series: Any, make_ct: Any, tmp_path: Path, bucket: str, requests: list[str]
) -> None:
    root = upload(series(hu_ZYX=make_ct((20, 300, 300))).write(tmp_path / "ct"), f"{bucket}/slices")
    (source,) = list_sources(root)
    assert source.slices == 20
    assert len(requests) == 20 + 1  # and one for an object of the prefix's own name
    requests.clear()
    assert isinstance(read_source(source), Volume)
    assert len(requests) <= 3 * 20  # header, size, pixels


def test_a_large_file_is_one_download_however_large(tmp_path: Path, bucket: str, requests: list[str]) -> None:
    hu = np.random.default_rng(0).normal(0, 300, (160, 160, 100)).astype(np.int16)  # 5 MB that hardly shrink
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([1.5, 1.5, 3, 1])), tmp_path / "a.nii.gz")
    put(f"{bucket}/large/a.nii.gz", (tmp_path / "a.nii.gz").read_bytes())
    (source,) = list_sources(f"{bucket}/large")
    requests.clear()
    result = read_source(source)
    assert isinstance(result, Volume)
    assert np.array_equal(np.sort(result.voxels, axis=None), np.sort(hu, axis=None))
    assert requests.count("get to the end") == 1
    assert len(requests) <= 5  # header, compression, size, first window, rest


def test_a_member_of_a_zip_is_read_without_the_rest_of_it(bucket: str, tmp_path: Path, requests: list[str]) -> None:
    noise = np.random.default_rng(0).bytes(8_000_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("large.bin", noise)
        packed.writestr("small.txt", "x")
        packed.writestr("more.bin", noise)
    put(f"{bucket}/zip/a.zip", (tmp_path / "a.zip").read_bytes())
    assert len(list(list_sources(f"{bucket}/zip"))) == 3
    assert len(requests) <= 9


def test_every_read_of_a_stream_gives_the_bytes_that_are_there(bucket: str) -> None:
    rng = np.random.default_rng(3)
    data = rng.bytes(5_000_000)
    with files.open_file(put(f"{bucket}/stream/bytes", data)) as stream:
        at = 0
        for _ in range(300):
            if rng.random() < 0.5:
                at = int(rng.integers(0, len(data) + 1000)) if rng.random() < 0.5 else max(0, len(data) - 100)
                stream.seek(at)
            size = int(rng.integers(0, 300_000)) if rng.random() < 0.3 else int(rng.integers(0, 200))
            assert stream.read(size) == data[at : at + size]
            at = stream.tell()
        assert stream.seek(-22, 2) == len(data) - 22
        assert stream.read() == data[-22:]


def test_an_object_that_changes_while_it_is_read_is_not_mixed(bucket: str) -> None:
    address = put(f"{bucket}/changing/bytes", bytes(5_000_000))
    with files.open_file(address) as stream:
        stream.read(10)
        put(address, b"\1" * 5_000_000)
        with pytest.raises(OSError, match="changed"):
            stream.read()


@pytest.mark.parametrize(("where", "says"), [("prefix", "holds no object"), ("bucket", "bucket"), ("glob", "no file")])
def test_a_bucket_or_prefix_that_is_not_there_is_one_sentence(where: str, says: str, bucket: str) -> None:
    address = {"prefix": f"{bucket}/nowhere", "bucket": "s3://nowhere-at-all/scans", "glob": f"{bucket}/no*/*.nii"}
    with pytest.raises(InputError, match=says) as caught:
        list(list_sources(address[where]))
    assert caught.value.exit_code == 3
    assert address[where] in str(caught.value)


def test_a_server_that_stays_away_ends_the_listing_and_costs_its_patience_once(
    s3_server: Any, bucket: str, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{bucket}/away/a.txt", b"x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the port of no server
    s3_store.cache_clear()
    started = time.monotonic()
    with pytest.raises(InputError, match="does not answer"):
        list(list_sources(f"{bucket}/away"))
    first = time.monotonic() - started
    assert first > 0.9
    for _ in range(20):
        with pytest.raises(OSError, match="does not answer"):
            remote.validator(f"{bucket}/away/a.txt")
    assert time.monotonic() - started < 2 * first + 2


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "away_s"), [(12, 0.0), (1, 4.0)], ids=["many", "one, and then nobody is there"])
def test_answers_that_break_off_are_asked_for_again_for_as_long_as_a_silent_server(
    s3_server: Any, bucket: str, monkeypatch: pytest.MonkeyPatch, broken: int, away_s: float
) -> None:
    data = np.random.default_rng(2).bytes(3_000_000)
    for number in range(7):
        put(f"{bucket}/broken/{number}", data if number == 0 else b"x")
    proxy = BreakingProxy(s3_server.endpoint, away_s=away_s)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr(remote, "PAGE_KEYS", 2)
    s3_store.cache_clear()

    def read_on() -> bytes:
        with files.open_file(f"{bucket}/broken/0") as stream:
            begun = stream.read(10)
            proxy.left = broken
            return begun + stream.read()

    def listed_on() -> list[tuple[str, int]]:
        pages = remote.objects(f"{bucket}/broken")
        proxy.left = broken
        return [one for page in pages for one in page]

    def facts() -> tuple[int, int]:
        proxy.left = broken
        return remote.validator(f"{bucket}/broken/0")

    try:
        assert read_on() == data
        assert listed_on() == [(f"{bucket}/broken/{n}", len(data) if n == 0 else 1) for n in range(7)]
        assert facts()[0] == len(data)
        assert proxy.left == 0, "answers were not broken off"
    finally:
        proxy.close()
        s3_store.cache_clear()


@pytest.mark.slow
def test_a_download_outlasts_a_server_that_restarts(s3_server: Any, bucket: str) -> None:
    data = np.random.default_rng(1).bytes(40_000_000)
    address = put(f"{bucket}/restart/bytes", data)
    with files.open_file(address) as stream:
        begun = stream.read(3_000_000)
        s3_server.kill()
        again = threading.Timer(20, s3_server.start)
        again.start()
        rest = stream.read()
        again.join()
    assert begun + rest == data
    (source,) = list_sources(f"{bucket}/restart")
    assert source.bytes == len(data)
