"""Broken NIfTI, NRRD and MetaImage files, and the near miss of each."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from tests.formats.broken import CT_AFFINE, HU, LABELS, NII, NII_GZ, Build, Case, file, nifti_bytes, zeroed

QFORM: dict[str, Any] = {"sform_code": 0, "qform_code": 1, "pixdim": [-1, 0.7, 0.8, 2.5, 0, 0, 0, 0]}
RGB = np.zeros(HU.T.shape, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


def sheared(cosine: float) -> NDArray[np.float64]:
    affine = CT_AFFINE.copy()
    affine[1, 2] = 2.5 * cosine
    return affine


def with_value(value: float, dtype: Any = np.float32) -> NDArray[Any]:
    voxels = HU.T.astype(dtype)
    voxels[3, 4, 5] = value
    return voxels


def pair(kind: Any, *, data_file: bool = True) -> Build:
    def build(folder: Path) -> None:
        (folder / "in").mkdir()
        nibabel.save(kind(HU.T, CT_AFFINE), folder / "in" / "a.img")
        if not data_file:
            (folder / "in" / "a.img").unlink()

    return build


NIFTI_CASES = [
    Case(
        "a mask of bytes", "nifti", ("label_map",),
        file(nifti_bytes(LABELS.T.astype(np.uint8))),
        file(nifti_bytes(((HU.T + 1024) // 8).astype(np.uint8))),
    ),
    Case(
        "a mask of floats", "nifti", ("label_map",),
        file(nifti_bytes(LABELS.T.astype(np.float32))),
        file(nifti_bytes(np.where(HU.T < -500, -1000, 40).astype(np.float32))),  # a CT without any noise
    ),
    Case(
        "two volumes", "nifti", ("four_d",),
        file(nifti_bytes(np.stack([HU.T] * 2, axis=-1))),
        file(nifti_bytes(HU.T[..., None])),
    ),
    Case(
        "coloured voxels", "nifti", ("color_image",),
        file(nifti_bytes(RGB)),
        file(nifti_bytes(((HU.T + 1024) // 8).astype(np.uint8))),
    ),
    Case(
        "a file that is a byte short", "nifti", ("truncated",),
        file(NII[:-1]),
        file(NII + bytes(1)),
    ),
    Case(
        "a gzip file cut in half", "nifti", ("truncated",),
        file(NII_GZ[: len(NII_GZ) // 2], "a.nii.gz"),
        file(gzip.compress(NII[:9000]) + gzip.compress(NII[9000:]), "a.nii.gz"),
    ),
    Case(
        "a gzip file with a voxel less than promised", "nifti", ("truncated",),
        file(gzip.compress(NII[:-2]), "a.nii.gz"),
        file(gzip.compress(NII + bytes(1000)), "a.nii.gz"),
    ),
    Case(
        "a header that promises more than the file can hold", "nifti", ("truncated",),
        file(gzip.compress(nifti_bytes(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1])), "a.nii.gz"),
        file(NII_GZ, "a.nii.gz"),
    ),
    Case(
        "an empty file", "nifti", ("truncated",),
        file(b""),
        file(NII, "a", plain="a.nii"),
    ),
    Case(
        "damage inside a gzip file", "nifti", ("corrupt",),
        file(zeroed(NII_GZ, len(NII_GZ) // 2, 200), "a.nii.gz"),
        file(NII_GZ, "a.nii.gz"),
    ),
    Case(
        "a wrong checksum", "nifti", ("corrupt",),
        file(NII_GZ[:-8] + bytes([NII_GZ[-8] ^ 1]) + NII_GZ[-7:], "a.nii.gz"),
        file(NII_GZ[:4] + b"time" + NII_GZ[8:], "a.nii.gz"),  # a header field that nothing checks
    ),
    Case(
        "more bytes behind the voxels than anybody writes", "nifti", ("corrupt",),
        file(gzip.compress(NII + bytes(2 << 20)), "a.nii.gz"),
        file(gzip.compress(NII + bytes(1000)), "a.nii.gz"),
    ),
    Case(
        "an axis of negative length", "nifti", ("corrupt",),
        file(nifti_bytes(dim=[3, -30, 24, 16, 1, 1, 1, 1])),
        file(nifti_bytes(dim=[3, 30, 24, 16, 0, 0, 0, 0])),
    ),
    Case(
        "complex voxels", "nifti", ("unsupported_dtype",),
        file(nifti_bytes(HU.T.astype(np.complex64))),
        file(nifti_bytes(HU.T.astype(np.float64))),
    ),
    Case(
        "neither sform nor qform", "nifti", ("missing_geometry",),
        file(nifti_bytes(sform_code=0)),
        file(nifti_bytes(**QFORM)),
    ),
    Case(
        "an Analyze pair", "nifti", ("missing_geometry",),
        pair(nibabel.AnalyzeImage),
        pair(nibabel.Nifti1Pair),
    ),
    Case(
        "an sform that flattens an axis", "nifti", ("singular_affine",),
        file(nifti_bytes(srow_z=[0, 0, 0, 0])),
        file(nifti_bytes(srow_z=[0, 0, -2.5, 0])),
    ),
    Case(
        "a qform that is no rotation", "nifti", ("singular_affine",),
        file(nifti_bytes(**QFORM, quatern_b=0.9, quatern_c=0.9)),
        file(nifti_bytes(**QFORM, quatern_b=0.6, quatern_c=0.8)),
    ),
    Case(
        "an sform sheared by 0.002", "nifti", ("sheared_affine",),
        file(nifti_bytes(affine=sheared(0.002))),
        file(nifti_bytes(affine=sheared(0.0008))),
    ),
    Case(
        "a voxel that is no number", "nifti", ("not_finite",),
        file(nifti_bytes(with_value(np.nan))),
        file(nifti_bytes(with_value(-0.0))),
    ),
    Case(
        "a voxel beyond float32", "nifti", ("not_finite",),
        file(nifti_bytes(with_value(1e300, np.float64))),
        file(nifti_bytes(with_value(1e30, np.float64))),
    ),
    Case(
        "an intercept that is no number", "nifti", ("inconsistent_rescale",),
        file(nifti_bytes(scl_slope=2, scl_inter=np.nan)),
        file(nifti_bytes(scl_slope=0, scl_inter=np.nan)),
    ),
    Case(
        "fifteen slices", "nifti", ("too_few_slices",),
        file(nifti_bytes(HU[:15].T)),
        file(nifti_bytes(HU.T)),
    ),
    Case(
        "a header without its data file", "nifti", ("unreadable",),
        pair(nibabel.Nifti1Pair, data_file=False),
        pair(nibabel.Nifti1Pair),
    ),
]  # fmt: skip

# --- NRRD and MetaImage ---


def itk(
    suffix: str, *edits: tuple[str, str], data: Any = None, compressed: bool = False, tail: int = 0, alone: bool = False
) -> Build:
    """A file that SimpleITK writes, with texts of its header replaced and the last `tail` bytes cut off.

    alone : without the data file beside it.
    """

    def build(folder: Path) -> None:
        (folder / "in").mkdir()
        image = sitk.GetImageFromArray(HU) if data is None else data
        image.SetSpacing((0.75, 0.875, 2.5, 1.0)[: image.GetDimension()])
        image.SetOrigin((-101.5, 42.25, -730.0, 0.0)[: image.GetDimension()])
        path = folder / "in" / f"a{suffix}"
        sitk.WriteImage(image, str(path), useCompression=compressed)
        content = path.read_bytes()
        for old, new in edits:
            assert content.count(old.encode()) == 1, (old, content[:600])
            content = content.replace(old.encode(), new.encode())
        path.write_bytes(content[: len(content) - tail])
        if alone:
            (folder / "in" / "a.raw").unlink()

    return build


def damaged(suffix: str) -> Build:
    def build(folder: Path) -> None:
        itk(suffix, compressed=True)(folder)
        path = folder / "in" / f"a{suffix}"
        data = path.read_bytes()
        path.write_bytes(zeroed(data, len(data) - 4000, 100))

    return build


def with_data_file_named(suffix: str, name: str) -> Build:
    """The data file lies where the header says, wherever that is."""

    def build(folder: Path) -> None:
        itk(suffix, ("a.raw", name))(folder)
        target = folder / "in" / name
        target.parent.mkdir(exist_ok=True)
        (folder / "in" / "a.raw").rename(target)

    return build


def image_of(voxels_ZYX: NDArray[Any]) -> Any:
    return sitk.GetImageFromArray(voxels_ZYX)


def four_axes(volumes: int) -> Any:
    return sitk.JoinSeries([image_of(HU)] * volumes)


SIZES, DIM_SIZE = "sizes: 30 24 16", "DimSize = 30 24 16"
DIRECTIONS, ORIGIN = "space directions: (0.75,0,0) (0,0.875,0) (0,0,2.5)", "space origin: (-101.5,42.25,-730)\n"
SPACE, MATRIX = "space: left-posterior-superior", "TransformMatrix = 1 0 0 0 1 0 0 0 1"
OFFSET, SPACING = "Offset = -101.5 42.25 -730", "ElementSpacing = 0.75 0.875 2.5"
ITK_CASES = [
    Case(
        "a mask", "nrrd", ("label_map",),
        itk(".nrrd", data=image_of(LABELS)),
        itk(".nrrd", data=image_of(HU // 100 * 100)),
    ),
    Case(
        "a mask of floats", "metaimage", ("label_map",),
        itk(".mha", data=image_of(LABELS.astype(np.float32))),
        itk(".mha", data=image_of(HU.astype(np.float32))),
    ),
    Case("two volumes", "nrrd", ("four_d", "missing_geometry"), itk(".nrrd", data=four_axes(2)), itk(".nrrd")),
    Case("two volumes", "metaimage", ("four_d", "missing_geometry"), itk(".mha", data=four_axes(2)), itk(".mha")),
    Case(
        "an axis of vectors", "nrrd", ("four_d",),
        itk(".nrrd", ("kinds: domain domain domain", "kinds: vector domain domain")),
        itk(".nrrd", ("kinds: domain domain domain", "kinds: space space space")),
    ),
    Case(
        "three channels", "metaimage", ("color_image",),
        itk(".mha", data=sitk.Compose([image_of(HU)] * 3)),
        itk(".mha", (DIM_SIZE, f"{DIM_SIZE}\nElementNumberOfChannels = 1")),
    ),
    Case("a file that is a byte short", "nrrd", ("truncated",), itk(".nrrd", tail=1), itk(".nrrd")),
    Case("a file that is a byte short", "metaimage", ("truncated",), itk(".mha", tail=1), itk(".mha")),
    Case(
        "a compressed file that was cut", "nrrd", ("truncated",),
        itk(".nrrd", compressed=True, tail=300),
        itk(".nrrd", compressed=True),
    ),
    Case(
        "a compressed file that was cut", "metaimage", ("truncated",),
        itk(".mha", compressed=True, tail=300),
        itk(".mha", compressed=True),
    ),
    Case("damage inside compressed data", "nrrd", ("corrupt",), damaged(".nrrd"), itk(".nrrd", compressed=True)),
    Case("damage inside compressed data", "metaimage", ("corrupt",), damaged(".mha"), itk(".mha", compressed=True)),
    Case(
        "sizes that do not fit the dimension", "nrrd", ("corrupt",),
        itk(".nrrd", (SIZES, "sizes: 30 24")),
        itk(".nrrd", (SIZES, "sizes:  30  24  16")),
    ),
    Case(
        "an axis of no length", "metaimage", ("corrupt",),
        itk(".mha", (DIM_SIZE, "DimSize = 30 0 16")),
        itk(".mha", (DIM_SIZE, "DimSize =  30  24  16")),
    ),
    Case(
        "no byte order", "nrrd", ("corrupt",),
        itk(".nrrd", ("endian: little\n", "")),
        itk(".nrrd", data=image_of(((HU + 1024) // 8).astype(np.uint8))),
    ),
    Case(
        "a header without end", "metaimage", ("corrupt",),
        itk(".mha", (DIM_SIZE, f"{DIM_SIZE}\nComment = {'x' * (1 << 20)}")),
        itk(".mha", (DIM_SIZE, f"{DIM_SIZE}\nComment = {'x' * 200}")),
    ),
    Case(
        "voxels as text", "nrrd", ("unsupported_format",),
        itk(".nrrd", ("encoding: raw", "encoding: hex")),
        itk(".nrrd", ("encoding: gzip", "encoding: gz"), compressed=True),
    ),
    Case(
        "lines before the voxels", "nrrd", ("unsupported_format",),
        itk(".nrrd", ("encoding: raw", "line skip: 1\nencoding: raw")),
        itk(".nrrd", ("encoding: raw", "line skip: 0\nencoding: raw")),
    ),
    Case(
        "voxels as text", "metaimage", ("unsupported_format",),
        itk(".mha", ("BinaryData = True", "BinaryData = False")),
        itk(".mha", ("BinaryData = True", "BinaryData = true")),
    ),
    Case(
        "voxels in several files", "metaimage", ("unsupported_format",),
        itk(".mhd", ("a.raw", "LIST"), alone=True),
        itk(".mhd"),
    ),
    Case(
        "voxels in several files", "nrrd", ("unsupported_format",),
        itk(".nhdr", ("a.raw", "a%03d.raw 1 16 1"), alone=True),
        itk(".nhdr"),
    ),
    Case(
        "voxels of unknown type", "nrrd", ("unsupported_dtype",),
        itk(".nrrd", ("type: short", "type: block")),
        itk(".nrrd", ("type: short", "type: int16_t")),
    ),
    Case(
        "voxels of unknown type", "metaimage", ("unsupported_dtype",),
        itk(".mha", ("MET_SHORT", "MET_STRING")),
        itk(".mha", data=image_of(HU.astype(np.int32))),
    ),
    Case(
        "no space", "nrrd", ("missing_geometry",),
        itk(".nrrd", (SPACE, "space: scanner-xyz")),
        itk(".nrrd", (SPACE, "space: right-anterior-superior")),
    ),
    Case(
        "no origin", "nrrd", ("missing_geometry",),
        itk(".nrrd", (ORIGIN, "")),
        itk(".nrrd", (ORIGIN, "space origin: (0,0,0)\n")),
    ),
    Case(
        "no position", "metaimage", ("missing_geometry",),
        itk(".mha", (OFFSET, "Comment = none")),
        itk(".mha", (OFFSET, "Position = -101.5 42.25 -730")),
    ),
    Case(
        "directions sheared by 0.002", "nrrd", ("sheared_affine",),
        itk(".nrrd", (DIRECTIONS, "space directions: (0.75,0,0) (0.00175,0.875,0) (0,0,2.5)")),
        itk(".nrrd", (DIRECTIONS, "space directions: (-0.75,0,0) (0,0.875,0) (0,0,2.5)")),
    ),
    Case(
        "directions sheared by 0.002", "metaimage", ("sheared_affine",),
        itk(".mha", (MATRIX, "TransformMatrix = 1 0 0 0.002 1 0 0 0 1")),
        itk(".mha", (MATRIX, "TransformMatrix = 0.8 0.6 0 -0.6 0.8 0 0 0 1")),
    ),
    Case(
        "directions that flatten an axis", "nrrd", ("singular_affine",),
        itk(".nrrd", (DIRECTIONS, "space directions: (0.75,0,0) (0,0.875,0) (0,0,0)")),
        itk(".nrrd", (DIRECTIONS, "space directions: (0.75,0,0) (0,0.875,0) (0,0,-2.5)")),
    ),
    Case(
        "two axes in one direction", "metaimage", ("singular_affine",),
        itk(".mha", (MATRIX, "TransformMatrix = 1 0 0 1 0 0 0 0 1")),
        itk(".mha", (MATRIX, "TransformMatrix = 1 0 0 0 0 1 0 1 0")),
    ),
    Case(
        "a voxel that is no number", "nrrd", ("not_finite",),
        itk(".nrrd", data=image_of(with_value(np.nan).T)),
        itk(".nrrd", data=image_of(with_value(0.5).T)),
    ),
    Case(
        "an infinite voxel", "metaimage", ("not_finite",),
        itk(".mha", data=image_of(with_value(np.inf).T)),
        itk(".mha", data=image_of(with_value(3e38).T)),
    ),
    Case("a header without its data file", "nrrd", ("unreadable",), itk(".nhdr", alone=True), itk(".nhdr")),
    Case("a header without its data file", "metaimage", ("unreadable",), itk(".mhd", alone=True), itk(".mhd")),
    Case(
        "a data file outside the folder", "nrrd", ("path_escape",),
        with_data_file_named(".nhdr", "../a.raw"),
        with_data_file_named(".nhdr", "a..b.raw"),
    ),
    Case(
        "a data file outside the folder", "metaimage", ("path_escape",),
        with_data_file_named(".mhd", "../a.raw"),
        with_data_file_named(".mhd", "below/a.raw"),
    ),
    Case(
        "fifteen slices", "nrrd", ("too_few_slices",),
        itk(".nrrd", data=image_of(HU[:15])),
        itk(".nrrd", data=image_of(HU)),
    ),
    Case(
        "fifteen slices", "metaimage", ("too_few_slices",),
        itk(".mha", data=image_of(HU[:15])),
        itk(".mha", data=image_of(HU)),
    ),
]  # fmt: skip
