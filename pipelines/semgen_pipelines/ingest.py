"""Ingest: sources become scans of the lake, each exactly once, or rows that say why not.

The driver lists sources, asks the tables what is known already, and hands the rest to actors as small rows; an actor
turns one source into one volume and its rows as a pending file (convert.py); the driver commits pending rows in
batches. A driver or worker that dies costs the sources in flight: the same command begins with what is pending and goes
on (DESIGN.md sections 4 and 7). No voxel passes through Ray's object store.
"""

from __future__ import annotations

import csv
import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semgen_pipelines.convert import ATTEMPT, ConvertSource, IngestConfig, Item, Outcome, all_flags, reading_options
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.size_classes import SizeClass, size_classes
from semgen_platform import ids
from semgen_platform.errors import Busy, ConfigError, Incomplete, StorageError
from semgen_platform.formats import files
from semgen_platform.formats.manifest import Manifest, ManifestRow, is_manifest, read_manifest
from semgen_platform.formats.reader import CONVERTER_VERSION
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.pending import commit_pending, runs_with_pending
from semgen_platform.lake.tables import source_state
from semgen_platform.privacy import Pseudonyms
from semgen_platform.progress import Progress
from semgen_platform.volume import TEMPORARY_REASONS

COMMIT_EVERY = 500  # rows; one Delta MERGE costs about as much for one row as for a thousand
COMMIT_EVERY_S = 30.0
AGAIN = "~"  # parts a state from the number of times that it was spoken of before
FIRST_BYTES_PER_S = 6e6  # the demo's 32 phantoms, mostly compressed, on one core
REPORT_COLUMNS = ("source", "member", "status", "scan_id", "reason", "sentence", "flags", "slices", "bytes")


_log = logging.getLogger(__name__)

Known = Mapping[tuple[str, str], "Outcome"]


@dataclass(frozen=True)
class IngestSummary:
    """The counts of one ingest; found = ingested + already + rejected. `decoded` counts the sources that were read."""

    found: int
    ingested: int
    already: int
    rejected: int
    flagged: int
    decoded: int
    voxels: int
    bytes_in: int
    bytes_stored: int
    seconds: float
    lake_version: int
    run_id: str
    reasons: Mapping[str, int]


def ingest(
    roots: Sequence[str | Path],
    lake: Lake,
    key: bytes,
    config: IngestConfig,
    *,
    manifest_file: Path | None = None,
    report: Path | None = None,
    workers: int = 2,
    address: str | None = None,
    quiet: bool = False,
) -> IngestSummary:
    """Add every source of `roots` (folders, files, globs, s3:// prefixes, manifests) to the lake.

    Raises WrongKey, InputError (missing or empty SOURCE, manifest, Ray), Busy (the same ingest runs already) and
    Incomplete (sources without an outcome after Ray's retries; run again).
    """
    started = time.monotonic()
    lake.check_key(key)
    items = list(_items(roots, key, config, manifest_file, quiet=quiet))
    run_id = ids.artefact_id(
        "ingest",
        recipe=config.model_dump(mode="json", exclude={"time_limit_s"}),
        revision=CONVERTER_VERSION,
        parents=[],
        selection=ids.digest_of(sorted([i.source_id, i.state] for i in items)),
    )
    with hold(lake.storage, run_id):
        _commit_left_over(lake, run_id)
        tables = _tables(lake.refresh())
        known, fresh = tables.known, tables.fresh(items)
        outcomes = list(_convert(fresh, lake, config, run_id, workers, address, quiet=quiet)) if fresh else []
        seconds = time.monotonic() - started
        version = _finish(lake, run_id, config, fresh, outcomes, seconds) if fresh else lake.refresh().version
    if report is not None:
        states = {item.source_id: item.state for item in items}
        _write_report(report, items, {**known, **{(o.source_id, states[o.source_id]): o for o in outcomes}})
    if missing := len(fresh) - len(outcomes):
        raise Incomplete(f"{missing} of {len(items)} sources have no outcome after retries; run the same command again")
    return _summary(items, known, outcomes, started, version, run_id)


@dataclass(frozen=True)
class DryRun:
    """What an ingest would do, from headers alone: found = to_read + already + rejected.

    seconds : for the reading, at the rate of this lake's ingests so far, or of the demo's on one core before the first.
    """

    found: int
    to_read: int
    already: int
    rejected: int
    bytes_to_read: int
    seconds: float
    reasons: Mapping[str, int]


def dry_run(
    roots: Sequence[str | Path],
    lake: Lake,
    key: bytes,
    config: IngestConfig,
    *,
    manifest_file: Path | None = None,
    quiet: bool = False,
) -> DryRun:
    """What `ingest` would do with the same arguments; nothing is decoded or written. Raises WrongKey, InputError."""
    lake.check_key(key)
    items = list(_items(roots, key, config, manifest_file, quiet=quiet))
    known = _tables(lake).known
    before = [known[item.source_id, item.state] for item in items if (item.source_id, item.state) in known]
    fresh = [item for item in items if (item.source_id, item.state) not in known]
    refused = [item.source.refusal.reasons[0] for item in fresh if item.source.refusal is not None]
    reasons = Counter([*refused, *(outcome.reason for outcome in before if outcome.reason)])
    to_read = [item for item in fresh if item.source.refusal is None]
    size = sum(item.source.bytes for item in to_read)
    return DryRun(
        found=len(items),
        to_read=len(to_read),
        already=sum(outcome.status == "already" for outcome in before),
        rejected=sum(reasons.values()),
        bytes_to_read=size,
        seconds=round(size / _bytes_per_second(lake), 1),
        reasons=dict(reasons.most_common()),
    )


def _bytes_per_second(lake: Lake) -> float:
    """Bytes of sources a second over the lake's ingests that read anything."""
    details = [
        json.loads(row["details"])
        for row in lake.table("runs", columns=["kind", "details"]).to_pylist()
        if row["kind"] == "ingest" and row["details"]
    ]
    size, seconds = (sum(d.get(name, 0) for d in details) for name in ("bytes_in", "seconds"))
    return size / seconds if size and seconds else FIRST_BYTES_PER_S


def _commit_left_over(lake: Lake, run_id: str) -> None:
    """Commit the pending rows of this and of other ingests that were killed; those of a live one are its own."""
    for other in runs_with_pending(lake):
        if not other.startswith("i"):
            continue
        try:
            with nullcontext() if other == run_id else hold(lake.storage, other):
                commit_pending(lake, other)
        except Busy:
            _log.info("pending rows left to their live ingest run_id=%s", other)
    lake.commit("ingest", run_id)


def _items(
    roots: Sequence[str | Path], key: bytes, config: IngestConfig, manifest_file: Path | None, *, quiet: bool
) -> Iterator[Item]:
    """Each source once, with its pseudonyms; the raw identities end here."""
    pseudonyms = Pseudonyms(key, config.patient_namespace)
    named: list[str | Manifest] = [read_manifest(str(one)) if is_manifest(str(one)) else str(one) for one in roots]
    manifests = [one for one in named if isinstance(one, Manifest)]
    if manifest_file is not None:
        manifests.append(read_manifest(str(manifest_file), [one for one in named if isinstance(one, str)]))
    with Progress("ingest: listing, files", quiet=quiet) as progress:
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
    return (match.group(1),) if match else source.name_parts


@dataclass(frozen=True)
class Tables:
    """What the tables say of sources.

    known : by (source, state), the outcome of each source's last word, if that is not a refusal that may pass.
    times : how often each (source, state) was spoken of.
    """

    known: Known
    times: Mapping[tuple[str, str], int]

    def fresh(self, items: Sequence[Item]) -> list[Item]:
        """The items to be read. A state that was spoken of before, and is not the last word, gets a name of its own:
        rows are inserted once by (source, state), and the newest row speaks."""
        found = [item for item in items if (item.source_id, item.state) not in self.known]
        again = [self.times.get((item.source_id, item.state), 0) for item in found]
        return [
            replace(item, state=f"{item.state}{AGAIN}{n}") if n else item for item, n in zip(found, again, strict=True)
        ]


def _tables(lake: Lake) -> Tables:
    of_voxels = {row["scan_id"]: row["flags"] for row in lake.table("scans", columns=["scan_id", "flags"]).to_pylist()}
    last: dict[str, tuple[tuple[bool, Any], str, Outcome]] = {}
    times = Counter[tuple[str, str]]()
    taken = lake.table("sources", columns=["source_id", "state", "scan_id", "flags", "created_at"]).to_pylist()
    refused = lake.table("rejects", columns=["source_id", "state", "reasons", "sentence", "created_at"]).to_pylist()
    for row in [*taken, *refused]:
        reason = row["reasons"][0] if "reasons" in row else ""
        if not reason and row["scan_id"] not in of_voxels:
            continue  # another ingest is committing it: its scan comes after its source
        state = row["state"].partition(AGAIN)[0]
        times[row["source_id"], state] += 1
        weight = (reason not in TEMPORARY_REASONS, row["created_at"])
        if row["source_id"] in last and last[row["source_id"]][0] > weight:
            continue
        if reason:
            outcome = Outcome(row["source_id"], "rejected", "", reason, row["sentence"])
        else:
            flags = all_flags(of_voxels[row["scan_id"]], row["flags"])
            outcome = Outcome(row["source_id"], "already", row["scan_id"], flags=flags)
        last[row["source_id"]] = (weight, state, outcome)
    known = {(name, state): outcome for name, (weight, state, outcome) in last.items() if weight[0]}
    return Tables(known, times)


def _convert(
    fresh: Sequence[Item],
    lake: Lake,
    config: IngestConfig,
    run_id: str,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> Iterator[Outcome]:
    """Outcomes as they come in; pending rows are committed now and then, so that a reader sees a long ingest grow."""
    with (
        ray_session(address, needs={"ingest workers": min(workers, len(fresh))}) as ray,
        Progress("ingest: reading", len(fresh), quiet=quiet) as progress,
    ):
        nodes = [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]
        waiting, committed = 0, time.monotonic()
        for size_class in size_classes(fresh, nodes, workers):
            for outcome in _read(ray, size_class, lake, config, run_id):
                yield outcome
                progress.advance()
                waiting += 1
                if waiting >= COMMIT_EVERY or time.monotonic() - committed > COMMIT_EVERY_S:
                    commit_pending(lake, run_id)
                    waiting, committed = 0, time.monotonic()


def _read(ray: Any, size_class: SizeClass, lake: Lake, config: IngestConfig, run_id: str) -> Iterator[Outcome]:
    """Outcomes of one class, by workers of its own that Ray places by their memory."""
    items, workers = size_class.items, size_class.workers
    sources = ray.data.from_items(
        [{"item": item} for item in items], override_num_blocks=min(len(items), 100 * workers)
    )
    outcomes = sources.map(
        ConvertSource,
        fn_constructor_args=(lake.uri, run_id, config, size_class.memory_bytes),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        memory=size_class.memory_bytes,
    )
    for row in outcomes.iter_rows():
        outcome: Outcome | StorageError = row["outcome"]
        if isinstance(outcome, StorageError):
            raise outcome
        yield outcome


def _finish(
    lake: Lake, run_id: str, config: IngestConfig, fresh: Sequence[Item], outcomes: Sequence[Outcome], seconds: float
) -> int:
    """Commit what is pending and the row of this run; the new lake version makes them visible together."""
    commit_pending(lake, run_id)
    counts = Counter(outcome.status for outcome in outcomes)
    run = {
        "run_id": run_id,
        "attempt": ATTEMPT,
        "kind": "ingest",
        "recipe": config.model_dump(mode="json"),
        "state": "done",
        "steps": len(outcomes),
        "lake_version": lake.refresh().version,
        "details": {
            **counts,
            "bytes_in": sum(item.source.bytes for item in fresh if item.source.refusal is None),
            "seconds": round(seconds, 2),
        },
    }
    lake.insert("runs", [run])
    return lake.commit("ingest", run_id)


def _summary(
    items: Sequence[Item], known: Known, outcomes: Sequence[Outcome], started: float, version: int, run_id: str
) -> IngestSummary:
    before = [known[item.source_id, item.state] for item in items if (item.source_id, item.state) in known]
    every = [*before, *outcomes]
    counts = Counter(outcome.status for outcome in every)
    return IngestSummary(
        found=len(items),
        ingested=counts["ingested"],
        already=counts["already"],
        rejected=counts["rejected"],
        flagged=sum(bool(outcome.flags) for outcome in every),
        decoded=sum(1 for item in items if (item.source_id, item.state) not in known and item.source.refusal is None),
        voxels=sum(outcome.voxels for outcome in outcomes),
        bytes_in=sum(item.source.bytes for item in items if (item.source_id, item.state) not in known),
        bytes_stored=sum(outcome.bytes_stored for outcome in outcomes),
        seconds=round(time.monotonic() - started, 2),
        lake_version=version,
        run_id=run_id,
        reasons=dict(Counter(outcome.reason for outcome in every if outcome.reason).most_common()),
    )


def _write_report(path: Path, items: Sequence[Item], outcomes: Known) -> None:
    """The operator's own CSV, outside the lake: the only place where a path stands beside a refusal."""
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, REPORT_COLUMNS)
        writer.writeheader()
        for item in items:
            outcome = outcomes.get((item.source_id, item.state))
            if outcome is None:
                continue
            writer.writerow(
                {
                    **_where(item.source),
                    "status": outcome.status,
                    "scan_id": outcome.scan_id,
                    "reason": outcome.reason,
                    "sentence": outcome.sentence,
                    "flags": " ".join(outcome.flags),
                    "slices": item.source.slices,
                    "bytes": item.source.bytes,
                }
            )


def _where(source: Source) -> dict[str, str]:
    """The file or folder of a source, and the member or folder of members in an archive."""
    paths, inside = {place.path for place in source.files}, {place.member for place in source.files}
    member = files.common(inside) if len(inside) == 1 or len(paths) == 1 else ""
    return {"source": files.common(paths), "member": member}


def check_rejects(summary: IngestSummary, limit: str | None) -> None:
    """Raise Incomplete where more sources were refused than `limit`, a count or a percentage such as 5%."""
    if limit is None:
        return
    number = limit.removesuffix("%")
    if not number.replace(".", "", 1).isdigit():
        raise ConfigError(f"--max-rejects {limit} is neither a count nor a percentage; give e.g. 10 or 5%")
    allowed = float(number) * (summary.found / 100 if limit.endswith("%") else 1)
    if summary.rejected > allowed:
        raise Incomplete(
            f"{summary.rejected} of {summary.found} sources were refused, more than --max-rejects {limit}; "
            "see semgen-platform lake rejects"
        )
