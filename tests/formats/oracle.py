"""Scans as readers other than ours see them (pydicom by hand, nibabel, SimpleITK, dcm2niix), and the comparison.

A voxel is the same if it has the same value and lies at the same place in the patient; no order of axes is assumed.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from semgen_platform.volume import Volume

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])
TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")
NIFTI_ENDINGS = (".nii", ".nii.gz", ".hdr")


@dataclass(frozen=True)
class Scan:
    """voxels_ZYX : values in the reader's own order.  lps_mm : (n, 3) indices in the order x, y, z to LPS in mm."""

    voxels_ZYX: NDArray[Any]
    lps_mm: Callable[[NDArray[np.int64]], NDArray[np.float64]]


def scan_of(root: Path) -> Scan:
    """The one scan below a folder, as the reader of its format sees it; by name, since a test has named it."""
    files = sorted(file for file in root.rglob("*") if file.is_file())
    for file in files:
        if file.suffix in TEXT_HEADERS:
            return by_simpleitk_file(file)
        if file.name.endswith(NIFTI_ENDINGS):
            return by_nibabel(file)
    return by_pydicom(files)


def by_nibabel(path: Path) -> Scan:
    image: Any = nibabel.load(path)
    voxels_ZYX = np.asanyarray(image.dataobj).squeeze().T
    return Scan(voxels_ZYX, lambda ijk: RAS_TO_LPS * apply_affine(image.affine, ijk))


def by_simpleitk_file(path: Path) -> Scan:
    return _itk_scan(sitk.ReadImage(str(path)))


def by_simpleitk(folder: Path) -> Scan:
    """A DICOM series through GDCM."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return _itk_scan(reader.Execute())


def _itk_scan(image: Any) -> Scan:
    directions = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    return Scan(sitk.GetArrayFromImage(image), lambda ijk: ijk @ directions.T + image.GetOrigin())


def by_pydicom(files: list[Path]) -> Scan:
    """A DICOM series by hand (PS3.3 C.7.6.2.1.1): each slice at its own position, pixel spacing, slope and intercept;
    directions are those of the first."""
    import pydicom

    datasets = [pydicom.dcmread(file, force=True) for file in files]
    row, column = np.reshape([float(v) for v in datasets[0].ImageOrientationPatient], (2, 3))
    placed = {float(np.dot(np.cross(row, column), d.ImagePositionPatient)): d for d in datasets}
    ordered = [placed[distance] for distance in sorted(placed)]
    spacings = np.array([[float(v) for v in d.PixelSpacing] for d in ordered])
    assert len({("RescaleSlope" in d, "RescaleIntercept" in d) for d in ordered}) == 1
    slabs = [d.pixel_array * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0)) for d in ordered]
    positions = np.array([[float(v) for v in d.ImagePositionPatient] for d in ordered])

    def lps_mm(ijk: NDArray[np.int64]) -> NDArray[np.float64]:
        i, j, k = np.asarray(ijk).T
        between_rows, between_columns = spacings[k].T
        return positions[k] + np.outer(i * between_columns, row) + np.outer(j * between_rows, column)

    return Scan(np.stack(slabs), lps_mm)


def by_dcm2niix(folder: Path, work: Path) -> Scan:
    """A DICOM series through dcm2niix, which flips rows and writes NIfTI in RAS."""
    import dcm2niix

    work.mkdir()
    command = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "scan", "-o", str(work), str(folder)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    written = sorted(work.glob("*.nii"))
    assert len(written) == 1, (written, said.stdout, said.stderr)
    return by_nibabel(written[0])


def assert_same_scan(volume: Volume, other: Scan, *, within_mm: float = 1e-3, within_hu: float = 0.0) -> None:
    """Every voxel of the other scan has one of the volume at its place, with its value, and none is left over.

    within_mm : how far corners and slices may lie apart.  within_hu : for values that the other reader rounds.
    """
    counts_xyz = np.array(other.voxels_ZYX.shape[::-1])
    corners = np.array(list(itertools.product(*[(0, n - 1) for n in counts_xyz])))
    along = [np.outer(np.arange(n), unit).astype(int) for n, unit in zip(counts_xyz, np.eye(3), strict=True)]
    lps_to_ijk = np.linalg.inv(volume.ijk_to_lps_mm)

    def ours(indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The volume's voxels at the places of the other's, which must lie there."""
        places = other.lps_mm(indices)
        found = np.rint(apply_affine(lps_to_ijk, places)).astype(int)
        apart = np.linalg.norm(apply_affine(volume.ijk_to_lps_mm, found) - places, axis=1)
        assert apart.max() <= within_mm, f"voxels lie {apart.max():g} mm apart"
        return np.asarray(found)

    ours(corners)
    # axis a of the other runs along axis `order[a]` of the volume, backwards where the sign is negative
    steps = np.array([(ours(line)[-1] - ours(line)[0]) / max(1, len(line) - 1) for line in along])
    order = np.abs(steps).argmax(axis=1)
    assert np.array_equal(np.abs(steps), np.eye(3)[order]), steps
    assert np.array_equal(counts_xyz, np.array(volume.voxels.shape[::-1])[order])
    turned = volume.voxels.transpose(2, 1, 0).transpose(order)
    backwards = tuple(a for a in range(3) if steps[a, order[a]] < 0)
    expected = other.voxels_ZYX.transpose(2, 1, 0)
    first = [(counts_xyz[a] - 1) * (a in backwards) for a in range(3)]
    assert np.array_equal(ours(np.zeros((1, 3), dtype=int))[0][order], first)
    np.testing.assert_allclose(np.flip(turned, backwards), expected.astype(np.float32), rtol=0, atol=within_hu)
