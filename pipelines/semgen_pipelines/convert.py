"""One source into the lake: what travels to a worker, what it makes of it, and what comes back.

A worker decodes in a child process (isolation.py), since decoders may crash or hang on what they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from semgen_pipelines.isolation import Crashed, Isolated, TimedOut
from semgen_platform.config import Config
from semgen_platform.errors import StorageError
from semgen_platform.formats.dicom_privacy import dates_of
from semgen_platform.formats.reader import CONVERTER_VERSION, read_source
from semgen_platform.formats.source import Source
from semgen_platform.lake.pending import write_pending
from semgen_platform.lake.tables import SCHEMAS
from semgen_platform.lake.volumes import write_volume
from semgen_platform.privacy import method_codes, shifted_dates
from semgen_platform.spool import unpacked
from semgen_platform.volume import Refusal, Volume

ATTEMPT = "0"  # ingest never starts over: an attempt ends when every source has an outcome
MOST_CRASHES = 2  # of one source: the second time it is alone in a new process, and then the source is to blame

RowsByTable = dict[str, list[dict[str, Any]]]


class IngestConfig(Config):
    """What decides how a source is converted and filed; a change of these makes a new (source, state)."""

    collection: str = "default"
    """Name under which the scans are filed."""
    min_slices: int = 16
    """Fewer slices are refused as too_few_slices."""
    geometry: Literal["strict", "repair"] = "strict"
    """Whether a gantry tilt and uneven steps are refused, or mended by interpolation and flagged."""
    patient_from: str = "file"
    """For sources that name no patient: file, folder, or a regular expression with one group over the path."""
    patient_namespace: str = ""
    """Prefix that keeps the patient numbers of two hospitals apart where DICOM gives no issuer."""
    dates: Literal["drop", "shift"] = "drop"
    """Dates of a DICOM source: left out, or kept and moved back by a number of days of the patient's own."""
    time_limit_s: float = Field(900.0, gt=0)
    """Longest time for one source; then it is refused as timed_out. It changes no volume."""


@dataclass(frozen=True)
class Item:
    """One source with its names in the lake: what travels to a worker, packed (spool.py)."""

    source: Source
    source_id: str
    state: str
    collection: str
    patient_id: str
    study_id: str
    series_id: str
    patient_known: bool
    labels: Mapping[str, str]
    days_back: int = 0
    """How far the patient's dates are moved; 0 where they are dropped."""


@dataclass(frozen=True)
class Outcome:
    """What became of one source."""

    source_id: str
    status: str
    scan_id: str = ""
    reason: str = ""
    sentence: str = ""
    flags: tuple[str, ...] = ()
    voxels: int = 0
    bytes_stored: int = 0


@dataclass(frozen=True)
class Converter:
    """Reads a source and leaves a volume and its rows, or a refusal's row, as a pending file of the run.

    lake : its address; who reads or writes there has the credentials in the environment.
    """

    lake: str
    run_id: str
    config: IngestConfig

    def __call__(self, item: Item) -> Outcome:
        """Raises only for bugs of ours and a storage that fails."""
        repair = self.config.geometry == "repair"
        result = item.source.refusal or read_source(item.source, min_slices=self.config.min_slices, repair=repair)
        if isinstance(result, Refusal):
            return self.refuse(item, result)
        rows, outcome = self._stored(item, result)
        write_pending(self.lake, self.run_id, ATTEMPT, rows)
        return outcome

    def refuse(self, item: Item, refusal: Refusal) -> Outcome:
        """The outcome of a refusal, whose row is pending then."""
        rows, outcome = self._refused(item, refusal)
        write_pending(self.lake, self.run_id, ATTEMPT, rows)
        return outcome

    def _refused(self, item: Item, refusal: Refusal) -> tuple[RowsByTable, Outcome]:
        said = {"reasons": list(refusal.reasons), "sentence": refusal.sentence, "evidence": dict(refusal.evidence)}
        outcome = Outcome(item.source_id, "rejected", "", refusal.reasons[0], refusal.sentence)
        return {"rejects": [{**self._common(item), **said}]}, outcome

    def _stored(self, item: Item, volume: Volume) -> tuple[RowsByTable, Outcome]:
        scan = write_volume(self.lake, volume, self.run_id)
        flags = tuple(flag for flag in volume.flags if flag != "patient_unknown")
        flags += () if item.patient_known else ("patient_unknown",)
        columns = set(SCHEMAS["sources"].names)
        source = {
            **self._common(item),
            **{name: value for name, value in volume.attributes.items() if name in columns},
            "attributes": {
                **{name: value for name, value in volume.attributes.items() if name not in columns},
                **self._deidentified(item),
            },
            "scan_id": scan["scan_id"],
            "patient_id": item.patient_id,
            "study_id": item.study_id or None,
            "series_id": item.series_id or None,
            "flags": list(flags),
            "labels": dict(item.labels),
        }
        outcome = Outcome(
            item.source_id,
            "ingested",
            scan["scan_id"],
            flags=all_flags(scan["flags"], flags),
            voxels=volume.voxels.size,
            bytes_stored=scan["bytes"],
        )
        return {"sources": [source], "scans": [scan]}, outcome

    def _deidentified(self, item: Item) -> dict[str, Any]:
        """Codes of what was done to a DICOM source's identity, and its dates where they are kept."""
        if item.source.kind != "dicom":
            return {}
        shift = self.config.dates == "shift"
        newest = datetime.now(UTC).date() + timedelta(days=1)  # it is tomorrow already somewhere
        dates = shifted_dates(dates_of(item.source.files[0], newest), item.days_back) if shift else {}
        return {"deidentification_codes": method_codes(dates_shifted=shift), **dates}

    def _common(self, item: Item) -> dict[str, Any]:
        return {
            "source_id": item.source_id,
            "state": item.state,
            "collection": item.collection,
            "kind": item.source.kind,
            "files": len(item.source.files),
            "slices": item.source.slices,
            "bytes": item.source.bytes,
            "converter_version": CONVERTER_VERSION,
            "options": reading_options(self.config),
            "run_id": self.run_id,
        }


class ConvertSource:
    """The converter in a child process. Ray builds this once per worker and hands it row after row."""

    def __init__(self, lake: str, run_id: str, config: IngestConfig, memory_bytes: int) -> None:
        self._convert = Converter(lake, run_id, config)
        self._isolated = Isolated(self._convert, config.time_limit_s, memory_bytes)
        self._memory_bytes = memory_bytes
        self._failed: StorageError | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The outcome, or a StorageError as a row, since Ray Data turns what is raised into an error of its own. It is
        that of what follows, too: the command ends by it, and would wait for the rest of the block."""
        item: Item = replace(unpacked(row["item"]), state=row["state"])
        try:
            return {"outcome": self._failed or self._refused_by_header(item) or self._decoded(item)}
        except StorageError as error:
            self._failed = error
            return {"outcome": error}

    def _refused_by_header(self, item: Item) -> Outcome | None:
        return None if item.source.refusal is None else self._convert.refuse(item, item.source.refusal)

    def _decoded(self, item: Item) -> Outcome:
        status = 0
        for _ in range(MOST_CRASHES):
            try:
                return self._isolated(item)
            except TimedOut:
                limit = self._convert.config.time_limit_s
                sentence = f"reading the source took longer than {limit:g} s"
                return self._convert.refuse(item, Refusal(("timed_out",), sentence, {"limit_s": limit}))
            except MemoryError:
                sentence = "reading the source takes more memory than its header promises or any machine here has"
                return self._convert.refuse(
                    item, Refusal(("too_large",), sentence, {"limit_bytes": self._memory_bytes})
                )
            except Crashed as error:
                status = error.status
        sentence = f"the process that decoded the source crashed, {MOST_CRASHES} times in a row"
        evidence = {"crashes": MOST_CRASHES, "exit_status": status}
        return self._convert.refuse(item, Refusal(("decoder_failed",), sentence, evidence))


def reading_options(config: IngestConfig) -> dict[str, Any]:
    """The options that change what a source becomes, and with them its state."""
    return {"min_slices": config.min_slices, "geometry": config.geometry, "dates": config.dates}


def all_flags(of_voxels: Sequence[str], of_source: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted({*of_voxels, *of_source}))
