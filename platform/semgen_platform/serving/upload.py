"""A request's body to a canonical volume: streamed to a file, limited twice, read by the room that reads all formats.

The limits are of the bytes sent and of the voxels that the header promises, so that a small compressed body cannot ask
for a large memory. Only single-file NIfTI is taken: other formats may name further files.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from semgen_platform.errors import SemgenError
from semgen_platform.formats import values
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.refusing import quiet_libraries
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import UNTRAINABLE_FLAGS, Refusal, Volume

GZIP_MAGIC = b"\x1f\x8b"
DRAINED_BYTES = 2**20
"""Read and dropped of a body that is too large, so that who sends a little too much hears why."""
VOXEL_BYTES = 4  # float32 at most
LEAST_SLICES = 1  # the sender chose this scan; ingest's limit is for archives


class RequestError(SemgenError):
    """A request that is answered with an error: HTTP status, one sentence, a code, and evidence where there is any."""

    def __init__(self, status: int, sentence: str, code: str, evidence: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.status, self.code, self.evidence = status, code, dict(evidence or {})


async def receive(chunks: AsyncIterator[bytes], declared_bytes: int | None, limit_bytes: int, folder: Path) -> Path:
    """Write a body into `folder` as it comes, named by what its first bytes are.

    Raises RequestError 413 above the limit, before anything is kept where the header says so, and 400 for no body.
    """
    path, received = folder / "body", 0
    with path.open("wb") as file:
        if declared_bytes is not None and declared_bytes > limit_bytes:
            await _drop(chunks)
            raise _too_large(limit_bytes)
        async for chunk in chunks:
            received += len(chunk)
            if received > limit_bytes:
                await _drop(chunks)
                raise _too_large(limit_bytes)
            file.write(chunk)
    with path.open("rb") as file:
        gzipped = file.read(2) == GZIP_MAGIC
    if not received:
        raise RequestError(400, "the request has no body; send a NIfTI file (.nii or .nii.gz)", "empty")
    return path.rename(folder / ("body.nii.gz" if gzipped else "body.nii"))


async def _drop(chunks: AsyncIterator[bytes]) -> None:
    dropped = 0
    async for chunk in chunks:
        dropped += len(chunk)
        if dropped > DRAINED_BYTES:
            return


def _too_large(limit_bytes: int) -> RequestError:
    sentence = f"the body is larger than the {limit_bytes} bytes that this server takes; send it compressed (.nii.gz)"
    return RequestError(413, sentence, "too_large", {"limit_bytes": limit_bytes})


def read_volume(path: Path, limit_voxel_bytes: int) -> Volume:
    """The canonical CT volume in a received file.

    Raises RequestError 422 with the reason code of a refusal or the flag that makes a scan unusable, 413 for too many
    voxels.
    """
    (source,) = list_sources(path)
    if source.kind not in ("nifti", "other"):
        raise RequestError(422, f"the body is {source.kind}, and only NIfTI is taken", "unsupported_format")
    if source.refusal is None:
        _check_promise(path, limit_voxel_bytes)
    volume = read_source(source, min_slices=LEAST_SLICES)
    if isinstance(volume, Refusal):
        raise RequestError(422, volume.sentence, volume.reasons[0], volume.evidence)
    flags = sorted(UNTRAINABLE_FLAGS & {*volume.flags, *values.voxel_flags(volume)})
    if flags:
        raise RequestError(422, "the voxels are not a CT in Hounsfield units", flags[0])
    return volume


def _check_promise(path: Path, limit_voxel_bytes: int) -> None:
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        with quiet_libraries():
            image: Any = nibabel.load(path)
            voxels = math.prod(image.shape)
    except (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error):
        return  # a damaged header takes no memory, and the reader refuses it with the right reason
    if voxels * VOXEL_BYTES > limit_voxel_bytes:
        limit = limit_voxel_bytes // VOXEL_BYTES
        sentence = f"the header promises {voxels} voxels and this server takes {limit}; crop or resample the scan"
        raise RequestError(413, sentence, "too_large", {"limit_voxels": limit})
