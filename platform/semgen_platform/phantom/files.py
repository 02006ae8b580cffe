"""Phantom scans as files: NIfTI, NRRD and MetaImage, each in an axis order of its own; truth as .npz.

Written with nibabel and SimpleITK alone, so that tests of our own readers have an independent source.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from semgen_platform import geometry
from semgen_platform.phantom.scanner import LATTICE_MM, PhantomScan
from semgen_platform.volume import Volume

PARTIAL = ".partial-"
"""Names of unfinished files begin so."""
_WORLD_AXIS = {letter: axis for axis, pair in enumerate(geometry.AXIS_LETTERS) for letter in pair}


def oriented(volume: Volume, code: str) -> Volume:
    """The volume (axes near LPS) with x, y, z index axes that run to the three letters of `code`, such as RAS."""
    i, j, k = (_WORLD_AXIS[letter] for letter in code)
    flips = [letter in "RAI" for letter in code]
    voxels, affine = geometry.reorient(
        volume.voxels, volume.ijk_to_lps_mm, geometry.AxisMap((i, j, k), (flips[0], flips[1], flips[2]))
    )
    return replace(volume, voxels=np.ascontiguousarray(voxels), ijk_to_lps_mm=affine)


def write_nifti(volume: Volume, path: Path) -> None:
    """One .nii.gz, gzip level 1; sform and qform say the same."""
    nibabel = _untyped("nibabel")
    image = nibabel.Nifti1Image(volume.voxels.transpose(2, 1, 0), geometry.ras_to_lps(volume.ijk_to_lps_mm))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1)
    nibabel.save(image, path)


def write_itk(volume: Volume, path: Path) -> None:
    """NRRD or MetaImage by the path's ending, compressed."""
    itk = _untyped("SimpleITK")
    image = itk.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.spacing_zyx_mm[::-1])
    image.SetOrigin(volume.ijk_to_lps_mm[:3, 3].tolist())
    image.SetDirection(geometry.direction_cosines(volume.ijk_to_lps_mm).reshape(-1).tolist())
    itk.WriteImage(image, str(path), True)


def _untyped(library: str) -> Any:
    """A library without type hints, loaded where it is needed."""
    return import_module(library)


def write_truth(scan: PhantomScan, path: Path) -> None:
    """labels_ZYX and body_xyz_mm with their affines, moved into place when whole."""
    partial = path.with_name(f"{PARTIAL}{path.name}")
    with partial.open("wb") as stream:
        np.savez_compressed(
            stream,
            labels_ZYX=scan.labels_ZYX,
            zyx_to_lps_mm=geometry.reverse_index_axes(scan.volume.ijk_to_lps_mm),
            lattice_mm=np.float64(LATTICE_MM),
            body_xyz_mm=scan.body_xyz_mm,
            lattice_zyx_to_lps_mm=scan.lattice_zyx_to_lps_mm,
        )
    os.replace(partial, path)
