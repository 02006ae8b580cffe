"""Listing: what is a source, what it is called, and what its headers alone rule out."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from semgen_platform.errors import InputError
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source

STORAGE = "1.2.840.10008.5.1.4.1.1."


def sources_of(root: Path) -> list[Source]:
    return list(list_sources(root))


def primary_of(source: Source) -> str:
    assert source.refusal is not None
    return source.refusal.reasons[0]


def write_nifti_file(path: Path, shape: tuple[int, ...] = (6, 5, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    return path


def test_a_missing_path_and_a_folder_without_files_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list_sources(tmp_path / "nowhere")
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no file"):
        sources_of(tmp_path)


def test_every_single_file_is_one_source_whatever_its_name(series: Any, tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "deep" / "er" / "a.nii.gz").rename(tmp_path / "deep" / "er" / "no_extension")
    write_nifti_file(tmp_path / "b.nii")
    (tmp_path / "notes.txt").write_text("nothing")
    series().write(tmp_path / "ct")
    found = {source.name_parts[-1] if source.kind != "dicom" else "ct": source for source in sources_of(tmp_path)}
    assert {name: source.kind for name, source in found.items()} == {
        "deep/er/no_extension": "nifti", "b.nii": "nifti", "notes.txt": "other", "ct": "dicom",
    }  # fmt: skip
    assert found["b.nii"].slices == 4
    assert found["ct"].slices == len(found["ct"].files) == 20


def test_a_series_is_gathered_from_several_folders(series: Any, tmp_path: Path) -> None:
    folder = series().write(tmp_path / "a")
    (tmp_path / "b" / "c").mkdir(parents=True)
    for file in sorted(folder.iterdir())[:7]:
        file.rename(tmp_path / "b" / "c" / file.name)
    (source,) = sources_of(tmp_path)
    assert len(source.files) == 20
    assert list(source.files) == sorted(source.files)
    assert source.series_uid is not None
    assert source.name_parts == ("series", source.series_uid, "")
    assert source.patient == ("CANARY-17", "CANARY HOSPITAL")


def test_two_series_in_one_folder_are_two_sources(series: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        for file in series().write(tmp_path / name).iterdir():
            (tmp_path / "mixed").mkdir(exist_ok=True)
            file.rename(tmp_path / "mixed" / f"{name}{file.name}")
    assert [source.slices for source in sources_of(tmp_path / "mixed")] == [20, 20]


def test_localizers_inside_a_ct_series_are_refused_apart_from_its_slices(series: Any, tmp_path: Path) -> None:
    def scout(n: int, dataset: Any) -> None:
        if n < 2:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    slices, localizer = sorted(sources_of(series(edit=scout).write(tmp_path)), key=lambda s: -s.slices)
    assert (slices.slices, slices.refusal) == (18, None)
    assert (localizer.slices, primary_of(localizer)) == (2, "localizer")
    assert localizer.name_parts != slices.name_parts


def test_one_series_uid_under_two_patients_is_ambiguous(series: Any, tmp_path: Path) -> None:
    def mixed(n: int, dataset: Any) -> None:
        if n > 9:
            dataset.PatientID = "another"

    (source,) = sources_of(series(edit=mixed).write(tmp_path))
    assert primary_of(source) == "ambiguous_split"
    assert source.refusal is not None
    assert source.refusal.evidence == {"patients": 2, "studies": 1}


OBJECTS = {
    "enhanced ct without frames": (STORAGE + "2.1", "CT", "corrupt"),
    "magnetic resonance": (STORAGE + "4", "MR", "not_ct_modality"),
    "positron emission": (STORAGE + "128", "PT", "not_ct_modality"),
    "secondary capture": (STORAGE + "7", "CT", "secondary_capture"),
    "multi-frame secondary capture": (STORAGE + "7.4", "OT", "secondary_capture"),
    "dose report": (STORAGE + "88.67", "SR", "dose_report"),
    "structured report": (STORAGE + "88.33", "SR", "structured_report"),
    "key objects": (STORAGE + "88.59", "KO", "structured_report"),
    "presentation state": (STORAGE + "11.1", "PR", "presentation_state"),
    "segmentation": (STORAGE + "66.4", "SEG", "segmentation"),
    "registration": (STORAGE + "66.1", "REG", "not_an_image"),
    "structure set": (STORAGE + "481.3", "RTSTRUCT", "rt_object"),
    "plan": (STORAGE + "481.5", "RTPLAN", "rt_object"),
    "pdf": (STORAGE + "104.1", "DOC", "pdf"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_dicom_objects_that_are_no_slices_are_named_for_what_they_are(
    name: str, series: Any, make_ct: Any, tmp_path: Path
) -> None:
    sop_class, modality, reason = OBJECTS[name]

    def object_of(n: int, dataset: Any) -> None:
        dataset.SOPClassUID, dataset.Modality = sop_class, modality

    (source,) = sources_of(series(hu_ZYX=make_ct()[:1], edit=object_of).write(tmp_path))
    assert primary_of(source) == reason


def test_colour_slices_and_multi_frame_slices_are_refused(series: Any, make_ct: Any, tmp_path: Path) -> None:
    def colour(n: int, dataset: Any) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0

    def frames(n: int, dataset: Any) -> None:
        dataset.NumberOfFrames = 5

    for edit, reason in ((colour, "color_image"), (frames, "unsupported_format")):
        folder = series(hu_ZYX=make_ct()[:1], edit=edit).write(tmp_path / reason)
        assert primary_of(sources_of(folder)[0]) == reason


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"text", "not_an_image"),
        ("empty", b"", "not_an_image"),
        ("empty.nii", b"", "truncated"),
        ("junk.nii.gz", b"\x1f\x8bjunk that is no deflate stream", "corrupt"),
        ("junk.dcm", b"no dicom at all", "corrupt"),
        ("a.bin", b"%PDF-1.4", "pdf"),
        ("a.zip", b"PK\x03\x04" + bytes(40), "truncated"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(40), "unsupported_format"),
        ("a.tgz", gzip.compress(bytes(257) + b"ustar" + bytes(250)), "truncated"),
    ],
)
def test_other_files_are_refused_by_content_and_by_what_their_name_promised(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (source,) = sources_of(tmp_path)
    assert (source.kind, primary_of(source)) == ("other", reason)


def test_a_header_and_its_data_file_are_one_source(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16))
    nibabel.save(nibabel.Nifti1Pair(np.zeros((6, 5, 4), np.int16), np.eye(4)), tmp_path / "pair.hdr")
    sitk.WriteImage(image, str(tmp_path / "meta.mhd"))
    sitk.WriteImage(image, str(tmp_path / "nrrd.nhdr"))
    found = [([Path(file.path).suffix for file in source.files], source.slices) for source in sources_of(tmp_path)]
    assert found == [([".mhd", ".raw"], 4), ([".nhdr", ".raw"], 4), ([".hdr", ".img"], 4)]


def test_a_header_without_its_data_file_is_unreadable(tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(tmp_path / "meta.mhd"))
    (tmp_path / "meta.raw").unlink()
    assert primary_of(sources_of(tmp_path)[0]) == "unreadable"


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/passwd"])
def test_a_header_cannot_reach_files_outside_its_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(240))
    folder = tmp_path / "in"
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(folder / "meta.mhd"))
    (folder / "meta.raw").unlink()
    (folder / "meta.mhd").write_text((folder / "meta.mhd").read_text().replace("meta.raw", name))
    (source,) = sources_of(folder)
    assert primary_of(source) == "path_escape"
    assert len(source.files) == 1


def test_pipes_are_not_waited_for_and_broken_links_are_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert {s.name_parts[-1]: primary_of(s) for s in sources_of(tmp_path)} == {
        "pipe": "not_an_image", "link": "unreadable",
    }  # fmt: skip


def test_a_link_back_to_a_parent_folder_ends(tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "a" / "x.nii")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert [source.name_parts for source in sources_of(tmp_path)] == [("path", "a/x.nii")]


def test_a_file_may_be_given_itself(tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "x.nii")
    assert [source.name_parts for source in sources_of(tmp_path / "x.nii")] == [("path", "x.nii")]


def test_the_state_changes_with_a_file_and_only_then(tmp_path: Path) -> None:
    file = write_nifti_file(tmp_path / "x.nii")
    first, again = sources_of(tmp_path)[0], sources_of(tmp_path)[0]
    assert first.state() == again.state()
    os.utime(file, ns=(1, 1))
    assert sources_of(tmp_path)[0].state() != first.state()


def test_pixels_are_not_decoded_while_listing(series: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pydicom

    folder = series().write(tmp_path)
    real: Callable[..., Any] = pydicom.dcmread

    def watched(path: Any, **options: Any) -> Any:
        assert options["stop_before_pixels"]
        return real(path, **options)

    monkeypatch.setattr(pydicom, "dcmread", watched)
    assert len(sources_of(folder)) == 1


def test_a_series_may_lie_below_two_roots(series: Any, tmp_path: Path) -> None:
    folder = series().write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file in sorted(folder.iterdir())[:7]:
        file.rename(tmp_path / "b" / file.name)
    (source,) = list_sources(tmp_path / "a", tmp_path / "b")
    assert len(source.files) == 20


def test_scans_of_one_name_below_two_roots_are_not_taken_for_one(tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "a" / "ct.nii")
    write_nifti_file(tmp_path / "b" / "ct.nii")
    for roots in ((tmp_path / "a", tmp_path / "b"), (tmp_path / "a" / "ct.nii", tmp_path / "b" / "ct.nii")):
        with pytest.raises(InputError, match="same name"):
            list(list_sources(*roots))
    assert len(sources_of(tmp_path)) == 2


def test_files_of_one_name_that_name_no_series_are_not_taken_for_one(series: Any, tmp_path: Path) -> None:
    for name in ("a", "b"):
        series(edit=lambda n, dataset: delattr(dataset, "SeriesInstanceUID")).write(tmp_path / name)
        for file in sorted((tmp_path / name).iterdir())[1:]:
            file.unlink()
        next((tmp_path / name).iterdir()).rename(tmp_path / name / "x.dcm")
    with pytest.raises(InputError, match="a scan of the same name"):
        list(list_sources(tmp_path / "a", tmp_path / "b"))
    for name in ("a", "b"):  # of what is no scan, both are named
        (tmp_path / name / "x.dcm").write_bytes((tmp_path / name / "x.dcm").read_bytes()[:400])
    assert len({source.name_parts for source in list_sources(tmp_path / "a", tmp_path / "b")}) == 2


def test_a_folder_given_twice_or_below_another_counts_once(tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "a" / "ct.nii")
    (tmp_path / "a" / "notes.txt").write_text("nothing")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("other")
    found = list(list_sources(tmp_path / "a", tmp_path / "a", tmp_path, tmp_path / "b"))
    assert len(found) == 3
    assert len({source.name_parts for source in found}) == 3


def test_a_gzipped_file_of_another_format_than_nifti_is_to_be_unpacked(series: Any, tmp_path: Path) -> None:
    file = next(series().write(tmp_path / "ct").iterdir())
    (tmp_path / "a.dcm.gz").write_bytes(gzip.compress(file.read_bytes()))
    (source,) = list_sources(tmp_path / "a.dcm.gz")
    assert source.refusal is not None
    assert (source.refusal.reasons, "unpack" in source.refusal.sentence) == (("unsupported_format",), True)


def test_a_name_that_is_not_utf8_is_listed(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"M\xfcller.txt")).write_text("nothing")
    (source,) = sources_of(tmp_path)
    assert primary_of(source) == "not_an_image"


def test_a_scan_that_another_header_names_as_its_data_is_not_lost(tmp_path: Path) -> None:
    write_nifti_file(tmp_path / "real.nii")
    header = "NDims = 3\nDimSize = 4 5 6\nElementType = MET_SHORT\nElementDataFile = real.nii\n"
    (tmp_path / "a.mhd").write_text(f"ObjectType = Image\n{header}")
    assert {source.kind for source in sources_of(tmp_path)} == {"metaimage", "nifti"}
