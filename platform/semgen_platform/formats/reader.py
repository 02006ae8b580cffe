"""A source to one canonical Volume, or to a Refusal with every reason that applies.

The formats' own modules read; here is what holds for all of them: finite values, label maps, size, padding, flags. Only
bugs of ours raise, MemoryError, and Unreachable where the server of a source is gone, which says nothing of the source.
"""

from __future__ import annotations

import numpy as np

from semgen_platform import geometry
from semgen_platform.errors import Unreachable
from semgen_platform.formats import remote, values
from semgen_platform.formats.dicom import read_series
from semgen_platform.formats.metaimage import read_metaimage
from semgen_platform.formats.nifti import read_nifti
from semgen_platform.formats.nrrd import read_nrrd
from semgen_platform.formats.refusing import Refused, combined, quiet_libraries, refusal, refused
from semgen_platform.formats.source import Source
from semgen_platform.volume import Refusal, Volume, canonical

CONVERTER_VERSION = 4
"""Raised by hand whenever the same bytes would give another volume, flag or reason, so that sources are read again."""

MIN_SLICES = 16


def read_source(source: Source, *, min_slices: int = MIN_SLICES, repair: bool = False) -> Volume | Refusal:
    """The canonical volume of a source, flags of the file among them, or why there is none.

    min_slices : fewer along the slice axis are refused as too_few_slices.  repair : whether a gantry tilt and uneven
    steps of a DICOM series may be mended by interpolation.
    """
    if source.refusal is not None:
        return source.refusal
    try:
        with quiet_libraries():
            volume = _read_safely(source, min_slices, repair)
            return _accepted(volume, source, min_slices)
    except Refused as no:
        return no.refusal
    except remote.ServerGone as error:
        if not remote.answers(source.files[0].path):
            raise Unreachable(
                "the server of a source does not answer any more; run the same command again when it does"
            ) from None
        return _unreadable(error)
    except OSError as error:
        return _unreadable(error)


def _unreadable(error: OSError) -> Refusal:
    return refusal("unreadable", "a file of the source cannot be read", errno=error.errno or 0)


def _read_safely(source: Source, min_slices: int, repair: bool) -> Volume:
    """The volume in its own axes. Libraries raise whatever they meet in a damaged file, and one file never ends a run;
    a message of theirs may quote the header, so only its type is kept."""
    try:
        return _read(source, min_slices, repair)
    except (Refused, OSError, MemoryError):
        raise
    except Exception as error:
        raise refused("corrupt", "the file does not hold what its header says", error=type(error).__name__) from None


def _read(source: Source, min_slices: int, repair: bool) -> Volume:
    place, *data_files = source.files
    if source.kind == "dicom":
        return read_series(source.files, frames=source.frames, min_slices=min_slices, repair=repair)
    if source.kind == "nifti":
        return read_nifti(place, *data_files)
    if source.kind == "nrrd":
        return read_nrrd(place)
    assert source.kind == "metaimage", f"a source of kind {source.kind} has a refusal"
    return read_metaimage(place)


def _accepted(volume: Volume, source: Source, min_slices: int) -> Volume:
    """The volume in canonical axes with padding and flags. Raises Refused for what no format module looks at."""
    _check_affine(volume)
    volume = canonical(volume, owned=True)
    _check_finite(volume)  # in the type that is kept: a float64 may be beyond float32
    counts = volume.histogram
    faults = [
        no
        for no in (values.label_map_refusal(volume.voxels, counts), _size_fault(volume, min_slices))
        if no is not None
    ]
    if faults:
        raise Refused(combined(faults))
    padding = volume.padding_hu
    if padding is None or counts.share(round(padding), round(padding)) == 0:
        padding = values.corner_padding(volume.voxels)
    flags = volume.flags if source.patient is not None else (*volume.flags, "patient_unknown")
    return volume.relabelled(padding_hu=padding, flags=flags)


def _check_affine(volume: Volume) -> None:
    fault = geometry.affine_fault(volume.ijk_to_lps_mm)
    if fault is not None:
        reason, evidence = fault
        sentence = f"the affine is {reason.removesuffix('_affine')}, so that the voxels are no regular grid of boxes"
        raise Refused(Refusal((reason,), sentence, evidence))


def _check_finite(volume: Volume) -> None:
    if volume.voxels.dtype.kind != "f":
        return
    bad = volume.voxels.size - int(np.count_nonzero(np.isfinite(volume.voxels)))
    if bad:
        raise refused("not_finite", f"{bad} voxels are not finite numbers", voxels=bad, of=volume.voxels.size)


def _size_fault(volume: Volume, min_slices: int) -> Refusal | None:
    """Slices are counted along the axis of largest spacing, whatever its direction; ties go to z."""
    axis = int(np.argmax(np.round(volume.spacing_zyx_mm, 3)))
    slices = volume.shape_zyx[axis]
    if slices >= min_slices:
        return None
    sentence = f"the volume has too few slices: {slices}, where at least {min_slices} are asked for"
    return refusal("too_few_slices", sentence, slices=slices, min_slices=min_slices)
