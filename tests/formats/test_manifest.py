"""Manifests: what they name as sources, and what they say of sources."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from semgen_platform.errors import InputError
from semgen_platform.formats.manifest import ManifestRow, is_manifest, read_manifest
from semgen_platform.formats.place import Place
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.storage import s3_store

Write = Callable[[Path, list[dict[str, object]]], Path]


def write_csv(folder: Path, rows: list[dict[str, object]]) -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [",".join(columns), *(",".join(str(row.get(name, "")) for name in columns) for row in rows)]
    (folder / "list.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")  # as Excel writes it
    return folder / "list.csv"


def write_parquet(folder: Path, rows: list[dict[str, object]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "list.parquet")
    return folder / "list.parquet"


BOTH = pytest.mark.parametrize("write", [write_csv, write_parquet])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("in/a.txt", "in/sub/b.txt", "in/sub/deep/c.txt", "elsewhere/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with zipfile.ZipFile(tmp_path / "in" / "z.zip", "w") as packed:
        packed.writestr("inner/e.txt", "x")
        packed.writestr("f.txt", "x")
    return tmp_path / "in"


def reasons(sources: list[Source]) -> dict[str, str]:
    return {"/".join(s.name_parts[1:]): s.refusal.reasons[0] if s.refusal else "" for s in sources}


@BOTH
def test_a_manifest_names_files_folders_globs_and_members_as_sources(write: Write, folder: Path) -> None:
    absolute = str(folder.parent / "elsewhere" / "d.txt")
    paths = ["a.txt", "sub/deep", "*/b.txt", "z.zip/inner/e.txt", absolute]
    manifest = write(folder, [{"path": path} for path in paths])
    found = list(list_sources(manifest))
    assert [s.name_parts for s in found] == [
        ("path", "a.txt"), ("path", "sub/deep/c.txt"), ("path", "sub/b.txt"), ("path", "z.zip", "inner/e.txt"),
        ("path", absolute),
    ]  # fmt: skip
    through_folder = {s.name_parts: s.state() for s in list_sources(folder)}
    assert {s.name_parts: s.state() for s in found[:4]}.items() <= through_folder.items()


@BOTH
def test_a_path_that_is_missing_is_a_source_that_cannot_be_read_and_ends_nothing(write: Write, folder: Path) -> None:
    manifest = write(folder, [{"path": p} for p in ("gone.nii", "a.txt", "gone/*.nii", "z.zip/gone.nii", "sub/gone")])
    assert reasons(list(list_sources(manifest))) == {
        "gone.nii": "unreadable", "a.txt": "not_an_image", "gone/*.nii": "unreadable", "z.zip/gone.nii": "unreadable",
        "sub/gone": "unreadable",
    }  # fmt: skip


def test_a_file_that_two_rows_name_is_one_source(folder: Path) -> None:
    manifest = write_csv(folder, [{"path": p} for p in ("sub/b.txt", "sub", "**/b.txt")])
    assert len(list(list_sources(manifest))) == 2


@BOTH
def test_a_row_gives_patient_collection_and_labels_as_text(write: Write, folder: Path) -> None:
    rows: list[dict[str, object]] = [
        {"path": "sub", "patient_id": "P1", "collection": "north", "age": 61, "sex": "F"},
        {"path": "sub/deep/c.txt", "patient_id": "P2", "collection": None, "age": None, "sex": "M"},
        {"path": "*.txt", "patient_id": None, "collection": None, "age": 7, "sex": None},
    ]
    if write is write_csv:
        rows = [{name: "" if value is None else value for name, value in row.items()} for row in rows]
    manifest = read_manifest(str(write(folder, rows)))

    def said(name: str) -> ManifestRow | None:
        return manifest.of([Place(str(folder / name))])

    assert said("sub/b.txt") == ManifestRow("P1", "north", {"age": "61", "sex": "F"})
    assert said("sub/deep/c.txt") == ManifestRow("P2", None, {"sex": "M"})  # the longest path speaks, and alone
    assert said("a.txt") == ManifestRow(None, None, {"age": "7"})
    assert said("sub/deep") == ManifestRow("P1", "north", {"age": "61", "sex": "F"})
    assert said("other/x.txt") is None
    assert manifest.of([Place("/somewhere/else/sub/b.txt")]) is None


def test_relative_paths_are_taken_below_each_source_too(folder: Path) -> None:
    manifest = write_csv(folder.parent / "elsewhere", [{"path": "sub/b.txt", "patient_id": "P1"}])
    assert read_manifest(str(manifest)).of([Place(str(folder / "sub" / "b.txt"))]) is None
    row = read_manifest(str(manifest), [str(folder)]).of([Place(str(folder / "sub" / "b.txt"))])
    assert row == ManifestRow("P1")


def test_a_path_may_lead_up_from_the_manifests_folder(folder: Path) -> None:
    manifest = write_csv(folder, [{"path": "../elsewhere/d.txt", "patient_id": "P1"}, {"path": "./a.txt"}])
    found = {s.name_parts[1]: read_manifest(str(manifest)).of(s.files) for s in list_sources(manifest)}
    assert found == {str(folder.parent / "elsewhere/d.txt"): ManifestRow("P1"), "a.txt": ManifestRow()}


def test_only_a_table_that_is_named_itself_is_a_manifest_and_then_has_to_be_a_usable_one(folder: Path) -> None:
    manifest = write_csv(folder, [{"path": "a.txt"}])
    assert is_manifest(str(manifest))
    assert not is_manifest(str(folder))
    (folder / "other.CSV").write_text("name,value\na,1\n")
    (folder / "torn.parquet").write_bytes(b"PAR1")
    walked = reasons(list(list_sources(folder)))
    for name, says in (("other.CSV", "none of the 2 columns of manifest"), ("torn.parquet", "cannot be read")):
        with pytest.raises(InputError, match=says):
            list_sources(folder / name)
        assert walked[name] == walked["list.csv"] == "not_an_image"
    (folder / "folder.csv").mkdir()
    assert not is_manifest(str(folder / "folder.csv"))


def test_a_csv_source_in_another_encoding_is_refused_as_a_manifest_and_in_a_folder_is_no_image(folder: Path) -> None:
    (folder / "LIST.CSV").write_bytes("path\r\na.txt\r\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"manifest LIST\.CSV cannot be read .*; give a UTF-8 CSV file"):
        list_sources(folder / "LIST.CSV")
    assert reasons(list(list_sources(folder)))["LIST.CSV"] == "not_an_image"


@pytest.mark.parametrize("content", ["path,patient_id\n", "path,patient_id\n,P1\n"])
def test_a_csv_that_names_no_file_is_refused_as_a_manifest_and_in_a_folder_is_no_image(
    content: str, folder: Path
) -> None:
    (folder / "list.csv").write_text(content)
    with pytest.raises(InputError, match=r"manifest list\.csv names no file; give it a line for each"):
        list_sources(folder / "list.csv")
    assert reasons(list(list_sources(folder)))["list.csv"] == "not_an_image"


def test_a_parquet_file_without_rows_names_no_file(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": pa.array([], pa.string())}), tmp_path / "list.parquet")
    with pytest.raises(InputError, match=r"manifest list\.parquet names no file"):
        list_sources(tmp_path / "list.parquet")


def test_unusable_objects_are_refused_as_manifests_too(s3_server: Any) -> None:
    bucket = s3_server.make_bucket("manifests")
    for key, content, says in (
        ("empty.csv", b"path\n", "manifest empty.csv names no file"),
        ("other.csv", b"file,patient\n", "none of the 2 columns of manifest other.csv is called path"),
        ("torn.parquet", b"PAR1", "manifest torn.parquet cannot be read"),
        ("wide.csv", "path\n".encode("utf-16"), "manifest wide.csv cannot be read"),
    ):
        obstore.put(s3_store(bucket), key, content)
        with pytest.raises(InputError, match=says):
            list_sources(f"{bucket}/{key}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("name,age\na,1\n", "none of the 2 columns of manifest list.csv is called path"),
        ("scans/doe_john.nii,MRN-4711\n", "none of the 2 columns"),
        ("path\na.txt\n./a.txt\n", "names one path twice, the second time in line 3"),
        ("path,age\n\xff,1\n", "cannot be read"),
        ("path,age\n", "names no file; give it a line for each"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_sentence(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=says):
        read_manifest(str(tmp_path / "list.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        read_manifest(str(tmp_path / "missing.csv"))


def test_a_series_of_a_folder_that_a_row_names_has_its_labels(folder: Path) -> None:
    manifest = read_manifest(str(write_csv(folder, [{"path": "sub/", "site": "north"}])))
    assert manifest.of([Place(str(folder / "sub" / "1.dcm")), Place(str(folder / "z" / "2.dcm"))]) == ManifestRow(
        labels={"site": "north"}
    )
