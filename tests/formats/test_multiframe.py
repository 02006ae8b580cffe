"""Enhanced and Legacy Converted Enhanced CT: the same volume as the single images they were made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import RLELossless, generate_uid

from semgen_platform.formats import pixels
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]
ENHANCED_CT, LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"
REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"


def item(**values: Any) -> Items:
    """A sequence of one item, as functional group macros are."""
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Items([dataset])


def in_space(folder: Path) -> list[Any]:
    """The datasets of a written series from its lowest slice up."""
    return sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda d: float(d.ImagePositionPatient[2]))


def multiframe(slices: Sequence[Any], sop_class: str = ENHANCED_CT) -> Any:
    """One object with a frame for each slice, what they share in the shared group."""
    first = slices[0]
    whole: Any = Dataset()
    whole.file_meta = pydicom.dataset.FileMetaDataset()
    whole.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    for keyword in (
        "StudyInstanceUID", "SeriesInstanceUID", "PatientName", "PatientID", "IssuerOfPatientID", "Modality",
        "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
        "PhotometricInterpretation", "ImageType",
    ):  # fmt: skip
        setattr(whole, keyword, getattr(first, keyword))
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = sop_class
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    whole.NumberOfFrames = len(slices)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=first.PixelSpacing, SliceThickness=9.9)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.CTReconstructionSequence = item(ConvolutionKernel="B30f")
    shared.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    whole.SharedFunctionalGroupsSequence = Items([shared])
    whole.PerFrameFunctionalGroupsSequence = Items([frame_group(number, one) for number, one in enumerate(slices)])
    whole.PixelData = b"".join(one.PixelData for one in slices)
    whole["PixelData"].VR = "OW"
    return whole


def frame_group(number: int, one: Any) -> Dataset:
    group = Dataset()
    group.PlanePositionSequence = item(ImagePositionPatient=one.ImagePositionPatient)
    group.PixelValueTransformationSequence = item(
        RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU"
    )
    group.FrameContentSequence = item(StackID="1", InStackPositionNumber=number + 1)
    return group


def saved(whole: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole.save_as(path, enforce_file_format=True)
    return path


def volume_of(found: Volume | Refusal) -> Volume:
    assert isinstance(found, Volume), found
    return found


@pytest.mark.parametrize("sop_class", [ENHANCED_CT, LEGACY_CONVERTED_CT])
def test_a_multiframe_object_is_the_volume_of_its_slices_in_whatever_order(
    series: Any, read_one: Read, tmp_path: Path, sop_class: str
) -> None:
    made = series(slopes=(1.0, 2.0))  # each frame has a rescale of its own
    single = volume_of(read_one(made.write(tmp_path / "single")))
    slices = in_space(tmp_path / "single")
    shuffled = [slices[n] for n in np.random.default_rng(3).permutation(len(slices))]
    whole = volume_of(read_one(saved(multiframe(shuffled, sop_class), tmp_path / "multi" / "a.dcm")))
    assert np.array_equal(whole.voxels, single.voxels)
    assert np.allclose(whole.ijk_to_lps_mm, single.ijk_to_lps_mm, atol=1e-9)
    assert whole.attributes["kernel"] == "B30f"
    assert whole.attributes["steps_mm"] == [2.5, 2.5, 2.5]


def test_voxels_of_an_oblique_enhanced_object_lie_where_simpleitk_puts_them(
    series: Any, read_one: Read, assert_same_in_space: Any, tmp_path: Path
) -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    series(row=(c, s, 0.0), column=(-s, c, 0.0)).write(tmp_path / "single")
    path = saved(multiframe(in_space(tmp_path / "single")), tmp_path / "multi" / "a.dcm")
    image = sitk.ReadImage(str(path))
    assert_same_in_space(volume_of(read_one(path)), sitk.GetArrayFromImage(image), image.TransformIndexToPhysicalPoint)


def test_frames_that_are_compressed_decode_to_the_same_values(series: Any, read_one: Read, tmp_path: Path) -> None:
    single = volume_of(read_one(series().write(tmp_path / "single")))
    whole = multiframe(in_space(tmp_path / "single"))
    whole.compress(RLELossless, generate_instance_uid=False)
    assert np.array_equal(volume_of(read_one(saved(whole, tmp_path / "multi" / "a.dcm"))).voxels, single.voxels)


def test_several_objects_of_one_series_are_one_volume(series: Any, read_one: Read, tmp_path: Path) -> None:
    single = volume_of(read_one(series().write(tmp_path / "single")))
    slices = in_space(tmp_path / "single")
    saved(multiframe(slices[::2]), tmp_path / "multi" / "even.dcm")
    saved(multiframe(slices[1::2]), tmp_path / "multi" / "odd.dcm")
    assert np.array_equal(volume_of(read_one(tmp_path / "multi")).voxels, single.voxels)


def test_two_copies_of_one_object_are_dropped_and_each_is_read_once(
    series: Any, read_one: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = volume_of(read_one(series().write(tmp_path / "single")))
    whole = multiframe(in_space(tmp_path / "single"))
    saved(whole, tmp_path / "multi" / "a.dcm")
    whole.SOPInstanceUID = whole.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    saved(whole, tmp_path / "multi" / "b.dcm")
    (source,) = list_sources(tmp_path / "multi")
    read, really = list[Any](), pixels._pixel_dataset

    def counted(item: Any) -> Any:
        read.append(item.place)
        return really(item)

    monkeypatch.setattr(pixels, "_pixel_dataset", counted)
    volume = volume_of(read_source(source))
    assert np.array_equal(volume.voxels, single.voxels)
    assert "duplicates_dropped" in volume.flags
    assert len(read) <= 4  # each for its digests, one for its voxels, and a look at the other


def test_interleaved_time_points_in_one_object_are_volumes_of_their_own(series: Any, tmp_path: Path) -> None:
    early, late = series(), series()
    late.hu_ZYX = early.hu_ZYX + 7
    slices = in_space(early.write(tmp_path / "early")) + in_space(late.write(tmp_path / "late"))
    for one in slices:
        one.SeriesInstanceUID = slices[0].SeriesInstanceUID
    whole = multiframe(slices)
    for number, group in enumerate(whole.PerFrameFunctionalGroupsSequence):
        group.FrameContentSequence[0].TemporalPositionIndex = 1 + number // len(early.hu_ZYX)
    saved(whole, tmp_path / "multi" / "a.dcm")
    first, second = (volume_of(read_source(source)) for source in list_sources(tmp_path / "multi"))
    assert sorted([int(first.voxels.sum()), int(second.voxels.sum())]) == sorted(
        [int(early.hu_ZYX.sum(dtype=np.int64)), int(late.hu_ZYX.sum(dtype=np.int64))]
    )


def test_a_missing_frame_is_found_as_a_missing_slice(series: Any, read_one: Read, tmp_path: Path) -> None:
    series().write(tmp_path / "single")
    slices = in_space(tmp_path / "single")
    found = read_one(saved(multiframe([*slices[:7], *slices[8:]]), tmp_path / "multi" / "a.dcm"))
    assert isinstance(found, Refusal)
    assert found.reasons == ("missing_slices",)


def changed(whole: Any, change: str) -> Any:
    if change == "frames":
        whole.NumberOfFrames = whole.NumberOfFrames - 1
    elif change == "pixels":
        whole.PixelData = whole.PixelData[:-2]
    elif change == "scout":
        whole.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence[0].FrameType = [
            "ORIGINAL",
            "PRIMARY",
            "LOCALIZER",
        ]
    elif change == "text for groups":
        del whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence
        whole.add_new(0x52009229, "LO", "A")
        whole.add_new(0x52009230, "US", 5)
    elif change == "position":
        del whole.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence
    else:
        whole.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    return whole


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("frames", "corrupt"),
        ("text for groups", "corrupt"),
        ("pixels", "truncated"),
        ("scout", "localizer"),
        ("position", "missing_geometry"),
        ("classic class", "unsupported_format"),
    ],
)
def test_a_broken_multiframe_object_is_refused_by_name(
    series: Any, read_one: Read, tmp_path: Path, change: str, reason: str
) -> None:
    series().write(tmp_path / "single")
    whole = changed(multiframe(in_space(tmp_path / "single")), change)
    found = read_one(saved(whole, tmp_path / "multi" / "a.dcm"))
    assert isinstance(found, Refusal)
    assert found.reasons[0] == reason


def test_values_in_another_unit_than_hounsfield_are_flagged(series: Any, read_one: Read, tmp_path: Path) -> None:
    series().write(tmp_path / "single")
    whole = multiframe(in_space(tmp_path / "single"))
    for group in whole.PerFrameFunctionalGroupsSequence:
        group.PixelValueTransformationSequence[0].RescaleType = "MGML"  # iodine in mg/ml
    assert "not_hu_like" in volume_of(read_one(saved(whole, tmp_path / "multi" / "a.dcm"))).flags


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files (../shared/data/real) are not here")
def test_a_real_legacy_converted_object_is_refused_for_the_reason_of_its_slices() -> None:
    """Three slices: too few; their grid is looked at in test_real_files."""
    (source,) = list_sources(REAL / "dcmqi_23x38x3" / "multiframe")
    found = read_source(source)
    assert isinstance(found, Refusal)
    assert found.reasons == ("too_few_slices",)
