"""Sources: every DICOM series, volume file and other single file of what a user names, found by content.

Never decodes a voxel. Volume files and other files come as they are met; DICOM files come at the end, since a series
may lie in several folders, and wait on disk (spool.py). Members of archives are looked at in place. How files are
found, walking.py and manifest.py say, and dicom_object.py what a DICOM object is.

No list of an archive's members is kept for the next run: what a listing needs of a member are its headers, which name
patients and so may lie in no cache, and for these the archive is inflated anyway.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from os import PathLike, fspath

from semgen_platform.errors import InputError
from semgen_platform.formats import archive, files, metaimage, nrrd, remote
from semgen_platform.formats.content import HEAD_BYTES, Content, content_of, inflated, nifti_shape_xyz
from semgen_platform.formats.dicom_object import DicomObject, read_object
from semgen_platform.formats.manifest import Manifest, is_manifest, read_manifest
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused, quiet_libraries, refusal, refused
from semgen_platform.formats.source import Kind, Source
from semgen_platform.formats.splitting import split
from semgen_platform.formats.walking import Found, Root, root_at, walk
from semgen_platform.spool import Spool
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
AT_ONCE = 64  # files that are looked at before the sources among them are handed on


def list_sources(
    *given: str | PathLike[str] | Manifest, on_files: Callable[[int], object] = lambda count: None
) -> Iterator[Source]:
    """Every source of folders (any nesting), files, globs, s3:// prefixes and manifests; a series may lie in several.

    on_files : called with the number of files that were looked at since the last call, long before their sources come.
    Raises InputError if a local one is missing, and, while it is walked, if one has no file, or a file that another has
    under the same name: a file is named by its path below what was given.
    """
    opened = [one if isinstance(one, Manifest) else _manifest_or_address(fspath(one)) for one in given]
    roots = [one.roots() if isinstance(one, Manifest) else [root_at(one)] for one in opened]
    several = len(given) > 1 or any(isinstance(one, Manifest) for one in opened)
    return _sources(chain.from_iterable(roots), _Named() if several else None, on_files)


def _manifest_or_address(address: str) -> Manifest | str:
    return read_manifest(address) if is_manifest(address) else address


def _sources(roots: Iterable[Root], named: _Named | None, on_files: Callable[[int], object]) -> Iterator[Source]:
    """named : None for a single root, where nothing comes twice, and a large archive need not be remembered."""
    dicom = Spool[DicomObject]()
    others = _Others()
    for root in roots:
        for batch in walk(root):
            new = batch.found if named is None else (found for found in batch.found if named.is_new(found.place))
            for items in _some(chain.from_iterable(_look_at(found) for found in new)):
                on_files(len(items))
                for item in items:
                    if isinstance(item, DicomObject):
                        dicom.add(item, item.series)
                for source in (item for item in items if isinstance(item, Source)):
                    source = source if named is None else named.apart(source, root.path)
                    others.data_files.update(source.files[1:])
                    if source.kind == "other":
                        others.add(source)
                    else:
                        yield source
            yield from others.left(batch.still_open)
        yield from others.left("")
    for objects in dicom.groups():
        for source in _series(objects):
            yield source if named is None else named.apart(source, files.parent(source.files[0].path))


def _some(items: Iterator[Source | DicomObject]) -> Iterator[list[Source | DicomObject]]:
    """The items, a few at a time; the libraries that find them are kept quiet, and those that take them are not."""
    while True:
        with quiet_libraries():
            few = list(islice(items, AT_ONCE))
        if not few:
            return
        yield few


class _Others:
    """Files that are no scan wait until their folder is left, since a detached header there may name them as its data;
    then they are part of that source, and none of their own."""

    def __init__(self) -> None:
        self.data_files = set[Place]()
        self._waiting: dict[str, list[Source]] = {}

    def add(self, source: Source) -> None:
        self._waiting.setdefault(files.parent(str(source.files[0])), []).append(source)

    def left(self, still_open: str) -> Iterator[Source]:
        """Those of folders of which no more files come: all but `still_open` and the folders above it."""
        for folder in [folder for folder in self._waiting if not f"{still_open}/".startswith(f"{folder}/")]:
            yield from (s for s in self._waiting.pop(folder) if s.files[0] not in self.data_files)


class _Named:
    """What was met so far, as digests: paths and names of a million files would take a gigabyte."""

    def __init__(self) -> None:
        self._met, self._names = set[bytes](), set[bytes]()

    def is_new(self, place: Place) -> bool:
        """Whether a file was not met below another root, which may be the folder above."""
        return _added(self._met, str(place))

    def apart(self, source: Source, above: str) -> Source:
        """The source, whose name no source of another root has; what is no scan gets the path `above` it into its
        name. Raises InputError for two scans of one name: the second would be taken for the first."""
        if _added(self._names, "\n".join(source.name_parts)):
            return source
        if source.refusal is None:
            raise InputError(
                "two of the given sources hold a scan of the same name below them; give the folder above both instead, "
                "or ingest them one by one into collections of their own"
            )
        source = replace(source, name_parts=(source.name_parts[0], above, *source.name_parts[1:]))
        _added(self._names, "\n".join(source.name_parts))
        return source


def _added(digests: set[bytes], text: str) -> bool:
    """Whether the text was not among them; it is then."""
    before = len(digests)
    digests.add(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).digest())
    return len(digests) > before


def _look_at(found: Found) -> Iterator[Source | DicomObject]:
    """What one file is; an archive is what its members are, or one refused source where it cannot be read."""
    place, relative = found.place, found.relative
    other = Source(kind="other", files=(place,), validators=((0, 0),), name_parts=("path", *relative))
    try:
        validator, stream = found.open()
        other = replace(other, validators=(validator,))
        with stream:
            head = stream.read(HEAD_BYTES)
            content = content_of(head)
            dicom = read_object(place, relative, validator, stream) if content == "dicom" else None
        if dicom is not None:
            yield dicom
        elif content in ("zip", "tar") and not place.member:
            yield from _members(place, relative)
        elif content in KINDS:
            yield _volume_file(place, content, head, replace(other, kind=KINDS[content]))
        else:
            yield replace(other, refusal=_not_a_volume(content, place.name.lower().endswith(VOLUME_EXTENSIONS)))
    except Refused as no:
        yield replace(other, refusal=no.refusal)
    except remote.ServerGone as error:
        if not remote.answers(place.path):
            raise InputError("the server of a source does not answer any more; run again when it does") from None
        yield replace(other, refusal=_unreadable(error))
    except OSError as error:
        yield replace(other, refusal=_unreadable(error))


def _members(place: Place, relative: tuple[str, ...]) -> Iterator[Source | DicomObject]:
    listed = archive.members(place.path)
    if not listed:
        raise refused("not_an_image", "the archive holds no file")
    for member in listed:
        yield from _look_at(Found(Place(place.path, member.name), (*relative, member.name)))


def _unreadable(error: OSError) -> Refusal:
    return refusal("unreadable", "the file or folder cannot be read", errno=error.errno or 0)


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
    if found == "gzipped_volume":
        return refusal("unsupported_format", "of files in gzip only NIfTI is read; unpack it")
    if found == "other_volume":
        return refusal("unsupported_format", "HDF5 and MINC volumes are not read; convert the scan to NIfTI")
    if not promised:
        return refusal(
            "not_an_image", "the file holds no image in a format that is read (DICOM, NIfTI, NRRD, MetaImage)"
        )
    if found == "empty":
        return refusal("truncated", "the file is empty", bytes=0)
    return refusal("corrupt", "the file is named as a scan but does not begin as one")


def _series(objects: list[DicomObject]) -> Iterator[Source]:
    """Sources of the objects of one series, or of one object that names none: one per part (splitting.py)."""
    series_uid, *part = objects[0].series if objects[0].series_uid else ("", *objects[0].relative)
    items = sorted(objects, key=lambda item: item.place)
    slices = [(item, frame) for item in items for frame in range(len(item.frames))]
    if not series_uid or part != [""]:
        yield _series_source(series_uid, part, slices)
        return
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
