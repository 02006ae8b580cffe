"""NRRD and MetaImage to volumes, against SimpleITK reading the same file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]
SUFFIXES = [".nrrd", ".nhdr", ".mha", ".mhd"]
DIRECTIONS = {
    "identity": np.eye(3),
    "left-handed": np.diag([-1.0, 1.0, 1.0]),
    "permuted": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]),
    "oblique": np.asarray(Rotation.from_euler("xyz", [14, -9, 23], degrees=True).as_matrix()),
}


def itk_image(hu_ZYX: NDArray[Any], directions: NDArray[np.float64]) -> Any:
    image = sitk.GetImageFromArray(hu_ZYX)
    image.SetSpacing((0.75, 0.875, 2.5))
    image.SetOrigin((-101.5, 42.25, -730.0))
    image.SetDirection(directions.ravel().tolist())
    return image


def volume_of(found: Volume | Refusal) -> Volume:
    assert isinstance(found, Volume), found
    return found


def reasons_of(found: Volume | Refusal) -> set[str]:
    assert isinstance(found, Refusal)
    return set(found.reasons)


def change(path: Path, old: str, new: str) -> Path:
    data = path.read_bytes()
    assert data.count(old.encode()) == 1
    path.write_bytes(data.replace(old.encode(), new.encode()))
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", DIRECTIONS)
def test_voxels_lie_where_simpleitk_puts_them(
    name: str, suffix: str, compressed: bool, make_ct: Any, read_one: Read, assert_same_in_space: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(make_ct(), DIRECTIONS[name]), str(path), useCompression=compressed)
    volume = volume_of(read_one(tmp_path))
    itk = sitk.ReadImage(str(path))
    assert volume.voxels.dtype == np.int16
    assert_same_in_space(volume, sitk.GetArrayFromImage(itk), itk.TransformIndexToPhysicalPoint)
    assert volume.flags == (("oblique", "patient_unknown") if name == "oblique" else ("patient_unknown",))


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32, np.float64])
def test_integers_of_any_stored_type_come_out_as_int16(
    dtype: Any, suffix: str, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    hu = make_ct() + (1024 if dtype == np.uint16 else 0)
    sitk.WriteImage(itk_image(hu.astype(dtype), np.eye(3)), str(tmp_path / f"a{suffix}"))
    volume = volume_of(read_one(tmp_path))
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, hu)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_big_endian_data_are_read(
    suffix: str, make_ct: Any, read_one: Read, assert_same_in_space: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(make_ct(), np.eye(3)), str(path))
    (tmp_path / "a.raw").write_bytes(make_ct().astype(">i2").tobytes())
    if suffix == ".nhdr":
        change(path, "endian: little", "endian: big")
    else:
        change(path, "BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True")
    itk = sitk.ReadImage(str(path))
    assert_same_in_space(volume_of(read_one(tmp_path)), sitk.GetArrayFromImage(itk), itk.TransformIndexToPhysicalPoint)


@pytest.mark.parametrize(("space", "signs"), [("RAS", (-1, -1, 1)), ("left-anterior-superior", (1, -1, 1))])
def test_nrrd_spaces_are_turned_into_lps(space: str, signs: Any, make_ct: Any, read_one: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(itk_image(make_ct(), np.eye(3)), str(path))
    change(path, "space: left-posterior-superior", f"space: {space}")
    found = np.array(volume_of(read_one(tmp_path)).attributes["source_ijk_to_lps_mm"]).reshape(4, 4)
    assert np.allclose(found[:3, 3], np.array(signs) * (-101.5, 42.25, -730.0))
    assert np.allclose(found[:3, :3], np.diag(signs) @ np.diag([0.75, 0.875, 2.5]))


def test_nrrd_units_of_length_are_turned_into_millimetres_and_others_refused(
    make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    path = tmp_path / "a.nrrd"
    sitk.WriteImage(itk_image(make_ct(), np.eye(3)), str(path))
    change(path, "space: left-posterior-superior\n", 'space: left-posterior-superior\nspace units: "cm" "cm" "cm"\n')
    affine = np.array(volume_of(read_one(tmp_path)).attributes["source_ijk_to_lps_mm"]).reshape(4, 4)
    assert np.allclose(np.diag(affine), (7.5, 8.75, 25.0, 1.0))
    assert np.allclose(affine[:3, 3], (-1015.0, 422.5, -7300.0))
    assert reasons_of(read_one(change(path, '"cm" "cm" "cm"', '"cm" "mm" "cm"'))) == {"missing_geometry"}
    assert reasons_of(read_one(change(path, '"cm" "mm" "cm"', '"furlong" "furlong" "furlong"'))) == {"missing_geometry"}


@pytest.mark.parametrize(
    ("suffix", "old", "new", "lacking"),
    [
        (".nrrd", "space: left-posterior-superior\n", "space: scanner-xyz\n", "space"),
        (".nrrd", "space origin: (-101.5,42.25,-730)\n", "", "space origin"),
        (".nrrd", "space directions: (0.75,0,0) (0,0.875,0) (0,0,2.5)", "spacings: 0.75 0.875 2.5", "space directions"),
        (".mha", "ElementSpacing = 0.75 0.875 2.5\n", "", "spacing"),
        (".mha", "TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "", "directions"),
        (".mha", "Offset = -101.5 42.25 -730\n", "Offset = -101.5 nan -730\n", "offset"),
    ],
)
def test_geometry_that_is_not_said_is_not_assumed(
    suffix: str, old: str, new: str, lacking: str, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(make_ct(), np.eye(3)), str(path))
    refusal = read_one(change(path, old, new))
    assert reasons_of(refusal) == {"missing_geometry"}
    assert isinstance(refusal, Refusal)
    assert refusal.evidence["lacking"] == [lacking]


@pytest.mark.parametrize(
    ("suffix", "old", "new"),
    [
        (".nrrd", "sizes: 40 36 20", "sizes: 40000 36000 20000"),
        (".mha", "DimSize = 40 36 20", "DimSize = 40000 36000 20000"),
    ],
)
def test_a_header_that_promises_more_than_its_file_can_hold_takes_no_memory(
    suffix: str, old: str, new: str, make_ct: Any, read_one: Read, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(make_ct(), np.eye(3)), str(path))
    assert reasons_of(read_one(change(path, old, new))) == {"truncated"}
