"""NIfTI to volumes and back, against nibabel and SimpleITK reading the same file."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from semgen_platform.formats.nifti import write_nifti
from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]
RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def rotated(*degrees_xyz: float) -> NDArray[np.float64]:
    return np.asarray(Rotation.from_euler("xyz", degrees_xyz, degrees=True).as_matrix())


AFFINES = {  # RAS
    "RAS": np.diag([0.7, 0.8, 2.5]),
    "LPS": np.diag([-0.7, -0.8, 2.5]),
    "LAS, left-handed": np.diag([-0.7, 0.8, 2.5]),
    "RAI, left-handed": np.diag([0.7, 0.8, -2.5]),
    "permuted": np.array([[0, 0, 2.5], [0.7, 0, 0], [0, -0.8, 0]]),
    "oblique": rotated(14, -9, 23) @ np.diag([0.7, 0.8, 2.5]),
    "oblique, left-handed": rotated(-31, 12, 40) @ np.diag([-0.7, 0.8, 2.5]),
}


def write_image(path: Path, data_XYZ: Any, linear: Any, header: Any = None) -> Any:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-101.5, 42.25, -730.0)
    image = nibabel.Nifti1Image(data_XYZ, affine, header)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nibabel.save(image, path)
    return image


def loaded(path: Path) -> Any:
    return nibabel.load(path)


def volume_of(found: Volume | Refusal) -> Volume:
    assert isinstance(found, Volume), found
    return found


def reasons_of(found: Volume | Refusal) -> set[str]:
    assert isinstance(found, Refusal)
    return set(found.reasons)


@pytest.mark.parametrize("name", AFFINES)
def test_voxels_lie_where_nibabel_and_simpleitk_put_them(
    name: str, make_ct: Any, read_one: Read, assert_same_in_space: Any, tmp_path: Path
) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(path, make_ct().T, AFFINES[name])
    volume = volume_of(read_one(path))
    image, itk = loaded(path), sitk.ReadImage(str(path))
    array_ZYX = np.asanyarray(image.dataobj).T
    assert_same_in_space(volume, array_ZYX, lambda ijk: RAS_TO_LPS * apply_affine(image.affine, ijk))
    assert_same_in_space(volume, sitk.GetArrayFromImage(itk), itk.TransformIndexToPhysicalPoint)
    assert (volume.ijk_to_lps_mm.diagonal() > 0).all()
    assert ("oblique" in volume.flags) == ("oblique" in name)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", "<i4", ">i4", "<f4", "<f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_integers_come_out_as_int16_from_any_stored_type_and_byte_order(
    dtype: str, suffix: str, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    hu = make_ct() + (1024 if "u" in dtype else 0)
    header = nibabel.Nifti1Header(endianness=dtype[0])
    header.set_data_dtype(dtype)
    write_image(tmp_path / f"a{suffix}", hu.T.astype(dtype), np.diag([-0.7, -0.8, 2.5]), header)
    volume = volume_of(read_one(tmp_path))
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.flags.c_contiguous
    assert np.array_equal(volume.voxels, hu)


def test_nifti_2_and_pairs_are_read(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    for name, kind in (("two.nii", nibabel.Nifti2Image), ("pair.hdr", nibabel.Nifti1Pair)):
        (tmp_path / name).mkdir()
        nibabel.save(kind(make_ct().T, affine), tmp_path / name / name)
        assert np.array_equal(volume_of(read_one(tmp_path / name)).voxels, make_ct())


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (2.0, -1024.0), (0.5, 3.0), (0.1, -7.7)])
def test_slope_and_intercept_are_applied_as_nibabel_does(
    slope: float, intercept: float, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    stored = (make_ct().T + 1024).astype(np.int16)
    image = nibabel.Nifti1Image(stored, np.diag([-0.7, -0.8, 2.5, 1]))
    image.header.set_slope_inter(slope, intercept)
    raw = image.header
    with (tmp_path / "a.nii").open("wb") as stream:  # by hand, since nibabel's writer chooses its own scaling
        raw["vox_offset"], raw["magic"] = 352, b"n+1"
        stream.write(raw.binaryblock + bytes(4) + stored.tobytes(order="F"))
    expected = np.asarray(loaded(tmp_path / "a.nii").dataobj).T
    volume = volume_of(read_one(tmp_path))
    assert np.array_equal(volume.voxels, expected.astype(np.float32))
    assert volume.voxels.dtype == (np.int16 if slope in (1.0, 2.0) else np.float32)


def test_sform_goes_before_qform_and_their_conflict_is_flagged(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(make_ct().T, None)
    sform, qform = np.diag([-0.7, -0.8, 2.5, 1]), np.diag([-0.7, -0.8, 2.5, 1])
    qform[2, 3] = 5.0
    image.set_sform(sform, code=1)
    image.set_qform(qform, code=1)
    nibabel.save(image, tmp_path / "a.nii")
    volume = volume_of(read_one(tmp_path))
    assert np.allclose(volume.ijk_to_lps_mm, np.diag([0.7, 0.8, 2.5, 1]), atol=1e-6)
    assert "header_conflict" in volume.flags


def test_agreeing_forms_are_not_flagged_and_the_qform_alone_is_enough(
    make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Image(make_ct().T, None)
    image.set_qform(np.diag([-0.7, -0.8, 2.5, 1]), code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "q.nii")
    only_qform = volume_of(read_one(tmp_path))
    assert only_qform.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))
    write_image(tmp_path / "q.nii", make_ct().T, AFFINES["oblique"])
    assert "header_conflict" not in volume_of(read_one(tmp_path)).flags


def test_positions_in_metres_are_turned_into_millimetres(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(make_ct().T, np.diag([-0.0007, -0.0008, 0.0025, 1]))
    image.header.set_xyzt_units(xyz="meter")
    nibabel.save(image, tmp_path / "a.nii")
    assert volume_of(read_one(tmp_path)).spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))


def test_a_trailing_axis_of_one_is_dropped_and_a_fourth_axis_refused(
    make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    for name, data in (("one", make_ct().T[..., None]), ("two", np.stack([make_ct().T] * 2, axis=-1))):
        (tmp_path / name).mkdir()
        nibabel.save(nibabel.Nifti1Image(data, np.diag([-0.7, -0.8, 2.5, 1])), tmp_path / name / "a.nii")
    assert volume_of(read_one(tmp_path / "one")).shape_zyx == make_ct().shape
    refusal = read_one(tmp_path / "two")
    assert reasons_of(refusal) == {"four_d"}
    assert isinstance(refusal, Refusal)
    assert refusal.evidence["shape"] == [40, 36, 20, 2]


def test_values_that_are_not_finite_are_counted(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    data = make_ct().T.astype(np.float32)
    data[3, 4, 5], data[3, 4, 6] = np.nan, np.inf
    write_image(tmp_path / "a.nii", data, AFFINES["RAS"])
    refusal = read_one(tmp_path)
    assert reasons_of(refusal) == {"not_finite"}
    assert isinstance(refusal, Refusal)
    assert refusal.evidence["voxels"] == 2


def test_a_header_that_promises_more_than_a_file_can_hold_takes_no_memory(
    make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "a.nii.gz", make_ct().T, AFFINES["RAS"])
    header = image.header.copy()
    header["dim"][1:4] = 30000
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1000)))
    assert reasons_of(read_one(tmp_path)) == {"truncated"}


def test_a_wrong_checksum_is_corrupt_though_every_voxel_inflates(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_image(path, make_ct().T, AFFINES["RAS"])
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in the CRC
    path.write_bytes(data)
    assert loaded(path).get_fdata().shape  # which reads no further than the voxels
    assert reasons_of(read_one(path)) == {"corrupt"}


def test_gzip_in_several_members_and_without_extension_is_read(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii", make_ct().T, np.diag([-0.7, -0.8, 2.5]))
    data = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii").rename(tmp_path / "plain")
    (tmp_path / "members").write_bytes(b"".join(gzip.compress(part) for part in (data[:9000], data[9000:])))
    for name in ("plain", "members"):
        assert np.array_equal(volume_of(read_one(tmp_path / name)).voxels, make_ct())


def test_text_of_the_header_goes_nowhere(make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header["descrip"] = header["aux_file"] = b"CANARY"
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"CANARY"))
    write_image(tmp_path / "CANARY.nii", make_ct().T, AFFINES["RAS"], header)
    volume = volume_of(read_one(tmp_path))
    assert "CANARY" not in repr(volume.attributes)
    assert set(volume.attributes) == {"orientation", "source_ijk_to_lps_mm"}
    assert volume.flags == ("patient_unknown",)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_written_file_holds_the_exact_voxels_at_the_exact_places(
    suffix: str, dtype: Any, make_ct: Any, read_one: Read, assert_same_in_space: Any, tmp_path: Path
) -> None:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotated(3, -4, 5) @ np.diag([0.7, 0.8, 2.5]), (-201.123, -155.5, -1730.25)
    voxels = make_ct().astype(dtype)
    voxels[3, 4, 5] += 0 if dtype == np.int16 else 0.125
    path = tmp_path / f"out{suffix}"
    write_nifti(Volume(voxels=voxels, ijk_to_lps_mm=affine), path)
    itk, image = sitk.ReadImage(str(path)), loaded(path)
    again = volume_of(read_one(path))
    assert image.get_data_dtype() == dtype
    assert np.array_equal(again.voxels, voxels)
    assert np.allclose(again.ijk_to_lps_mm, affine, atol=1e-4)
    assert_same_in_space(again, sitk.GetArrayFromImage(itk), itk.TransformIndexToPhysicalPoint)
    assert not again.flags[:-2], again.flags  # oblique and patient_unknown are last


def test_an_export_is_the_same_bytes_every_time(make_ct: Any, tmp_path: Path) -> None:
    volume = Volume(voxels=make_ct(), ijk_to_lps_mm=np.diag([0.7, 0.8, 2.5, 1.0]))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_nifti(volume, tmp_path / name / "scan.nii.gz")
    assert (tmp_path / "a" / "scan.nii.gz").read_bytes() == (tmp_path / "b" / "scan.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("field", "value"), [("xyzt_units", 7), ("vox_offset", np.nan), ("vox_offset", np.inf), ("dim", [3, -1, 5, 6])]
)
def test_a_header_with_a_senseless_number_is_refused_and_raises_nothing(
    field: str, value: Any, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_shape((4, 5, 6))
    header.set_data_dtype(np.int16)
    header["sform_code"], header["magic"], header["vox_offset"] = 1, b"n+1", 352
    header["srow_x"], header["srow_y"], header["srow_z"] = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0)
    if field == "dim":
        header["dim"][: len(value)] = value
    else:
        header[field] = value
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(4 + 240))
    found = read_one(tmp_path)
    assert isinstance(found, Refusal)
    assert found.reasons[0] in ("corrupt", "truncated")
