"""Archives, read in place: the same sources as the unpacked folder, and no harm from those that lie."""

from __future__ import annotations

import gzip
import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_platform.formats import archive
from semgen_platform.formats.nifti import write_nifti
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.volume import Refusal, Volume

Pack = Callable[[Path, Path], None]


def pack_zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, file.relative_to(folder))


def pack_tar(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w") as packed:
        packed.add(folder, ".")


def pack_tar_gz(folder: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as packed:
        packed.add(folder, ".")


PACKERS = [pack_zip, pack_tar, pack_tar_gz]


@pytest.fixture
def collection(series: Any, tmp_path: Path) -> Path:
    """A DICOM series, a NIfTI, a NRRD with a data file of its own, and a text, in folders."""
    import SimpleITK as sitk

    folder = tmp_path / "collection"
    written = series()
    written.write(folder / "a" / "ct")
    volume = Volume(written.hu_ZYX[::-1].copy(), np.diag([0.7, 0.8, 2.5, 1.0]))
    write_nifti(volume, folder / "b.nii.gz")
    (folder / "c").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(written.hu_ZYX), str(folder / "c" / "d.nhdr"))
    (folder / "notes.txt").write_text("nothing")
    return folder


def outcomes(root: Path) -> dict[str, tuple[Any, ...]]:
    """By the source's last name: kind, files, and its voxels and affine or its reasons."""
    found = {}
    for source in list_sources(root):
        result = read_source(source)
        said: tuple[Any, ...]
        if isinstance(result, Volume):
            said = (result.voxels.tobytes(), result.ijk_to_lps_mm.tobytes(), result.flags)
        else:
            said = result.reasons
        name = "series" if source.name_parts[0] == "series" else Path(source.name_parts[-1]).name
        found[name] = (source.kind, len(source.files), source.slices, *said)
    return found


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_is_what_its_unpacked_folder_is(pack: Pack, collection: Path, tmp_path: Path) -> None:
    pack(collection, tmp_path / "packed")  # no extension: content decides
    inside = outcomes(tmp_path / "packed")
    assert inside == outcomes(collection)
    assert {name: found[0] for name, found in inside.items()} == {
        "series": "dicom", "b.nii.gz": "nifti", "d.nhdr": "nrrd", "notes.txt": "other",
    }  # fmt: skip


def test_a_source_is_named_by_archive_and_member_and_changes_with_its_member_alone(
    collection: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "in" / "packed.zip"
    packed.parent.mkdir()
    pack_zip(collection, packed)
    before = {s.name_parts: s.state() for s in list_sources(packed.parent)}
    assert ("path", "packed.zip", "b.nii.gz") in before
    with zipfile.ZipFile(packed, "a") as grown:
        grown.writestr("more.txt", "more")
    after = {s.name_parts: s.state() for s in list_sources(packed.parent)}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {("path", "packed.zip", "more.txt")}


def test_a_series_may_lie_partly_in_an_archive(series: Any, tmp_path: Path) -> None:
    folder = series().write(tmp_path / "a")
    moved = sorted(folder.iterdir())[:7]
    with zipfile.ZipFile(tmp_path / "rest.zip", "w") as packed:
        for file in moved:
            packed.write(file, file.name)
            file.unlink()
    (source,) = list_sources(tmp_path)
    assert len(source.files) == 20
    assert isinstance(read_source(source), Volume)


def tar_of(target: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(target, "w") as packed:
        for info, data in members:
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return target


def refusals(root: Path) -> dict[str, tuple[str, ...]]:
    def reasons(source: Source) -> tuple[str, ...]:
        result = read_source(source)
        assert isinstance(result, Refusal)
        return result.reasons

    return {source.name_parts[-1]: reasons(source) for source in list_sources(root)}


@pytest.mark.parametrize("name", ["../up.nii", "/abs.nii", "a/../../up.nii", "C:\\up.nii", "..\\up.nii"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_name_that_leads_outside_is_refused_and_its_neighbour_is_not(kind: str, name: str, tmp_path: Path) -> None:
    target = tmp_path / "packed"
    if kind == "zip":
        with zipfile.ZipFile(target, "w") as packed:
            packed.writestr(zipfile.ZipInfo(name), "x")
            packed.writestr("near..miss/a..b.txt", "x")
        name = zipfile.ZipInfo(name).filename
    else:
        tar_of(target, (tarfile.TarInfo(name), b"x"), (tarfile.TarInfo("near..miss/a..b.txt"), b"x"))
    assert refusals(target) == {name: ("path_escape",), "near..miss/a..b.txt": ("not_an_image",)}
    assert {p.name for p in tmp_path.iterdir()} == {"packed"}


def test_links_and_pipes_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    link, pipe = tarfile.TarInfo("link.nii"), tarfile.TarInfo("pipe")
    link.type, link.linkname, pipe.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.FIFOTYPE
    tar_of(tmp_path / "a.tar", (link, b""), (pipe, b""))
    assert refusals(tmp_path / "a.tar") == {"link.nii": ("not_an_image",), "pipe": ("not_an_image",)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        info = zipfile.ZipInfo("link.nii")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(info, "/etc/passwd")
    assert refusals(tmp_path / "a.zip") == {"link.nii": ("not_an_image",)}


@pytest.mark.parametrize("pack", PACKERS)
def test_an_archive_that_ends_early_is_refused_and_loses_nothing_silently(
    pack: Pack, collection: Path, tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pack(collection, whole)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    found = [(source, read_source(source)) for source in list_sources(cut)]
    reasons = {reason for _, result in found if isinstance(result, Refusal) for reason in result.reasons}
    assert reasons & {"truncated", "corrupt"}
    assert not any(isinstance(result, Volume) and source.kind == "dicom" for source, result in found)


@pytest.mark.parametrize("pack", PACKERS)
def test_a_flipped_byte_is_found_wherever_the_archive_has_a_checksum(
    pack: Pack, collection: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    pack(collection, packed)
    data = bytearray(packed.read_bytes())
    if pack is pack_tar:
        with tarfile.open(packed) as whole:
            data[whole.getmembers()[5].offset + 148] ^= 0xFF  # a header's own checksum; voxels have none in a tar
    else:
        data[len(data) // 3] ^= 0xFF
    packed.write_bytes(data)
    results = [read_source(source) for source in list_sources(packed)]
    bad = {reason for result in results if isinstance(result, Refusal) for reason in result.reasons}
    assert bad & {"corrupt", "truncated"}


def test_a_tar_that_was_cut_between_two_members_is_truncated_and_a_whole_one_is_not(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", *[(tarfile.TarInfo(f"{n}.txt"), b"x") for n in range(3)])
    assert set(refusals(whole).values()) == {("not_an_image",)}
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: 2 * 1024])  # two headers with a block of data each
    assert refusals(tmp_path / "cut.tar") == {"cut.tar": ("truncated",)}


def test_an_encrypted_member_says_so_and_another_compression_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("secret.nii", "x" * 100)
        packed.writestr("bz.nii", "x" * 100, compress_type=zipfile.ZIP_BZIP2)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 8] |= 1
    data[6] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    assert refusals(tmp_path / "a.zip") == {"secret.nii": ("encrypted",), "bz.nii": ("unsupported_format",)}


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are lowered to sizes that a test can write; the ratio of a bomb is a real one."""
    monkeypatch.setattr(archive, "RATIO_FREE", 2**20)
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as packed:
        packed.addfile(zeros := tarfile.TarInfo("zeros.nii"), io.BytesIO(b""))
        zeros.size = 0
    bomb = inner.getvalue()[:512] + bytes(2**24)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bomb))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("zeros.nii", bytes(2**24))
    for name in ("bomb.tar.gz", "bomb.zip"):
        (source,) = list_sources(tmp_path / name)
        assert source.refusal is not None
        assert source.refusal.reasons == ("decompression_bomb",)


def test_a_member_that_promises_more_than_deflate_can_hold_is_a_lie(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.nii", "x" * 100)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    central = data.index(b"PK\x01\x02")
    data[central + 24 : central + 28] = struct.pack("<I", 2**31)
    (tmp_path / "a.zip").write_bytes(data)
    assert refusals(tmp_path / "a.zip") == {"a.nii": ("decompression_bomb",)}


def test_too_many_members_refuse_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_MEMBERS", 3)
    for number in (3, 4):
        members = [(tarfile.TarInfo(f"{n}.txt"), b"x") for n in range(number)]
        tar_of(tmp_path / f"{number}.tar", *members)
    assert set(refusals(tmp_path / "3.tar").values()) == {("not_an_image",)}
    assert set(refusals(tmp_path / "4.tar").values()) == {("too_many_members",)}


def test_a_name_of_megabytes_in_a_tar_takes_no_memory(tmp_path: Path) -> None:
    for letters, reason in ((2**19, "not_an_image"), (2**22, "too_many_members")):
        tar_of(tmp_path / "a.tar", (tarfile.TarInfo("a" * letters), b"x"))
        assert set(refusals(tmp_path / "a.tar").values()) == {(reason,)}


def test_an_empty_archive_and_one_inside_another_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as packed:
        packed.write(tmp_path / "empty.zip", "inner.zip")
    assert refusals(tmp_path / "empty.zip") == {"empty.zip": ("not_an_image",)}
    assert refusals(tmp_path / "outer.zip") == {"inner.zip": ("unsupported_format",)}


def test_an_inflated_tar_leaves_nothing_in_the_temporary_folder(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    pack_tar_gz(collection, tmp_path / "a.tar.gz")
    assert len(list(list_sources(tmp_path / "a.tar.gz"))) == 4
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_zip_at_the_end_of_another_archive_does_not_hide_it(collection: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "last.zip", "w") as inner:
        inner.writestr("inner.txt", "x")
    last = (tmp_path / "last.zip").read_bytes()
    (collection / "z.zip").write_bytes(last)
    pack_tar(collection, tmp_path / "outer.tar")
    assert {source.kind for source in list_sources(tmp_path / "outer.tar")} == {"dicom", "nifti", "nrrd", "other"}
    pack_zip(collection, tmp_path / "whole.zip")
    cut = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(cut[: len(cut) // 2] + last)
    assert refusals(tmp_path / "cut.zip") == {"cut.zip": ("corrupt",)}


def test_two_members_of_one_name_in_a_zip_are_not_one_lost(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a/b.txt", "one")
        packed.writestr("a//b.txt", "two")
    assert refusals(tmp_path / "a.zip") == {"a.zip": ("corrupt",)}


def test_a_changed_member_without_a_time_of_its_own_is_noticed(tmp_path: Path) -> None:
    def states(data: bytes) -> set[str]:
        return {s.state() for s in list_sources(tar_of(tmp_path / "a.tar", (tarfile.TarInfo("a.txt"), data)))}

    assert states(b"one") != states(b"two")


@pytest.mark.parametrize("name", ["", ".", "./", "\udcff.nii"])
def test_strange_member_names_do_not_end_the_listing(name: str, tmp_path: Path) -> None:
    tar_of(tmp_path / "a.tar", (tarfile.TarInfo(name), b"x"), (tarfile.TarInfo("other.txt"), b"x"))
    assert ("not_an_image",) in refusals(tmp_path / "a.tar").values()
    assert "other.txt" in refusals(tmp_path / "a.tar")
