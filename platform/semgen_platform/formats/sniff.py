"""Sources below a folder: every DICOM series, volume file and other single file, found by content.

Walks folder by folder in sorted order and never decodes a voxel. Volume files and other files come as they are met;
DICOM files come at the end, since a series may lie in several folders. Members of zip and tar archives are looked at in
place. What a DICOM object is, dicom_object.py says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from semgen_platform.errors import InputError
from semgen_platform.formats import archive, metaimage, nrrd
from semgen_platform.formats.content import HEAD_BYTES, Content, content_of, inflated, nifti_shape_xyz
from semgen_platform.formats.dicom_object import DicomObject, read_object
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, quiet_libraries, refusal, refused
from semgen_platform.formats.source import Kind, Source
from semgen_platform.formats.splitting import split
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


def list_sources(*roots: Path) -> Iterator[Source]:
    """Every source below folders (any nesting), or the one that a file is; a series may lie below several of them.

    Raises InputError if a root is missing, and, while it is walked, if it holds no file or a file that another root has
    under the same name: a file is named by its path below its root.
    """
    absolute = [Path(root).absolute() for root in roots]
    for root in absolute:
        if not root.exists():
            raise InputError(f"source {root} does not exist; give a folder or a file of scans")
    return _sources(absolute)


def _sources(roots: Sequence[Path]) -> Iterator[Source]:
    dicom: list[DicomObject] = []
    data_files: set[Place] = set()  # of detached headers; part of those sources, and none of their own
    walked, names = set[Path](), set[tuple[str, ...]]()
    for root in roots:
        base, empty = root if root.is_dir() else root.parent, True
        for files in _folders(root):
            empty = empty and not files
            new = [file for file in files if file not in walked]
            with quiet_libraries():
                found = [
                    item for file in new for item in _look_at(Place(str(file)), (file.relative_to(base).as_posix(),))
                ]
            dicom.extend(item for item in found if isinstance(item, DicomObject))
            sources = [item for item in found if isinstance(item, Source)]
            if len(roots) > 1:  # else nothing comes twice, and a large archive need not be remembered
                walked.update(new)
                sources = [_named_apart(source, root, names) for source in sources]
            data_files.update(file for source in sources for file in source.files[1:])
            yield from (s for s in sources if s.kind != "other" or s.files[0] not in data_files)
        if empty:
            raise InputError(f"source {root} holds no file; give a folder of scans")
    yield from _series(dicom)


def _named_apart(source: Source, root: Path, names: set[tuple[str, ...]]) -> Source:
    """The source, whose name no source of another root has. Raises InputError for two scans of one name: the second
    would be taken for the first."""
    if source.name_parts in names:
        if source.kind != "other":
            raise InputError(
                "two of the given sources hold a scan of the same name below them; give the folder above both instead, "
                "or ingest them one by one into collections of their own"
            )
        source = replace(source, name_parts=(source.name_parts[0], str(root), *source.name_parts[1:]))
    names.add(source.name_parts)
    return source


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
        folders = {entry for entry in entries if _is_folder(entry)}
        pending.extend(sorted(folders, reverse=True))
        yield [entry for entry in entries if entry not in folders]


def _is_folder(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # refused as unreadable where it is looked at


def _look_at(place: Place, relative: tuple[str, ...]) -> Iterator[Source | DicomObject]:
    """What one file is; an archive is what its members are, or one refused source where it cannot be read."""
    other = Source(kind="other", files=(place,), validators=((0, 0),), name_parts=("path", *relative))
    try:
        other = replace(other, validators=(place.validator(),))
        with place.open() as stream:
            head = stream.read(HEAD_BYTES)
        found = content_of(head)
        if found in ("zip", "tar") and not place.member:
            listed = archive.members(place.path)
            if not listed:
                raise refused("not_an_image", "the archive holds no file")
            for member in listed:
                yield from _look_at(Place(place.path, member.name), (*relative, member.name))
            return
    except Refused as no:
        yield replace(other, refusal=no.refusal)
        return
    except OSError as error:
        unreadable = refusal("unreadable", "the file or folder cannot be read", errno=error.errno or 0)
        yield replace(other, refusal=unreadable)
        return
    if found == "dicom":
        yield _dicom_object(place, relative, other)
    elif found in KINDS:
        yield _volume_file(place, found, head, replace(other, kind=KINDS[found]))
    else:
        yield replace(other, refusal=_not_a_volume(found, place.name.lower().endswith(VOLUME_EXTENSIONS)))


def _dicom_object(place: Place, relative: tuple[str, ...], other: Source) -> Source | DicomObject:
    try:
        return read_object(place, relative, other.validators[0])
    except OSError as error:
        return replace(other, refusal=refusal("unreadable", "the file cannot be read", errno=error.errno or 0))


def _volume_file(place: Place, found: Content, head: bytes, source: Source) -> Source:
    """The source with its slices and, for a detached header, its data file."""
    try:
        data_file = _data_file(place, found)
        shape = _promised_shape(place, found, head)
        source = replace(source, slices=shape[2] if len(shape) > 2 else 0, voxels=math.prod(shape))
        if data_file is None:
            return source
        files, validators = (place, data_file), (*source.validators, data_file.validator())
        unplaced = refusal("missing_geometry", UNPLACED) if found == "analyze" else None
        return replace(source, files=files, validators=validators, refusal=unplaced)
    except Refused as no:
        return replace(source, refusal=no.refusal)
    except OSError as error:
        return replace(
            source, refusal=refusal("unreadable", "the header's data file cannot be read", errno=error.errno or 0)
        )


def _data_file(place: Place, found: Content) -> Place | None:
    if found == "nrrd":
        return nrrd.data_file(place)
    if found == "metaimage":
        return metaimage.data_file(place)
    if found == "nifti":
        return None
    for header, data in ((".hdr", ".img"), (".hdr.gz", ".img.gz"), (".HDR", ".IMG")):
        if place.name.endswith(header):
            return place.sibling(place.name.removesuffix(header) + data)
    raise refused(
        "unreadable", "the header of a NIfTI or Analyze pair is not named .hdr, so that its data file is unknown"
    )


def _promised_shape(place: Place, found: Content, head: bytes) -> tuple[int, ...]:
    """(x, y, z, ...) as the header says."""
    if found == "nrrd":
        return nrrd.shape_xyz(place)
    if found == "metaimage":
        return metaimage.shape_xyz(place)
    return nifti_shape_xyz(inflated(head) or b"")


def _not_a_volume(found: Content, promised: bool) -> Refusal:
    if found == "pdf":
        return refusal("pdf", "the file is a PDF document")
    if found in ("zip", "tar"):
        return refusal("unsupported_format", "an archive inside an archive is not read; unpack the outer one")
    if found == "other_archive":
        return refusal("unsupported_format", "of archives zip, tar and tar.gz are read; pack it as one of these")
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
    """Sources of all DICOM objects: one per series and part (splitting.py), in the order of their first files."""
    groups: dict[tuple[str, ...], list[DicomObject]] = {}
    for item in objects:
        key: tuple[str, ...] = (item.series_uid, item.part) if item.series_uid else ("", *item.relative)
        groups.setdefault(key, []).append(item)
    for (series_uid, *part), items in groups.items():
        items.sort(key=lambda item: item.place)
        slices = [(item, frame) for item in items for frame in range(len(item.frames))]
        if not series_uid or part != [""]:
            yield _series_source(series_uid, part, slices)
            continue
        for name, indices in split([item.frames[frame] for item, frame in slices]):
            yield _series_source(series_uid, [name], [slices[n] for n in indices])


def _series_source(series_uid: str, part: list[str], slices: list[tuple[DicomObject, int]]) -> Source:
    """slices : (object, number of its frame) of one part, in the order of files."""
    items = list({item.place: item for item, _ in slices}.values())
    chosen: dict[Place, list[int]] = {}
    for item, frame in slices:
        chosen.setdefault(item.place, []).append(frame)
    divided = any(len(chosen[item.place]) < len(item.frames) for item in items)
    first = items[0]
    return Source(
        kind="dicom",
        files=tuple(item.place for item in items),
        validators=tuple(item.validator for item in items),
        name_parts=("series", series_uid, *part) if series_uid else ("path", *part),
        patient=first.patient,
        study_uid=first.study_uid or None,
        series_uid=series_uid or None,
        refusal=first.refusal or _mixed_patients(items),
        slices=len(slices),
        voxels=sum(math.prod(item.frames[frame].shape_yx) for item, frame in slices),
        frames=tuple(tuple(chosen[item.place]) for item in items) if divided else (),
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
