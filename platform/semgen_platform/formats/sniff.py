"""Sources below a folder: every DICOM series, volume file and other single file, found by content.

Walks folder by folder in sorted order and never decodes a voxel. Volume files and other files come as they are met;
DICOM files come at the end, since a series may lie in several folders. What a DICOM object is, dicom_object.py says.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from semgen_platform.errors import InputError
from semgen_platform.formats import metaimage, nrrd
from semgen_platform.formats.content import HEAD_BYTES, Content, content_of, inflated, nifti_slices
from semgen_platform.formats.dicom_object import DicomObject, read_object
from semgen_platform.formats.refusing import Refused, quiet_libraries, refusal, refused
from semgen_platform.formats.source import Kind, Source, Validator
from semgen_platform.volume import Refusal

VOLUME_EXTENSIONS = (".nii", ".nii.gz", ".dcm", ".ima", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Extensions that promise a scan: unreadable content under one of them is damage, elsewhere it is just no image."""

KINDS: dict[Content, Kind] = {
    "nifti": "nifti",
    "nifti_pair": "nifti",
    "analyze": "nifti",
    "nrrd": "nrrd",
    "metaimage": "metaimage",
}

UNPLACED = "Analyze files say neither orientation nor position; convert from the original scan"


def list_sources(root: Path) -> Iterator[Source]:
    """Every source below a folder (any nesting), or the one that a file is.

    Raises InputError if `root` is missing, or, once all of it was walked, if it holds no file.
    """
    root = Path(root).absolute()
    if not root.exists():
        raise InputError(f"source {root} does not exist; give a folder or a file of scans")
    return _sources(root)


def _sources(root: Path) -> Iterator[Source]:
    base = root if root.is_dir() else root.parent
    dicom: list[DicomObject] = []
    data_files: set[str] = set()  # of detached headers; part of those sources, and none of their own
    empty = True
    for files in _folders(root):
        with quiet_libraries():
            found = [_look_at(file, file.relative_to(base).as_posix()) for file in files]
        empty = empty and not found
        dicom.extend(item for item in found if isinstance(item, DicomObject))
        sources = [item for item in found if isinstance(item, Source)]
        data_files.update(file for source in sources for file in source.files[1:])
        yield from (source for source in sources if source.files[0] not in data_files)
    if empty:
        raise InputError(f"source {root} holds no file; give a folder of scans")
    yield from _series(dicom)


def _folders(root: Path) -> Iterator[list[Path]]:
    """The sorted entries of each folder that are no folders; a folder that a link leads back to is entered once."""
    if not root.is_dir():
        yield [root]
        return
    pending, entered = [root], set[tuple[int, int]]()
    while pending:
        folder = pending.pop()
        try:
            status = folder.stat()
            entries = [] if (status.st_dev, status.st_ino) in entered else sorted(folder.iterdir())
        except OSError:
            yield [folder]  # refused as unreadable where it is looked at
            continue
        entered.add((status.st_dev, status.st_ino))
        folders = {entry for entry in entries if entry.is_dir()}
        pending.extend(sorted(folders, reverse=True))
        yield [entry for entry in entries if entry not in folders]


def _look_at(file: Path, relative: str) -> Source | DicomObject:
    other = Source(kind="other", files=(str(file),), validators=((0, 0),), name_parts=("path", relative))
    try:
        other = replace(other, validators=(_validator(file),))
        with file.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except Refused as no:
        return replace(other, refusal=no.refusal)
    except OSError as error:
        return replace(
            other, refusal=refusal("unreadable", "the file or folder cannot be read", errno=error.errno or 0)
        )
    found = content_of(head)
    if found == "dicom":
        return read_object(str(file), relative, other.validators[0])
    if found in KINDS:
        return _volume_file(file, found, head, replace(other, kind=KINDS[found]))
    return replace(other, refusal=_not_a_volume(found, file.name.lower().endswith(VOLUME_EXTENSIONS)))


def _validator(file: Path) -> Validator:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise refused("not_an_image", "this is no regular file but a pipe, socket or device")
    return status.st_size, status.st_mtime_ns


def _volume_file(file: Path, found: Content, head: bytes, source: Source) -> Source:
    """The source with its slices and, for a detached header, its data file."""
    try:
        data_file = _data_file(file, found)
        slices = _promised_slices(file, found, head)
        if data_file is None:
            return replace(source, slices=slices)
        files, validators = (str(file), str(data_file)), (*source.validators, _validator(data_file))
        unplaced = refusal("missing_geometry", UNPLACED) if found == "analyze" else None
        return replace(source, slices=slices, files=files, validators=validators, refusal=unplaced)
    except Refused as no:
        return replace(source, refusal=no.refusal)
    except OSError as error:
        return replace(
            source, refusal=refusal("unreadable", "the header's data file cannot be read", errno=error.errno or 0)
        )


def _data_file(file: Path, found: Content) -> Path | None:
    if found == "nrrd":
        return nrrd.data_file(file)
    if found == "metaimage":
        return metaimage.data_file(file)
    if found == "nifti":
        return None
    name = file.name
    for header, data in ((".hdr", ".img"), (".hdr.gz", ".img.gz"), (".HDR", ".IMG")):
        if name.endswith(header):
            return file.with_name(name.removesuffix(header) + data)
    raise refused(
        "unreadable", "the header of a NIfTI or Analyze pair is not named .hdr, so that its data file is unknown"
    )


def _promised_slices(file: Path, found: Content, head: bytes) -> int:
    if found == "nrrd":
        return nrrd.slices(file)
    if found == "metaimage":
        return metaimage.slices(file)
    return nifti_slices(inflated(head) or b"")


def _not_a_volume(found: Content, promised: bool) -> Refusal:
    if found == "pdf":
        return refusal("pdf", "the file is a PDF document")
    if found == "archive":
        return refusal("unsupported_format", "archives are not read yet; unpack it and ingest the folder")
    if found == "other_volume":
        return refusal("unsupported_format", "HDF5 and MINC volumes are not read; convert the scan to NIfTI")
    if not promised:
        return refusal(
            "not_an_image", "the file holds no image in a format that is read (DICOM, NIfTI, NRRD, MetaImage)"
        )
    if found == "empty":
        return refusal("truncated", "the file is empty", bytes=0)
    return refusal("corrupt", "the file is named as a scan but does not begin as one")


def _series(objects: Iterable[DicomObject]) -> Iterator[Source]:
    """Sources of all DICOM objects: one per series and part, in the order of their first files."""
    groups: dict[tuple[str, str], list[DicomObject]] = {}
    for item in objects:
        key = (item.series_uid, item.part) if item.series_uid else ("", item.relative)
        groups.setdefault(key, []).append(item)
    for (series_uid, part), items in groups.items():
        yield _series_source(series_uid, part, sorted(items, key=lambda item: item.path))


def _series_source(series_uid: str, part: str, items: list[DicomObject]) -> Source:
    first = items[0]
    return Source(
        kind="dicom",
        files=tuple(item.path for item in items),
        validators=tuple(item.validator for item in items),
        name_parts=("series", series_uid, part) if series_uid else ("path", part),
        patient=first.patient,
        study_uid=first.study_uid or None,
        series_uid=series_uid or None,
        refusal=first.refusal or _mixed_patients(items),
        slices=len(items),
    )


def _mixed_patients(items: list[DicomObject]) -> Refusal | None:
    """One series UID under two patients or studies is a fault of some export; nobody can tell what belongs together."""
    patients, studies = {item.patient for item in items}, {item.study_uid for item in items}
    if len(patients) == len(studies) == 1:
        return None
    sentence = (
        "slices with one SeriesInstanceUID name several patients or studies; separate them and give each its own UID"
    )
    return refusal("ambiguous_split", sentence, patients=len(patients), studies=len(studies))
