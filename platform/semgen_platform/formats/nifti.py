"""NIfTI-1 and NIfTI-2 files to volumes and back, through nibabel.

What counts: the sform where its code is set, else the qform (NIfTI-1 header, methods 3 and 2); RAS becomes LPS here;
voxels are scaled by hand, slab by slab, so that integers stay integers and no float64 copy of the volume is made.
Text fields (descrip, aux_file, db_name, intent_name, extensions) are never looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.formats.content import HEAD_BYTES, inflated, is_pair, nifti_version
from semgen_platform.formats.place import Place
from semgen_platform.formats.rawdata import Block, is_gzip
from semgen_platform.formats.refusing import Refused, combined, refusal, refused
from semgen_platform.formats.scaling import rescaled
from semgen_platform.volume import Refusal, Volume

MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
CONFLICT_MM = 0.1
"""sform and qform may differ by this much at any corner: float32 quaternions alone put a corner off by 0.01 mm."""


def read_nifti(header_file: Place, data_file: Place | None = None) -> Volume:
    """The volume of a NIfTI file or pair in its own voxel order, affine in LPS+ mm. Raises Refused, OSError."""
    header = _read_header(header_file)
    shape_xyz = _three_axes(header.get_data_shape())
    faults = [_shape_fault(shape_xyz), _affine_fault(header), _type_fault(header)]
    found = [fault for fault in faults if fault is not None]
    if found:
        raise Refused(combined(found))
    place = data_file or header_file
    block = Block(place, is_gzip(place), skip=int(header.get_data_offset()))
    x, y, z = shape_xyz
    stored = block.read(header.get_data_dtype(), (z, y, x))  # x, y, z in Fortran order is z, y, x in C order
    slope, intercept = _slope_and_intercept(header)
    flags = ("header_conflict",) if _forms_conflict(header) else ()
    return Volume(voxels=rescaled(stored, slope, intercept), ijk_to_lps_mm=_affine(header), flags=flags)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write voxels as they are (int16 or float32, unscaled) and the affine in RAS as sform and qform: .nii or .nii.gz.

    NIfTI-1 holds the affine in float32, so positions are exact to 1e-4 mm at 1 m from the origin.
    """
    import nibabel

    affine_ras = geometry.ras_to_lps(volume.ijk_to_lps_mm)
    image = nibabel.Nifti1Image(volume.voxels.T, affine_ras, dtype=volume.voxels.dtype)
    image.set_sform(affine_ras, code="scanner")
    image.set_qform(affine_ras, code="scanner", strip_shears=True)
    image.header.set_xyzt_units(xyz="mm")
    image.to_filename(path)


def _read_header(place: Place) -> Any:
    """The nibabel header at the top of a file, gzipped or not, whatever its name. Raises Refused, OSError."""
    from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
    from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader

    with place.open() as stream:
        head = inflated(stream.read(HEAD_BYTES)) or b""
    kinds = (Nifti1PairHeader, Nifti2PairHeader) if is_pair(head) else (Nifti1Header, Nifti2Header)
    kind = kinds[nifti_version(head) == 2]
    try:
        return kind(head[: kind.sizeof_hdr])
    except MemoryError:
        raise
    except Exception as error:  # nibabel raises several kinds for a damaged header
        raise refused("corrupt", "the NIfTI header cannot be used", error=type(error).__name__) from None


def _three_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(x, y, z), with trailing axes of 1 dropped and a missing z added; other shapes as they are."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return tuple(int(n) for n in ((*shape, 1) if len(shape) == 2 else shape))


def _shape_fault(shape_xyz: tuple[int, ...]) -> Refusal | None:
    if len(shape_xyz) > 3:
        return refusal("four_d", f"the file has {len(shape_xyz)} axes; export one volume a file", shape=list(shape_xyz))
    if len(shape_xyz) < 3 or min(shape_xyz) < 1:
        return refusal("corrupt", "the header gives no three axes of at least one voxel", shape=list(shape_xyz))
    return None


def _affine_fault(header: Any) -> Refusal | None:
    """Whether there is an affine; whether it is a regular grid is asked of every format in reader.py."""
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        sentence = "sform and qform codes are both 0, so the file says neither orientation nor position"
        return refusal("missing_geometry", sentence)
    if not int(header["sform_code"]) and _qform(header) is None:
        return refusal("singular_affine", "the qform is no rotation, and there is no sform")
    return None


def _qform(header: Any) -> Any:
    """The qform affine, or None where its quaternion is no rotation."""
    from nibabel.spatialimages import HeaderDataError

    try:
        return header.get_qform()
    except (HeaderDataError, ValueError):
        return None


def _affine(header: Any) -> NDArray[np.float64]:
    ras = header.get_sform() if int(header["sform_code"]) else _qform(header)
    scale = MM_PER_UNIT[header.get_xyzt_units()[0]]
    return geometry.ras_to_lps(np.diag([scale, scale, scale, 1.0]) @ np.asarray(ras, dtype=np.float64))


def _forms_conflict(header: Any) -> bool:
    """Whether both forms are set and put some corner of the volume at two places."""
    if not int(header["sform_code"]) or not int(header["qform_code"]):
        return False
    qform = _qform(header)
    if qform is None:
        return True
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in header.get_data_shape()[:3]])).reshape(3, -1).T
    apart = geometry.apply_affine(header.get_sform(), corners) - geometry.apply_affine(qform, corners)
    return bool(np.linalg.norm(apart, axis=1).max() > CONFLICT_MM)


def _type_fault(header: Any) -> Refusal | None:
    dtype, code = header.get_data_dtype(), int(header["datatype"])
    if dtype.fields is not None:
        return refusal("color_image", "the voxels are colours", datatype=code)
    if dtype.kind not in "iuf":
        return refusal("unsupported_dtype", "the voxels are neither integers nor real numbers", datatype=code)
    return None


def _slope_and_intercept(header: Any) -> tuple[float, float]:
    """scl_slope and scl_inter; a slope of 0 or NaN means that the values are not scaled (NIfTI-1 header)."""
    from nibabel.spatialimages import HeaderDataError

    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise refused("inconsistent_rescale", "scl_slope is set and scl_inter is no finite number") from None
    return (1.0, 0.0) if slope is None else (float(slope), float(intercept))
