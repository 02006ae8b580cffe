"""A DICOM series to HU in space: against the array it was made of, and against SimpleITK reading the same files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless

from semgen_platform.formats.dicom import read_headers
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED = (
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
RLE, JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
MPEG2 = "1.2.840.10008.1.2.4.100"

Read = Callable[..., Volume | Refusal]


def volume_of(found: Volume | Refusal) -> Volume:
    assert isinstance(found, Volume), found
    return found


def reasons_of(found: Volume | Refusal) -> set[str]:
    assert isinstance(found, Refusal)
    return set(found.reasons)


def itk_volume(folder: Path) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, RLE, JPEG_2000, JPEG_LS])
def test_every_transfer_syntax_gives_the_same_hounsfield_units(
    syntax: str, series: Any, read_one: Read, tmp_path: Path
) -> None:
    made = series(syntax=syntax)
    volume = volume_of(read_one(made.write(tmp_path)))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, made.hu_ZYX)
    assert volume.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))
    assert volume.modality == "CT"


def test_jpeg_lossless_slices_give_the_same_hounsfield_units(series: Any, read_one: Read, tmp_path: Path) -> None:
    """Compressed by GDCM's own program, since pydicom encodes no JPEG Lossless."""
    import gdcm

    made = series()
    made.write(tmp_path / "raw")
    (tmp_path / "jpeg").mkdir()
    for file in (tmp_path / "raw").iterdir():
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(tmp_path / "jpeg" / file.name))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    (source,) = list_sources(tmp_path / "jpeg")
    assert read_headers(source.files[0])[0].pixels.syntax == JPEG_LOSSLESS
    assert np.array_equal(volume_of(read_one(tmp_path / "jpeg")).voxels, made.hu_ZYX)


def test_high_throughput_jpeg_2000_slices_give_the_same_hounsfield_units(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    """Compressed by OpenJPH, since pydicom encodes no HTJ2K."""
    import imagecodecs

    made = series()
    for file in made.write(tmp_path).iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PixelData = encapsulate([bytes(imagecodecs.htj2k_encode(dataset.pixel_array, reversible=True))])
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(file)
    assert np.array_equal(volume_of(read_one(tmp_path)).voxels, made.hu_ZYX)


def test_slices_with_slopes_of_their_own_give_the_known_volume(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(slopes=(1.0, 0.5, 2.0, 0.25))
    made.hu_ZYX = made.hu_ZYX // 2 * 2  # so that slope 2 can hold every value
    volume = volume_of(read_one(made.write(tmp_path)))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, made.hu_ZYX)


def test_values_that_are_no_integers_stay_float32(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(slopes=(0.3,))
    volume = volume_of(read_one(made.write(tmp_path)))
    stored = np.rint((made.hu_ZYX + 1024.0) / 0.3)
    assert volume.voxels.dtype == np.float32
    assert np.array_equal(volume.voxels, (stored * 0.3 - 1024.0).astype(np.float32))


def test_one_float_slice_among_integer_ones_changes_none_of_them(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(slopes=(1.0,) * 10 + (0.3,) + (1.0,) * 9)
    volume = volume_of(read_one(made.write(tmp_path)))
    assert np.array_equal(np.delete(volume.voxels, 10, axis=0), np.delete(made.hu_ZYX, 10, axis=0))


def test_the_display_polarity_monochrome1_does_not_change_hounsfield_units(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    made = series(edit=lambda n, ds: setattr(ds, "PhotometricInterpretation", "MONOCHROME1"))
    assert np.array_equal(volume_of(read_one(made.write(tmp_path))).voxels, made.hu_ZYX)


def test_signed_stored_values_are_read_as_signed(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(intercept=0.0, edit=lambda n, ds: setattr(ds, "PixelRepresentation", 1))
    made.hu_ZYX = made.hu_ZYX.astype(np.int32)

    def signed(n: int, dataset: Any) -> None:
        dataset.PixelRepresentation = 1
        dataset.PixelData = made.hu_ZYX[n].astype("<i2").tobytes()

    made.edit = signed
    assert np.array_equal(volume_of(read_one(made.write(tmp_path))).voxels, made.hu_ZYX)


@pytest.mark.parametrize("implicit", [True, False])
def test_files_without_preamble_and_meta_header_are_read(
    implicit: bool, series: Any, read_one: Read, tmp_path: Path
) -> None:
    import pydicom

    made = series()
    made.write(tmp_path)
    for file in tmp_path.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(volume_of(read_one(tmp_path)).voxels, made.hu_ZYX)


def test_the_padding_value_of_the_header_is_recorded_in_hounsfield_units(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    made = series(intercept=-3024.0)
    made.hu_ZYX = made.hu_ZYX.copy()
    made.hu_ZYX[:, :2, :2] = -3024

    def padded(n: int, dataset: Any) -> None:
        dataset.add_new("PixelPaddingValue", "US", 0)

    made.edit = padded
    assert volume_of(read_one(made.write(tmp_path))).padding_hu == -3024


def test_a_constant_outside_the_circle_is_padding_without_any_tag(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(intercept=-2048.0)
    made.hu_ZYX = made.hu_ZYX.copy()
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        made.hu_ZYX[:, y, x] = -2000
    assert volume_of(read_one(made.write(tmp_path))).padding_hu == -2000


def test_noisy_air_in_the_corners_is_no_padding(series: Any, read_one: Read, tmp_path: Path) -> None:
    assert volume_of(read_one(series().write(tmp_path))).padding_hu is None


def test_only_listed_attributes_leave_the_header(series: Any, read_one: Read, tmp_path: Path) -> None:
    def described(n: int, dataset: Any) -> None:
        dataset.ConvolutionKernel, dataset.Manufacturer, dataset.ManufacturerModelName = "B30f", "SIEMENS", "Emotion 16"
        dataset.KVP, dataset.Exposure, dataset.BodyPartExamined = 120, 90, "CHEST"
        dataset.ContrastBolusAgent = "CANARY iodine 300"
        dataset.SeriesDescription = dataset.InstitutionName = dataset.StationName = "CANARY"
        dataset.add_new((0x0009, 0x0010), "LO", "CANARY")

    volume = volume_of(read_one(series(edit=described).write(tmp_path)))
    found = {k: v for k, v in volume.attributes.items() if k != "source_ijk_to_lps_mm"}
    assert found == {
        "kernel": "B30f", "manufacturer": "SIEMENS", "model": "Emotion 16", "kvp": 120.0, "exposure_mas": 90.0,
        "body_part": "CHEST", "contrast": True, "slice_thickness_mm": 9.9, "orientation": "LPS", "verdict": "ok",
        "steps_mm": [2.5, 2.5, 2.5],
    }  # fmt: skip
    assert "CANARY" not in repr(volume.attributes)


def test_a_series_of_known_patient_is_not_flagged_and_one_without_is(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    assert volume_of(read_one(series().write(tmp_path / "known"))).flags == ()
    nameless = series(edit=lambda n, ds: setattr(ds, "PatientID", ""))
    assert volume_of(read_one(nameless.write(tmp_path / "unknown"))).flags == ("patient_unknown",)


def test_burned_in_annotation_is_flagged(series: Any, read_one: Read, tmp_path: Path) -> None:
    made = series(edit=lambda n, ds: setattr(ds, "BurnedInAnnotation", "YES"))
    assert "burned_in_hint" in volume_of(read_one(made.write(tmp_path))).flags


def test_a_series_below_the_least_number_of_slices_is_refused_and_at_it_read(
    series: Any, read_one: Read, make_ct: Any, tmp_path: Path
) -> None:
    folder = series(hu_ZYX=make_ct((15, 36, 40))).write(tmp_path)
    refusal = read_one(folder)
    assert reasons_of(refusal) == {"too_few_slices"}
    assert isinstance(refusal, Refusal)
    assert refusal.evidence == {"slices": 15, "min_slices": 16}
    assert volume_of(read_one(folder, min_slices=15)).shape_zyx == (15, 36, 40)


def test_all_reasons_are_named_and_the_primary_comes_first(series: Any, read_one: Read, tmp_path: Path) -> None:
    def shifted(n: int, dataset: Any) -> None:
        if n > 10:
            dataset.ImagePositionPatient[2] += 1.0
        if n == 3:
            dataset.PixelData = dataset.PixelData[:-100]
        if n == 4:
            dataset.RescaleSlope = 0

    refusal = read_one(series(edit=shifted).write(tmp_path))
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == ("truncated", "uneven_spacing", "inconsistent_rescale")
    assert refusal.evidence["gaps_mm"] == [3.5]


def test_a_decoder_that_panics_in_its_own_language_is_a_failed_decoder(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    import pydicom
    from pydicom.encaps import encapsulate

    def too_long(n: int, dataset: Any) -> None:
        if n == 7:
            segment = b"\x81\x05" * 40  # runs of 128 values, more than the slice has pixels
            head = np.array([2, 64, 64 + len(segment), *[0] * 13], "<u4").tobytes()
            dataset.PixelData = encapsulate([head + segment * 2])
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless

    made = series(edit=too_long)
    made.write(tmp_path)
    victim = next(tmp_path.glob("*_7"))
    assert b"\x81\x05\x81\x05" in victim.read_bytes()
    dataset = pydicom.dcmread(victim, stop_before_pixels=False)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.RLELossless
    dataset.save_as(victim)
    assert reasons_of(read_one(tmp_path)) == {"decoder_failed"}


def test_a_compressed_slice_that_decodes_to_a_constant_is_a_failed_decoder(
    series: Any, read_one: Read, make_ct: Any, tmp_path: Path
) -> None:
    hu = make_ct()
    hu[6] = -1024
    assert reasons_of(read_one(series(hu_ZYX=hu, syntax=RLE).write(tmp_path / "rle"))) == {"decoder_failed"}
    volume_of(read_one(series(hu_ZYX=hu).write(tmp_path / "raw")))


def test_a_syntax_without_decoder_is_named(series: Any, read_one: Read, tmp_path: Path) -> None:
    import pydicom

    series(syntax=RLE).write(tmp_path)
    for file in tmp_path.iterdir():
        dataset = pydicom.dcmread(file)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(MPEG2)
        dataset.save_as(file)
    refusal = read_one(tmp_path)
    assert reasons_of(refusal) == {"unsupported_transfer_syntax"}
    assert isinstance(refusal, Refusal)
    assert "MPEG2" in refusal.evidence["syntaxes"][0]


@pytest.mark.parametrize("syntax", ["1.2.3.4", "1.2.840.10008.9.9.9"])
def test_a_syntax_that_nobody_knows_is_refused_and_its_name_not_repeated(
    syntax: str, series: Any, read_one: Read, make_ct: Any, tmp_path: Path
) -> None:
    made = series(hu_ZYX=make_ct()[:3])
    made.write(tmp_path)
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        file.write_bytes(data.replace(b"1.2.840.10008.1.2.1\0", syntax.encode().ljust(20, b"\0")[:20]))
    refusal = read_one(tmp_path)
    assert {"unsupported_transfer_syntax", "too_few_slices"} <= reasons_of(refusal)
    assert "1.2.3.4" not in repr(refusal)


def test_slopes_beyond_any_integer_are_computed_as_floats(series: Any, read_one: Read, tmp_path: Path) -> None:
    def huge(n: int, dataset: Any) -> None:
        dataset.RescaleSlope = "1e30"

    volume = volume_of(read_one(series(edit=huge).write(tmp_path)))
    assert volume.voxels.dtype == np.float32


def test_raw_offset_values_tagged_ct_are_read_but_flagged(series: Any, read_one: Read, tmp_path: Path) -> None:
    from semgen_platform.formats.values import voxel_flags

    def offset(n: int, dataset: Any) -> None:
        dataset.RescaleIntercept = 0

    assert "not_hu_like" in voxel_flags(volume_of(read_one(series(edit=offset).write(tmp_path))))


def test_no_name_or_path_is_in_a_refusal(series: Any, read_one: Read, tmp_path: Path) -> None:
    def wrong(n: int, dataset: Any) -> None:
        dataset.Modality, dataset.SOPClassUID = "CANARY", "1.2.840.10008.5.1.4.1.1.4"

    refusal = read_one(series(edit=wrong).write(tmp_path / "CANARY"))
    assert reasons_of(refusal) == {"not_ct_modality"}
    assert "CANARY" not in repr(refusal)


def test_a_file_that_disappears_after_listing_is_unreadable(series: Any, tmp_path: Path) -> None:
    from semgen_platform.formats.reader import read_source

    (source,) = list_sources(series().write(tmp_path))
    next(tmp_path.glob("*_7")).unlink()
    assert reasons_of(read_source(source)) == {"unreadable"}


def copied_slices(root: Path, *numbers: int) -> Path:
    """Writes slices of the series in `root` again under other names and instance UIDs."""
    from pydicom import dcmread
    from pydicom.uid import UID

    for n, file in [(n, file) for file in sorted(root.iterdir()) for n in numbers if file.name.endswith(f"_{n}")]:
        dataset = dcmread(file)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{n}")
        dataset.save_as(root / f"copy{n}", enforce_file_format=True)
    return root


def test_exact_copies_of_slices_are_dropped_and_said(series: Any, read_one: Read, tmp_path: Path) -> None:
    written = series()
    volume = read_one(copied_slices(written.write(tmp_path), 0, 7, 19))
    assert isinstance(volume, Volume)
    assert np.array_equal(volume.voxels, written.hu_ZYX)
    assert "duplicates_dropped" in volume.flags
    assert volume.attributes["repair"] == "dropped identical slices: 3"


def test_copies_do_not_hide_a_missing_slice(series: Any, read_one: Read, tmp_path: Path) -> None:
    root = copied_slices(series().write(tmp_path), 3)
    next(root.glob("*_9")).unlink()
    assert reasons_of(read_one(root)) == {"duplicate_position", "missing_slices"}
