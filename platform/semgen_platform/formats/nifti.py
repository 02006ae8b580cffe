"""NIfTI-1 and NIfTI-2 files to volumes and back, through nibabel.

What counts: the sform where its code is set, else the qform (NIfTI-1 header, methods 3 and 2); RAS becomes LPS here; voxels
are scaled by hand, slab by slab, so that integers stay integers and no float64 copy of the volume is made. Text fields
(descrip, aux_file, db_name, intent_name, extensions) are never looked at.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.formats.refusing import Refused, combined, refusal, refused
from semgen_platform.formats.scaling import rescaled
from semgen_platform.volume import Refusal, Volume

MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
CONFLICT_MM = 0.1
"""sform and qform may differ by this much at any corner: float32 quaternions of a 500 mm volume differ by up to 0.01 mm."""


def read_nifti(path: Path) -> Volume:
    """The volume of a .nii, .nii.gz or .hdr/.img pair in its own voxel order, affine in LPS+ mm. Raises Refused, OSError."""
    image = _opened(path)
    shape = _three_axes(image.shape)
    refusals = [no for no in (_affine_refusal(image), _type_refusal(image)) if no is not None]
    if isinstance(shape, Refusal):
        refusals.append(shape)
    if refusals:
        raise Refused(combined(refusals))
    affine = _affine(image)
    raw = _unscaled(image).reshape(shape, order="F").T  # nibabel's x, y, z in Fortran order is z, y, x in C order
    voxels = rescaled(raw, *_slope_and_intercept(image))
    flags = ("header_conflict",) if _forms_conflict(image) else ()
    return Volume(voxels=voxels, ijk_to_lps_mm=affine, flags=flags)


def write_nifti(volume: Volume, path: Path) -> None:
    """Write voxels as they are (int16 or float32, no scaling) and the affine as sform and qform, in RAS, as .nii or .nii.gz.

    NIfTI-1 holds the affine in float32, so positions are exact to about 1e-5 mm.
    """
    import nibabel

    affine_ras = geometry.ras_to_lps(volume.ijk_to_lps_mm)
    image = nibabel.Nifti1Image(volume.voxels.T, affine_ras, dtype=volume.voxels.dtype)
    image.set_sform(affine_ras, code="scanner")
    image.set_qform(affine_ras, code="scanner", strip_shears=True)
    image.header.set_xyzt_units(xyz="mm")
    image.to_filename(path)


def _opened(path: Path) -> Any:
    import nibabel

    try:
        image = nibabel.load(path, mmap=False)
    except OSError:
        raise
    except EOFError:
        raise refused("truncated", "the NIfTI header ends early") from None
    except Exception as error:  # nibabel raises several kinds for a damaged header
        raise refused("corrupt", "the NIfTI header cannot be parsed", error=type(error).__name__) from None
    if not isinstance(image, nibabel.Nifti1Pair):
        raise refused(
            "missing_geometry", "Analyze files say neither orientation nor position; convert from the original scan"
        )
    return image


def _three_axes(shape: tuple[int, ...]) -> tuple[int, int, int] | Refusal:
    """(x, y, z) with trailing axes of 1 dropped."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        return refusal(
            "four_d", f"the file has {len(shape)} axes; export one volume a file", shape=[int(n) for n in shape]
        )
    if len(shape) < 2 or min(shape) < 1:
        return refusal("corrupt", "the header gives no three axes of at least one voxel", shape=[int(n) for n in shape])
    x, y, z = (*shape, 1)[:3]
    return int(x), int(y), int(z)


def _affine_refusal(image: Any) -> Refusal | None:
    header = image.header
    if not int(header["sform_code"]) and not int(header["qform_code"]):
        return refusal(
            "missing_geometry", "sform and qform codes are both 0, so the file says neither orientation nor position"
        )
    try:
        fault = geometry.affine_fault(_affine(image))
    except Exception as error:  # a qform whose quaternion is no rotation
        return refusal("singular_affine", "the qform is no rotation", error=type(error).__name__)
    if fault is None:
        return None
    reason, evidence = fault
    return Refusal(
        (reason,),
        f"the affine is {reason.removesuffix('_affine')}, so its voxels are no regular grid of boxes",
        evidence,
    )


def _affine(image: Any) -> NDArray[np.float64]:
    header = image.header
    ras = header.get_sform() if int(header["sform_code"]) else header.get_qform()
    scale = MM_PER_UNIT[header.get_xyzt_units()[0]]
    return geometry.ras_to_lps(np.diag([scale, scale, scale, 1.0]) @ np.asarray(ras, dtype=np.float64))


def _forms_conflict(image: Any) -> bool:
    """Whether both forms are set and put some corner of the volume at two places."""
    header = image.header
    if not int(header["sform_code"]) or not int(header["qform_code"]):
        return False
    extent = np.array((*image.shape, 1)[:3]) - 1
    corners = np.array(np.meshgrid(*[(0, n) for n in extent])).reshape(3, -1).T
    try:
        qform = header.get_qform()
    except Exception:  # a quaternion that is no rotation conflicts with any sform
        return True
    apart = geometry.apply_affine(header.get_sform(), corners) - geometry.apply_affine(qform, corners)
    return bool(np.linalg.norm(apart, axis=1).max() > CONFLICT_MM)


def _type_refusal(image: Any) -> Refusal | None:
    dtype = image.header.get_data_dtype()
    if dtype.fields is not None:
        return refusal("color_image", "the voxels are colours", datatype=int(image.header["datatype"]))
    if dtype.kind not in "iuf":
        return refusal(
            "unsupported_dtype",
            "the voxels are neither integers nor real numbers",
            datatype=int(image.header["datatype"]),
        )
    return None


def _slope_and_intercept(image: Any) -> tuple[float, float]:
    slope, intercept = image.dataobj.slope, image.dataobj.inter
    return float(slope), float(intercept)


def _unscaled(image: Any) -> NDArray[Any]:
    """Stored voxels, flat in Fortran order. Raises Refused where the data end early or do not inflate."""
    try:
        return np.asarray(image.dataobj.get_unscaled()).reshape(-1, order="F")
    except EOFError:
        raise refused("truncated", "the compressed data end early") from None
    except zlib.error:
        raise refused("corrupt", "the compressed data are damaged") from None
    except OSError as error:
        if error.errno is not None:
            raise
        # nibabel's message for too few bytes and gzip's for a wrong checksum carry no errno
        reason = "corrupt" if type(error).__name__ == "BadGzipFile" else "truncated"
        raise refused(reason, "the file holds fewer voxels than its header promises") from None
