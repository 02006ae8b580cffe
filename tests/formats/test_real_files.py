"""Every row of data/real/SOURCES.md: what it must become, and where its voxels lie by nibabel's or SimpleITK's reading.

Rows are looked at one by one (a row's folder is its own root) and once all together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine

from semgen_platform import geometry
from semgen_platform.formats.dicom import Slice, read_headers
from semgen_platform.formats.pixels import PixelReader
from semgen_platform.formats.place import Place
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.slices import Grid, regular_grid
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.values import voxel_flags
from semgen_platform.volume import Refusal, Volume

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real files (../shared/data/real) are not here")

SCANS = {  # path: shape and spacing of the canonical volume, flags of file and voxels
    "totalseg_abdomen/example_ct.nii.gz": ((112, 101, 122), (3.0, 3.0, 3.0), {"patient_unknown"}),
    "totalseg_abdomen_crop_with_labels/example_ct_sm.nii.gz": (
        (30, 101, 122), (3.0, 3.0, 3.0), {"patient_unknown", "low_coverage"},
    ),
    "pyradiomics_lung1_nrrd/lung1_crop.nrrd": (
        (26, 512, 512), (5.0, 0.5703125, 0.5703125), {"patient_unknown", "thick_slices"},
    ),
    "dcmqa_philips_bone_mha/bone_crop.mha": (
        (18, 352, 288), (1.0, 0.451171875, 0.451171875), {"patient_unknown", "low_coverage"},
    ),
    "dcmqa_philips_j2k": ((28, 512, 512), (5.0, 0.451171875, 0.451171875), {"thick_slices"}),
    "slicer_cthead_dicom": ((93, 64, 64), (1.5, 3.2, 3.2), {"not_hu_like"}),
    "torchio_mr_tagged_ct": ((17, 128, 88), (2.0, 2.0, 2.0), {"not_hu_like", "low_coverage"}),
    "totalseg_mr/example_mr_sm.nii.gz": (
        (20, 91, 117), (3.0, 3.0, 3.0), {"patient_unknown", "not_ct", "low_coverage"},
    ),
    "nifti_big_endian_mr/anatomical.nii": (
        (25, 41, 33), (2.0, 2.0, 2.0), {"patient_unknown", "not_ct", "low_coverage"},
    ),
}  # fmt: skip

REFUSALS = {  # path: reasons
    "totalseg_abdomen_crop_with_labels/example_seg.nii.gz": ("label_map",),
    "pyradiomics_lung1_nrrd/lung1_crop_label.nrrd": ("label_map",),
    "dcmqi_ct3slice_seg/liver.dcm": ("segmentation",),
    "dcmqi_ct3slice_seg/liver_seg.nrrd": ("label_map", "too_few_slices"),
    "dcmqi_23x38x3/image": ("too_few_slices",),
    "dcmqi_23x38x3/multiframe": ("too_few_slices",),
    "dcmqi_23x38x3/seg": ("segmentation",),
    "dcmqa_philips_localizer": ("localizer",),
    "dcmqa_philips_secondary_capture": ("secondary_capture",),
    "pydicom_dicomdir/DICOMDIR": ("not_an_image",),
    "pydicom_dicomdir/77654033/CR1": ("not_ct_modality",),
    "pydicom_dicomdir/77654033/CT2": ("missing_slices", "too_few_slices"),
    "pydicom_dicomdir/98892001/CT2N": ("localizer",),
    "pydicom_dicomdir/98892001/CT5N": ("too_few_slices",),
    "pydicom_dicomdir/98892003/MR700": ("not_ct_modality",),
    "pydicom_misc/rtstruct.dcm": ("rt_object",),
    "pydicom_misc/rtdose.dcm": ("rt_object",),
    "pydicom_misc/reportsi.dcm": ("structured_report",),
    "pydicom_misc/CT_small.dcm": ("too_few_slices",),
    "pydicom_misc/no_meta.dcm": ("corrupt",),
    "pydicom_misc/693_J2KI.dcm": ("too_few_slices",),
    "pydicom_misc/MR_small_bigendian.dcm": ("not_ct_modality",),
    "cornerstone_ct_syntaxes": ("duplicate_position", "too_few_slices"),
    "nifti_4d/example4d.nii.gz": ("four_d",),
    "broken/example_ct_truncated.nii.gz": ("truncated",),
    "broken/CTImage_j2k_truncated.dcm": ("truncated", "too_few_slices"),
    "broken/MR_truncated.dcm": ("not_ct_modality",),
    "not_images/README.txt": ("not_an_image",),
    "not_images/report.pdf": ("pdf",),
    "SOURCES.md": ("not_an_image",),
    "slicer_cthead_dicom/LICENSE-Slicer.txt": ("not_an_image",),
}


def read_images(path: str | Path, **options: Any) -> Volume | Refusal:
    """Read the one source of a row that is no licence text."""
    sources = [s for s in list_sources(REAL / path) if s.kind != "other" or (REAL / path).is_file()]
    assert len(sources) == 1
    return read_source(sources[0], **options)


@pytest.mark.parametrize("path", SCANS)
def test_a_row_that_is_a_scan_has_the_shape_spacing_and_flags_of_its_row(path: str) -> None:
    shape_zyx, spacing_zyx_mm, flags = SCANS[path]
    volume = read_images(path)
    assert isinstance(volume, Volume), volume
    assert volume.shape_zyx == shape_zyx
    assert volume.spacing_zyx_mm == pytest.approx(spacing_zyx_mm, abs=1e-4)
    assert volume.voxels.dtype == np.int16
    assert {*volume.flags, *voxel_flags(volume)} == flags


@pytest.mark.parametrize("path", SCANS)
def test_its_voxels_lie_where_an_independent_reader_puts_them(
    path: str, assert_same_in_space: Callable[..., None]
) -> None:
    volume = read_images(path)
    if ".nii" in path:
        image: Any = nibabel.load(REAL / path)
        lps = np.array([-1.0, -1.0, 1.0])
        assert_same_in_space(volume, np.asanyarray(image.dataobj).T, lambda ijk: lps * apply_affine(image.affine, ijk))
        return
    itk = sitk.ReadImage(str(REAL / path)) if (REAL / path).is_file() else itk_series(REAL / path)
    assert_same_in_space(volume, sitk.GetArrayFromImage(itk), itk.TransformIndexToPhysicalPoint)


def itk_series(folder: Path) -> Any:
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("path", REFUSALS)
def test_a_row_that_is_no_scan_has_the_reasons_of_its_row(path: str) -> None:
    refusal = read_images(path)
    assert isinstance(refusal, Refusal), refusal
    assert refusal.reasons == REFUSALS[path]


def test_all_of_it_together_ends_as_scans_and_reasons_with_every_file_in_one_source() -> None:
    sources = list(list_sources(REAL))
    files = {place.path for source in sources for place in source.files}
    assert sorted(files) == sorted(str(file) for file in REAL.rglob("*") if file.is_file())
    assert sum(isinstance(read_source(source), Volume) for source in sources) == len(SCANS)


def test_the_crop_has_the_voxels_of_the_whole_but_another_place() -> None:
    whole, crop = read_images("totalseg_abdomen"), read_images("totalseg_abdomen_crop_with_labels/example_ct_sm.nii.gz")
    assert isinstance(whole, Volume)
    assert isinstance(crop, Volume)
    assert np.array_equal(whole.voxels[82:112], crop.voxels)
    assert not np.allclose(whole.ijk_to_lps_mm[2, 3] + 82 * 3.0, crop.ijk_to_lps_mm[2, 3])


def slices_of(folder: str) -> list[Slice]:
    return [item for file in sorted((REAL / folder).iterdir()) for item in read_headers(Place(str(file)))]


def test_one_slice_in_six_transfer_syntaxes_decodes_to_the_same_pixels() -> None:
    first, *others = (PixelReader().stored(item.pixels) for item in slices_of("cornerstone_ct_syntaxes"))
    assert len(others) == 5
    assert all(np.array_equal(first, other) for other in others)
    assert (int(first.min()) - 1024, int(first.max()) - 1024) == (-3024, 1378)


def test_the_small_series_keeps_rows_apart_from_columns() -> None:
    slices = slices_of("dcmqi_23x38x3/image")
    grid = regular_grid([item.plane for item in slices])
    assert isinstance(grid, Grid)
    assert slices[0].plane.shape_yx == (38, 23)
    assert geometry.spacing_zyx_mm(grid.ijk_to_lps_mm) == pytest.approx((2.5, 0.7, 0.7))


def test_the_small_series_and_its_multiframe_form_agree() -> None:
    single, multi = slices_of("dcmqi_23x38x3/image"), slices_of("dcmqi_23x38x3/multiframe")
    grids = [regular_grid([item.plane for item in slices]) for slices in (single, multi)]
    assert isinstance(grids[0], Grid)
    assert isinstance(grids[1], Grid)
    assert np.allclose(grids[0].ijk_to_lps_mm, grids[1].ijk_to_lps_mm)
    reader = PixelReader()
    for one, other in zip(grids[0].order, grids[1].order, strict=True):
        assert np.array_equal(reader.stored(single[one].pixels), reader.stored(multi[other].pixels))
        assert single[one].rescale == multi[other].rescale


@pytest.mark.parametrize(
    ("archive", "reasons"),
    [
        ("dcmqa_ge_hispeed_tilt_uneven.tar.gz", ("uneven_spacing", "gantry_tilt")),
        ("dicom2nifti_noise_not_a_volume.tar.gz", ("duplicate_position", "too_few_slices")),
        ("dicomnumpy_dupe_positions.zip", ("uneven_spacing", "duplicate_position", "too_few_slices")),
        ("dcmqi_ct3slice.tar.gz", ("too_few_slices",)),
        ("panimg_siemens_phantom_7slices.zip", ("too_few_slices",)),
    ],
)
def test_the_series_of_an_archive_have_the_reasons_of_its_row(archive: str, reasons: tuple[str, ...]) -> None:
    (source,) = list_sources(REAL / archive)
    refusal = read_source(source)
    assert isinstance(refusal, Refusal)
    assert refusal.reasons == reasons


def test_the_tilted_series_is_measured_as_its_row_says() -> None:
    (source,) = list_sources(REAL / "dcmqa_ge_hispeed_tilt_uneven.tar.gz")
    refusal = read_source(source)
    assert isinstance(refusal, Refusal)
    assert refusal.evidence["tilt_deg"] == pytest.approx(18.5, abs=0.01)
    assert refusal.evidence["step_mm"] == pytest.approx(4.002, abs=1e-3)
    assert sorted({round(gap, 3) for gap in refusal.evidence["gaps_mm"]}) == pytest.approx([1.081, 6.999])


def test_overlapping_slices_are_spaced_by_position_and_their_padding_is_known() -> None:
    (source,) = list_sources(REAL / "dcmqi_ct3slice.tar.gz")
    volume = read_source(source, min_slices=3)
    assert isinstance(volume, Volume)
    assert volume.spacing_zyx_mm[0] == pytest.approx(1.0)
    assert volume.attributes["slice_thickness_mm"] == 1.25
    assert volume.padding_hu == -3024


@pytest.mark.parametrize("canary", ["TEST^3D", "Gent", "1900"])
def test_no_identity_of_a_real_header_is_in_the_volume(canary: str) -> None:
    (source,) = list_sources(REAL / "panimg_siemens_phantom_7slices.zip")
    volume = read_source(source, min_slices=7)
    assert isinstance(volume, Volume)
    assert canary.lower() not in repr(volume.attributes).lower()
