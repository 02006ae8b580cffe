"""SOURCE: globs, members of archives, and what a listing says and keeps while it walks."""

from __future__ import annotations

import glob
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from semgen_platform.errors import InputError
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.formats.walking import root_at, walk
from semgen_platform.lake.lake import create_lake

FILES = [
    "top.nii.gz", "top.txt", "a/one.nii.gz", "a/two.nii", "a/b/three.nii.gz", "a/b/c/four.nii.gz", "b/five.nii.gz",
    "b/.hidden.nii.gz", ".cache/six.nii.gz", "a1/seven.nii", "a/b.nii.gz/eight.txt",
]  # fmt: skip
GLOBS = [
    "*.nii.gz", "**/*.nii.gz", "a/**/*.nii.gz", "*/*.nii*", "**/b/*", "a?/*.nii", "[ab]/*.nii.gz", "**/b/**/*.gz",
    "a/b", "*", ".cache/*", "b/.*", "**/[!t]*.nii.gz", "**/**/four*",
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "tree"


def files_of(root: str | Path) -> list[str]:
    return [str(source.files[0]) for source in list_sources(root)]


def by_the_standard_library(pattern: str) -> Iterator[str]:
    """What glob finds, and all files below the folders among it."""
    for found in glob.glob(pattern, recursive=True):
        if os.path.isfile(found):
            yield found
        for folder, _, names in os.walk(found):
            yield from (os.path.join(folder, name) for name in names)


@pytest.mark.parametrize("pattern", GLOBS)
def test_a_glob_finds_what_the_standard_library_finds_each_file_once(pattern: str, tree: Path) -> None:
    found = files_of(f"{tree}/{pattern}")
    assert len(found) == len(set(found))
    assert set(found) == set(by_the_standard_library(f"{tree}/{pattern}"))


def test_a_glob_names_files_below_the_folder_before_its_first_wildcard(tree: Path) -> None:
    through_folder = {source.name_parts for source in list_sources(tree)}
    through_glob = {source.name_parts for source in list_sources(f"{tree}/**/*.nii.gz")}
    assert ("path", "a/b/three.nii.gz") in through_glob
    assert through_glob < through_folder


def test_two_stars_at_the_end_are_all_that_lies_below(tree: Path) -> None:
    assert {Path(f).name for f in files_of(f"{tree}/a/**")} == {
        "one.nii.gz", "two.nii", "three.nii.gz", "four.nii.gz", "eight.txt",
    }  # fmt: skip


def test_folders_in_which_nothing_can_fit_are_not_entered(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, real = list[str](), os.scandir

    def watched(folder: str) -> Any:
        entered.append(folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", watched)
    assert len(files_of(f"{tree}/*/b/*.nii.gz")) == 1
    assert sorted(str(Path(folder).relative_to(tree)) for folder in entered) == sorted(
        [".", "a", "a1", "b", "a/b"]
    )  # of *, then of b


def test_a_lake_below_a_source_is_not_entered_and_a_folder_with_a_file_of_that_name_is(tmp_path: Path) -> None:
    create_lake(str(tmp_path / "archive" / "lake"), key_fingerprint="f" * 24)
    for name in ("scan.txt", "other/lake.json", "other/note.txt"):
        (tmp_path / "archive" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "archive" / name).write_text("{}")
    found = {file.place.path for batch in walk(root_at(str(tmp_path / "archive"))) for file in batch.found}
    assert found == {str(tmp_path / "archive" / name) for name in ("scan.txt", "other/lake.json", "other/note.txt")}


def test_a_name_with_brackets_that_is_there_is_no_glob(tmp_path: Path) -> None:
    (tmp_path / "scan[1].txt").write_text("x")
    (tmp_path / "scan1.txt").write_text("x")
    assert files_of(tmp_path / "scan[1].txt") == [str(tmp_path / "scan[1].txt")]


@pytest.mark.parametrize("pattern", ["*.dcm", "nowhere/*.nii"])
def test_a_glob_that_fits_nothing_is_a_user_error(pattern: str, tree: Path) -> None:
    with pytest.raises(InputError, match="matches no file") as caught:
        files_of(f"{tree}/{pattern}")
    assert caught.value.exit_code == 3


def test_what_stands_behind_an_archive_is_a_member_of_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("one.txt", "in/two.txt", "in/deep/three.txt"):
            packed.writestr(name, "x")

    def members(address: str) -> list[tuple[str, ...]]:
        return sorted(source.name_parts for source in list_sources(tmp_path / address))

    everything = members("a.zip")
    assert members("a.zip/in/two.txt") == [("path", "a.zip", "in/two.txt")]
    assert members("a.zip/in") == [("path", "a.zip", "in/deep/three.txt"), ("path", "a.zip", "in/two.txt")]
    assert members("a.zip/*.txt") == [("path", "a.zip", "one.txt")]
    assert members("a.zip/**/*.txt") == everything == members("*.zip")


def test_a_member_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("one.txt", "x")
    with pytest.raises(InputError, match="does not exist"):
        files_of(tmp_path / "a.zip" / "two.txt")


def test_files_are_counted_as_they_are_looked_at_and_volumes_come_before_the_walk_ends(tmp_path: Path) -> None:
    for number in range(700):
        path = tmp_path / f"{number // 350}" / f"{number:03d}.nii"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4), np.int16), np.eye(4)), tmp_path / "0" / "000.nii")
    seen: list[int] = []
    first: Source = next(listing := list_sources(tmp_path, on_files=seen.append))
    assert first.files[0].name == "000.nii"
    assert 0 < sum(seen) < 350
    assert len([first, *listing]) == sum(seen) == 700


def test_a_data_file_far_behind_its_header_is_no_source_of_its_own(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(tmp_path / "zz.mhd"))
    (tmp_path / "zz.raw").rename(tmp_path / "000.raw")  # before its header, and a batch away
    (tmp_path / "zz.mhd").write_text((tmp_path / "zz.mhd").read_text().replace("zz.raw", "000.raw"))
    for number in range(600):
        (tmp_path / f"f{number:03d}.txt").write_text("x")
    found = list(list_sources(tmp_path))
    assert len(found) == 601
    assert [len(source.files) for source in found if source.kind == "metaimage"] == [2]
