"""What the corpus of broken files is made of: a case, one small phantom, and the builders that every format uses."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from tests.formats.conftest import ct_hu

Build = Callable[[Path], None]
"""Fills an empty folder: `in` is what a listing is given, and `plain`, where that is an archive or bears a misleading
name, holds the same scan for an independent reader."""

SHAPE_ZYX = (16, 24, 30)
HU = ct_hu(SHAPE_ZYX)
LABELS = np.repeat(np.repeat(np.arange(4, dtype=np.int16), 6)[None, :, None], 16, axis=0).repeat(30, axis=2)
CT_AFFINE = np.array([[-0.7, 0, 0, 31.5], [0, -0.8, 0, -12.25], [0, 0, 2.5, 740], [0, 0, 0, 1.0]])


@dataclass(frozen=True)
class Case:
    """One broken thing.

    format : whose reader must notice.  reasons : all that apply, in order.  limits : of archive.py, lowered for both
    builders, so that files need not be of gigabytes.  within_mm : how far slices of the near miss may lie off their
    grid.
    """

    name: str
    format: str
    reasons: tuple[str, ...]
    broken: Build
    near_miss: Build
    limits: Mapping[str, int] = field(default_factory=dict)
    within_mm: float = 1e-3


def nifti_bytes(data_XYZ: NDArray[Any] = HU.T, affine: NDArray[np.float64] = CT_AFFINE, **fields: Any) -> bytes:
    """A NIfTI-1 file with these header fields changed last."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(data_XYZ.dtype)
    header.set_data_shape(data_XYZ.shape)
    header.set_sform(affine, code=1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4) + data_XYZ.tobytes(order="F")


def file(data: bytes, name: str = "a.nii", plain: str = "") -> Build:
    """One file; where its name misleads, beside an equal one named `plain` for the independent reader."""

    def build(folder: Path) -> None:
        (folder / "in").mkdir()
        (folder / "in" / name).write_bytes(data)
        if plain:
            (folder / "plain").mkdir()
            (folder / "plain" / plain).write_bytes(data)

    return build


def zeroed(data: bytes, start: int, count: int) -> bytes:
    return data[:start] + bytes(count) + data[start + count :]


NII = nifti_bytes()
NII_GZ = gzip.compress(NII)
