"""What an ingest found to read: its sources under their names in the lake, on disk, and a line of each in memory.

The raw identities that a listing meets become pseudonyms here and go no further.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from semgen_pipelines.convert import IngestConfig, Item, reading_options
from semgen_platform.errors import ConfigError
from semgen_platform.formats.manifest import Manifest, ManifestRow, is_manifest, read_manifest
from semgen_platform.formats.reader import CONVERTER_VERSION
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.lake.tables import source_state
from semgen_platform.privacy import Pseudonyms
from semgen_platform.progress import Progress
from semgen_platform.spool import Spool


@dataclass(frozen=True, slots=True)
class Listed:
    """One source in a few words. number : of its item on disk.  reason : where its headers say that it is no scan.

    state : as the tables have it, which may end in how often the source was spoken of before.
    """

    number: int
    source_id: str
    state: str
    patient_id: str
    labels: Mapping[str, str]
    bytes: int
    voxels: int
    reason: str


class Listing:
    """All sources of an ingest. items : in the order of `listed`; a DICOM series names a file for every slice."""

    def __init__(self) -> None:
        self.items = Spool[Item]()
        self.listed: list[Listed] = []

    def add(self, item: Item) -> None:
        """One source more."""
        source = item.source
        self.listed.append(
            Listed(
                number=self.items.add(item),
                source_id=item.source_id,
                state=item.state,
                patient_id=item.patient_id,
                labels=item.labels,
                bytes=source.bytes,
                voxels=source.voxels,
                reason=source.refusal.reasons[0] if source.refusal is not None else "",
            )
        )


def list_items(
    roots: Sequence[str | Path], key: bytes, config: IngestConfig, manifest_file: Path | None, *, quiet: bool
) -> Listing:
    """Every source of `roots` once. Raises InputError, ConfigError for a bad --patient-from, StorageError."""
    listing = Listing()
    with Progress("ingest: listing, files", quiet=quiet) as progress:
        for item in _items(roots, key, config, manifest_file, progress):
            listing.add(item)
    return listing


def _items(
    roots: Sequence[str | Path], key: bytes, config: IngestConfig, manifest_file: Path | None, progress: Progress
) -> Iterator[Item]:
    pseudonyms = Pseudonyms(key, config.patient_namespace)
    named: list[str | Manifest] = [read_manifest(str(one)) if is_manifest(str(one)) else str(one) for one in roots]
    manifests = [one for one in named if isinstance(one, Manifest)]
    if manifest_file is not None:
        manifests.append(read_manifest(str(manifest_file), [one for one in named if isinstance(one, str)]))
    for source in list_sources(*named, on_files=progress.advance):
        row = next((row for m in manifests if (row := m.of(source.files)) is not None), ManifestRow())
        collection = row.collection or config.collection
        patient = (row.patient_id, "") if row.patient_id else source.patient
        patient_id, days_back = _pseudonym(pseudonyms, config, collection, source, patient)
        yield Item(
            source=replace(source, patient=None, study_uid=None, series_uid=None, name_parts=()),
            source_id=pseudonyms.source(collection, source.name_parts),
            state=source_state(source.state(), CONVERTER_VERSION, reading_options(config)),
            collection=collection,
            patient_id=patient_id,
            study_id=pseudonyms.study(source.study_uid) if source.study_uid else "",
            series_id=pseudonyms.series(source.series_uid) if source.series_uid else "",
            patient_known=patient is not None,
            labels=dict(row.labels),
            days_back=days_back if config.dates == "shift" else 0,
        )


def _pseudonym(
    pseudonyms: Pseudonyms, config: IngestConfig, collection: str, source: Source, patient: tuple[str, str] | None
) -> tuple[str, int]:
    """(pseudonym, days that dates move back) of whoever a source shows. Raises ConfigError for a bad --patient-from."""
    if patient is not None:
        return pseudonyms.patient(patient), pseudonyms.days_back(patient)
    parts = _patient_from(config.patient_from, source)
    return pseudonyms.unknown_patient(collection, parts), pseudonyms.unknown_days_back(collection, parts)


def _patient_from(rule: str, source: Source) -> tuple[str, ...]:
    """What stands for the patient of a source that names none. Raises ConfigError for a bad rule."""
    if rule == "file":
        return source.name_parts[:2] if source.name_parts[0] == "series" else source.name_parts
    path = "/".join(source.name_parts[1:]) if source.name_parts[0] == "path" else str(source.files[0])
    if rule == "folder":
        return (str(Path(path).parent),)
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise ConfigError(
            f"--patient-from {rule} is no regular expression ({error}); give file, folder or one"
        ) from None
    if pattern.groups != 1:
        raise ConfigError(f"--patient-from {rule} has {pattern.groups} groups; give exactly one")
    match = pattern.search(path)
    return (match.group(1),) if match and match.group(1) else source.name_parts
