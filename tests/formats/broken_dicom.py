"""Broken CT series and DICOM objects, and the near miss of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.formats.broken import HU, LABELS, SHAPE_ZYX, Build, Case
from tests.formats.conftest import Series, ct_hu

Edit = Callable[[int, Any], None]

MIDDLE = 8  # a slice in the middle
STORAGE = "1.2.840.10008.5.1.4.1.1."
RLE, JPEG_2000, JPEG_LS = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
WIDE_HU = ct_hu((16, 34, 36))  # the JPEG 2000 encoder asks for 32 rows and columns


def dicom(edit: Edit = lambda n, dataset: None, **changes: Any) -> Build:
    def build(folder: Path) -> None:
        Series(**{"hu_ZYX": HU, "edit": edit, **changes}).write(folder / "in")

    return build


def one_file(edit: Edit) -> Build:
    return dicom(edit, hu_ZYX=HU[:1])


def everywhere(**tags: Any) -> Edit:
    """Sets tags of every slice; None deletes one."""

    def edit(n: int, dataset: Any) -> None:
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return edit


def at_middle(**tags: Any) -> Edit:
    edit = everywhere(**tags)
    return lambda n, dataset: edit(n, dataset) if n == MIDDLE else None


def moved_from_middle(z_mm: float) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        dataset.ImagePositionPatient[2] += z_mm if n >= MIDDLE else 0

    return edit


def sideways_at_middle(x_mm: float) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        dataset.ImagePositionPatient[0] += x_mm if n == MIDDLE else 0

    return edit


def tilted(degrees: float) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        dataset.ImagePositionPatient[1] += float(np.tan(np.radians(degrees))) * 2.5 * n

    return edit


def turned_at_middle(degrees: float) -> Edit:
    sine, cosine = float(np.sin(np.radians(degrees))), float(np.cos(np.radians(degrees)))
    return at_middle(ImageOrientationPatient=[cosine, sine, 0, -sine, cosine, 0])


def sheared_rows(cosine: float) -> Edit:
    return everywhere(ImageOrientationPatient=[1, 0, 0, cosine, float(np.sqrt(1 - cosine**2)), 0])


def pixels_of_middle(change: Callable[[bytes], bytes]) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        if n == MIDDLE:
            dataset.PixelData = change(dataset.PixelData)

    return edit


def narrower_middle(n: int, dataset: Any) -> None:
    if n == MIDDLE:
        dataset.Columns = SHAPE_ZYX[2] - 2
        dataset.PixelData = dataset.PixelData[: 2 * SHAPE_ZYX[1] * (SHAPE_ZYX[2] - 2)]


def colour(n: int, dataset: Any) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def lookup_table(keyword: str) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        from pydicom.dataset import Dataset

        table = Dataset()
        table.LUTDescriptor, table.LUTData = [2, 0, 16], [0, 1]
        table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
        setattr(dataset, keyword, [table])

    return edit


def without_rescale_in_every_other(n: int, dataset: Any) -> None:
    if n % 2:
        del dataset.RescaleSlope, dataset.RescaleIntercept


def without_intercept_in_every_other(n: int, dataset: Any) -> None:
    if n % 2:
        del dataset.RescaleIntercept


def without_slopes(n: int, dataset: Any) -> None:
    del dataset.RescaleSlope


def of_two_patients(names: Sequence[str]) -> Edit:
    def edit(n: int, dataset: Any) -> None:
        dataset.PatientID = names[n % 2]

    return edit


def without_slices(*numbers: int, **changes: Any) -> Build:
    def build(folder: Path) -> None:
        Series(**{"hu_ZYX": ct_hu((18, 24, 30)), **changes}).write(folder / "in")
        for n in numbers:
            next((folder / "in").glob(f"*_{n}")).unlink()

    return build


def with_a_copy_of_the_middle(change: Callable[[Any], None]) -> Build:
    """A second file with another instance UID at the place of one slice, changed."""

    def build(folder: Path) -> None:
        from pydicom import dcmread
        from pydicom.uid import UID

        dicom()(folder)
        dataset = dcmread(next((folder / "in").glob(f"*_{MIDDLE}")))
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("1.2.3.8")
        change(dataset)
        dataset.save_as(folder / "in" / "copy", enforce_file_format=True)

    return build


def one_pixel(dataset: Any) -> None:
    pixels = bytearray(dataset.PixelData)
    pixels[100] ^= 1
    dataset.PixelData = bytes(pixels)


def one_file_changed(change: Callable[[bytes], bytes], syntax: str) -> Build:
    """A series of which the bytes of the middle slice's file are changed."""

    def build(folder: Path) -> None:
        dicom(syntax=syntax, hu_ZYX=WIDE_HU)(folder)
        file = next((folder / "in").glob(f"*_{MIDDLE}"))
        file.write_bytes(change(file.read_bytes()))

    return build


def in_syntax(uid: str) -> Build:
    """RLE pixels under the name of another transfer syntax."""

    def build(folder: Path) -> None:
        from pydicom import dcmread
        from pydicom.uid import UID

        dicom(syntax=RLE)(folder)
        for file in (folder / "in").iterdir():
            dataset = dcmread(file)
            dataset.file_meta.TransferSyntaxUID = UID(uid)
            dataset.save_as(file)

    return build


def in_private_syntax(folder: Path) -> None:
    dicom(syntax=RLE)(folder)
    for file in (folder / "in").iterdir():
        file.write_bytes(file.read_bytes().replace(RLE.encode() + b"\0", b"1.2.3.4".ljust(20, b"\0"), 1))


def zeros_behind(marker: bytes, count: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        start = data.index(marker)
        return data[:start] + bytes(count) + data[start + count :]

    return change


def named(build: Build, name: str) -> Build:
    """The middle slice's file under another name."""

    def renamed(folder: Path) -> None:
        build(folder)
        next((folder / "in").glob(f"*_{MIDDLE}")).rename(folder / "in" / name)

    return renamed


DICOM_CASES = [
    Case(
        "a localizer", "dicom", ("localizer",),
        dicom(everywhere(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])),
        dicom(everywhere(SeriesDescription="LOCALIZER")),
    ),
    Case(
        "a secondary capture by its class", "dicom", ("secondary_capture",),
        one_file(everywhere(SOPClassUID=STORAGE + "7")),
        dicom(everywhere(ImageType=["DERIVED", "SECONDARY", "AXIAL"])),
    ),
    Case(
        "a secondary capture by its image type", "dicom", ("secondary_capture",),
        dicom(everywhere(ImageType=["DERIVED", "SECONDARY", "SCREEN SAVE"])),
        dicom(everywhere(ImageType=["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"])),
    ),
    Case(
        "a dose report", "dicom", ("dose_report",),
        one_file(everywhere(SOPClassUID=STORAGE + "88.67", Modality="SR")),
        dicom(everywhere(SeriesDescription="Dose Report")),
    ),
    Case(
        "a structured report", "dicom", ("structured_report",),
        one_file(everywhere(SOPClassUID=STORAGE + "88.33", Modality="SR")),
        dicom(everywhere(SeriesDescription="SR")),
    ),
    Case(
        "a presentation state", "dicom", ("presentation_state",),
        one_file(everywhere(SOPClassUID=STORAGE + "11.1", Modality="PR")),
        dicom(everywhere(PresentationLUTShape="IDENTITY")),
    ),
    Case(
        "a segmentation", "dicom", ("segmentation",),
        one_file(everywhere(SOPClassUID=STORAGE + "66.4", Modality="SEG")),
        dicom(everywhere(ImageType=["DERIVED", "PRIMARY", "AXIAL", "SEGMENTED"])),
    ),
    Case(
        "a structure set", "dicom", ("rt_object",),
        one_file(everywhere(SOPClassUID=STORAGE + "481.3", Modality="RTSTRUCT")),
        dicom(everywhere(SeriesDescription="RTPLAN")),
    ),
    Case(
        "a dose grid", "dicom", ("rt_object",),
        one_file(everywhere(SOPClassUID=STORAGE + "481.2", Modality="RTDOSE", NumberOfFrames=1)),
        dicom(everywhere(NumberOfFrames=1)),
    ),
    Case(
        "a PDF inside DICOM", "dicom", ("pdf",),
        one_file(everywhere(SOPClassUID=STORAGE + "104.1", Modality="DOC")),
        dicom(everywhere(SeriesDescription="PDF")),
    ),
    Case(
        "a registration", "dicom", ("not_an_image",),
        one_file(everywhere(SOPClassUID=STORAGE + "66.1", Modality="REG")),
        dicom(everywhere(FrameOfReferenceUID="1.2.3")),
    ),
    Case(
        "colour samples", "dicom", ("color_image",),
        one_file(colour),
        dicom(everywhere(PhotometricInterpretation="MONOCHROME1")),
    ),
    Case(
        "a colour palette", "dicom", ("color_image",),
        dicom(everywhere(PhotometricInterpretation="PALETTE COLOR")),
        dicom(everywhere(SamplesPerPixel=1)),
    ),
    Case(
        "a magnetic resonance series", "dicom", ("not_ct_modality",),
        dicom(everywhere(SOPClassUID=STORAGE + "4", Modality="MR")),
        dicom(everywhere(Modality="ct")),
    ),
    Case(
        "an enhanced magnetic resonance object", "dicom", ("not_ct_modality",),
        one_file(everywhere(SOPClassUID=STORAGE + "4.1", Modality="MR", NumberOfFrames=16)),
        dicom(everywhere(Modality="CT", ScanningSequence="GR")),
    ),
    Case(
        "a positron emission series under the modality CT", "dicom", ("not_ct_modality",),
        dicom(everywhere(SOPClassUID=STORAGE + "128")),
        dicom(everywhere(Units="HU")),
    ),
    Case(
        "labels as a CT series", "dicom", ("label_map",),
        dicom(hu_ZYX=LABELS, intercept=0.0),
        dicom(hu_ZYX=HU // 100 * 100),
    ),
    Case(
        "pixel data that are two bytes short", "dicom", ("truncated",),
        dicom(pixels_of_middle(lambda data: data[:-2])),
        dicom(pixels_of_middle(lambda data: data + bytes(2))),
    ),
    Case(
        "a compressed slice that was cut", "dicom", ("truncated",),
        one_file_changed(lambda data: data[:-200], JPEG_2000),
        dicom(syntax=JPEG_2000, hu_ZYX=WIDE_HU),
    ),
    Case(
        "no rows", "dicom", ("corrupt",),
        dicom(everywhere(Rows=0)),
        dicom(everywhere(SliceThickness=None)),
    ),
    Case(
        "a transfer syntax of films", "dicom", ("unsupported_transfer_syntax",),
        in_syntax("1.2.840.10008.1.2.4.100"),
        dicom(syntax=JPEG_LS),
    ),
    Case(
        "a private transfer syntax", "dicom", ("unsupported_transfer_syntax",),
        in_private_syntax,
        dicom(syntax=RLE),
    ),
    Case(
        "a JPEG 2000 slice without its markers", "dicom", ("decoder_failed",),
        one_file_changed(zeros_behind(b"\xff\x4f\xff\x51", 40), JPEG_2000),
        dicom(syntax=JPEG_2000, hu_ZYX=WIDE_HU),
    ),
    Case(
        "a JPEG-LS slice without its markers", "dicom", ("decoder_failed",),
        one_file_changed(zeros_behind(b"\xff\xd8\xff\xf7", 20), JPEG_LS),
        dicom(syntax=JPEG_LS),
    ),
    Case(
        "no position in one slice", "dicom", ("missing_geometry",),
        dicom(at_middle(ImagePositionPatient=None)),
        dicom(at_middle(SliceLocation=-1.0)),
    ),
    Case(
        "no orientation", "dicom", ("missing_geometry",),
        dicom(everywhere(ImageOrientationPatient=None)),
        dicom(everywhere(PatientPosition="")),
    ),
    Case(
        "pixels without extent", "dicom", ("missing_geometry",),
        dicom(everywhere(PixelSpacing=[0, 0.7])),
        dicom(everywhere(PixelSpacing=[0.001, 0.7])),
    ),
    Case(
        "a missing slice", "dicom", ("missing_slices",),
        without_slices(MIDDLE),
        without_slices(17),
    ),
    Case(
        "two missing slices", "dicom", ("missing_slices",),
        without_slices(4, 11, hu_ZYX=ct_hu((19, 24, 30))),
        without_slices(0, 17),
    ),
    Case(
        "a step that is 1.1 % too long", "dicom", ("uneven_spacing",),
        dicom(moved_from_middle(0.011 * 2.5)),
        dicom(moved_from_middle(0.009 * 2.5)), within_mm=0.03,
    ),
    Case(
        "a thin step that is 0.012 mm too short", "dicom", ("uneven_spacing",),
        dicom(moved_from_middle(-0.012), spacing_zyx_mm=(0.5, 0.8, 0.7)),
        dicom(moved_from_middle(-0.009), spacing_zyx_mm=(0.5, 0.8, 0.7)), within_mm=0.01,
    ),
    Case(
        "a slice beside its copy with another pixel", "dicom", ("duplicate_position",),
        with_a_copy_of_the_middle(one_pixel),
        with_a_copy_of_the_middle(lambda dataset: None),
    ),
    Case(
        "a slice beside its copy with another rescale", "dicom", ("duplicate_position",),
        with_a_copy_of_the_middle(lambda dataset: setattr(dataset, "RescaleIntercept", -1000)),
        with_a_copy_of_the_middle(lambda dataset: setattr(dataset, "InstanceNumber", 1)),
    ),
    Case(
        "a gantry tilt of 0.07 degrees", "dicom", ("gantry_tilt",),
        dicom(tilted(0.07)),
        dicom(tilted(0.05)),
    ),
    Case(
        "a slice turned by 0.07 degrees", "dicom", ("inconsistent_orientation",),
        dicom(turned_at_middle(0.07)),
        dicom(turned_at_middle(0.05)),
    ),
    Case(
        "a slice with fewer columns", "dicom", ("inconsistent_shape",),
        dicom(narrower_middle),
        dicom(),
    ),
    Case(
        "a slice whose last pixel is 0.12 mm further", "dicom", ("inconsistent_shape",),
        dicom(at_middle(PixelSpacing=[0.8, 0.704])),
        dicom(at_middle(PixelSpacing=[0.8, 0.703])), within_mm=0.1,
    ),
    Case(
        "rows that are not at a right angle to columns", "dicom", ("sheared_affine",),
        dicom(sheared_rows(0.002)),
        dicom(sheared_rows(0.0008)),
    ),
    Case(
        "a slice 0.11 mm beside the others", "dicom", ("ambiguous_split",),
        dicom(sideways_at_middle(0.11)),
        dicom(sideways_at_middle(0.09)), within_mm=0.1,
    ),
    Case(
        "a slice of another kernel", "dicom", ("ambiguous_split",),
        dicom(lambda n, dataset: setattr(dataset, "ConvolutionKernel", "B70f" if n == MIDDLE else "B30f")),
        dicom(lambda n, dataset: setattr(dataset, "FilterType", "WEDGE" if n == MIDDLE else "BODY")),
    ),
    Case(
        "one series of two patients", "dicom", ("ambiguous_split",),
        dicom(of_two_patients(["one", "two"])),
        dicom(of_two_patients(["one", "one "])),
    ),
    Case(
        "a slope beyond float32", "dicom", ("not_finite",),
        dicom(everywhere(RescaleSlope="1e38")),
        dicom(everywhere(RescaleSlope="1e30")),
    ),
    Case(
        "slope and intercept in every other slice", "dicom", ("inconsistent_rescale",),
        dicom(without_rescale_in_every_other),
        dicom(hu_ZYX=HU // 2 * 2, slopes=(1.0, 0.5, 2.0)),
    ),
    Case(
        "an intercept in every other slice", "dicom", ("inconsistent_rescale",),
        dicom(without_intercept_in_every_other),
        dicom(without_slopes),
    ),
    Case(
        "a slope of zero", "dicom", ("inconsistent_rescale",),
        dicom(everywhere(RescaleSlope=0)),
        dicom(slopes=(0.5,)),
    ),
    Case(
        "a lookup table instead of a slope", "dicom", ("inconsistent_rescale",),
        dicom(lookup_table("ModalityLUTSequence")),
        dicom(lookup_table("VOILUTSequence")),
    ),
    Case(
        "left-aligned pixels", "dicom", ("unsupported_dtype",),
        dicom(everywhere(BitsStored=12)),
        dicom(everywhere(BitsStored=12, HighBit=11)),
    ),
    Case(
        "fifteen slices", "dicom", ("too_few_slices",),
        dicom(hu_ZYX=HU[:15]),
        dicom(hu_ZYX=HU),
    ),
]  # fmt: skip
