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
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from semgen_pipelines.convert import ConvertSource, IngestConfig, Outcome, all_flags
from semgen_pipelines.listing import Listed, Listing, list_items
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.size_classes import SizeClass, size_classes
from semgen_platform import ids
from semgen_platform.errors import Busy, ConfigError, Incomplete, StorageError
from semgen_platform.formats import files
from semgen_platform.formats.reader import CONVERTER_VERSION
from semgen_platform.formats.source import Source
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.pending import commit_pending, runs_with_pending
from semgen_platform.progress import Progress
from semgen_platform.volume import TEMPORARY_REASONS

COMMIT_EVERY = 500  # rows; one Delta MERGE costs about as much for one row as for a thousand
COMMIT_EVERY_S = 30.0
BLOCK_SOURCES = 4  # Ray hands on the outcomes of a block together, and does all of it again when its worker dies
OPERATORS_WORDS = ("patient_from", "patient_namespace")
AGAIN = "~"  # parts a state from the number of times that it was spoken of before, and from what is said of it
SAID_LETTERS = 8
FIRST_BYTES_PER_S = 6e6  # the demo's 32 phantoms, mostly compressed, on one core
SPOKEN_OF_SCANS = ["source_id", "state", "scan_id", "flags", "patient_id", "labels", "created_at"]
REPORT_COLUMNS = ("source", "member", "status", "scan_id", "reason", "sentence", "flags", "slices", "bytes")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestSummary:
    """The counts of one ingest; found = ingested + already + rejected. `decoded` counts the sources that were read.

    filed_otherwise : of `already`, those that this manifest or these options would file under another patient or with
        other labels, which --refile does.
    """

    found: int
    ingested: int
    already: int
    rejected: int
    filed_otherwise: int
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
    refile: bool = False,
    report: Path | None = None,
    workers: int = 2,
    address: str | None = None,
    quiet: bool = False,
) -> IngestSummary:
    """Add every source of `roots` (folders, files, globs, s3:// prefixes, manifests) to the lake.

    refile : sources that are there, but under another patient or with other labels, are read and filed once more.
    Raises WrongKey, InputError (missing or empty SOURCE, manifest, Ray), Busy (the same ingest runs already),
    StorageError and Incomplete (sources without an outcome after Ray's retries; run again).
    """
    started = time.monotonic()
    lake.check_key(key)
    if report is not None:
        _check_report(report, lake.storage.local_root)
    listing = list_items(roots, key, config, manifest_file, quiet=quiet)
    run_id = ids.artefact_id(
        "ingest",
        recipe=config.model_dump(mode="json", exclude={"time_limit_s"}),
        revision=CONVERTER_VERSION,
        parents=[],
        selection=ids.digest_of(sorted([one.source_id, one.state] for one in listing.listed)),
    )
    with hold(lake.storage, run_id):
        _commit_left_over(lake, run_id)
        parted = _tables(lake.refresh()).part(listing.listed, refile=refile)
        fresh = parted.fresh
        outcomes = list(_convert(fresh, listing, lake, config, run_id, workers, address, quiet=quiet)) if fresh else []
        seconds = time.monotonic() - started
        recipe = _recipe(config, key)
        version = _finish(lake, run_id, recipe, fresh, outcomes, seconds) if fresh else lake.refresh().version
    if missing := len(fresh) - len(outcomes):
        raise Incomplete(
            f"{missing} of {len(listing.listed)} sources have no outcome after retries; run the same command again"
        )
    if report is not None:
        _write_report(report, listing, [*parted.known, *outcomes])
    return _summary(parted, outcomes, started, version, run_id)


@dataclass(frozen=True)
class DryRun:
    """What an ingest would do, from headers alone: found = to_read + already + rejected.

    seconds : for the reading, at the rate of this lake's ingests so far, or of the demo's on one core before the first.
    """

    found: int
    to_read: int
    already: int
    rejected: int
    filed_otherwise: int
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
    refile: bool = False,
    quiet: bool = False,
) -> DryRun:
    """What `ingest` would do with the same arguments; nothing is decoded, or written to the lake. Raises as it does."""
    lake.check_key(key)
    listing = list_items(roots, key, config, manifest_file, quiet=quiet)
    parted = _tables(lake).part(listing.listed, refile=refile)
    refused = [one.reason for one in parted.fresh if one.reason]
    reasons = Counter([*refused, *(outcome.reason for outcome in parted.known if outcome.reason)])
    to_read = [one for one in parted.fresh if not one.reason]
    size = _bytes_read(to_read)
    return DryRun(
        found=len(listing.listed),
        to_read=len(to_read),
        already=sum(outcome.status == "already" for outcome in parted.known),
        rejected=sum(reasons.values()),
        filed_otherwise=parted.filed_otherwise,
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


@dataclass(frozen=True)
class Parted:
    """Listed sources in outcomes that the tables know, and those that are to be read."""

    known: Sequence[Outcome]
    fresh: Sequence[Listed]
    filed_otherwise: int


@dataclass(frozen=True)
class Tables:
    """What the tables say of sources.

    known : by (source, state), the outcome of each source's last word, if that is not a refusal that may pass.
    filed : of those that are scans, under which patient and with which labels.
    times : how often each (source, state) was spoken of.
    """

    known: Mapping[tuple[str, str], Outcome]
    filed: Mapping[tuple[str, str], tuple[str, Mapping[str, str]]]
    times: Mapping[tuple[str, str], int]

    def part(self, listed: Sequence[Listed], *, refile: bool) -> Parted:
        """The listed sources in what is known and what is not.

        A state that was spoken of before, and is to be again, gets a name of its own: rows are inserted once by
        (source, state), and the newest row speaks.
        """
        known, fresh, otherwise = list[Outcome](), list[Listed](), 0
        for one in listed:
            spoken = one.source_id, one.state
            differs = self.filed.get(spoken, (one.patient_id, one.labels)) != (one.patient_id, one.labels)
            if spoken in self.known and not (differs and refile):
                known.append(self.known[spoken])
                otherwise += differs
            else:
                fresh.append(replace(one, state=self._again(one)))
        return Parted(known, fresh, otherwise)

    def _again(self, one: Listed) -> str:
        """The state, or behind it how often it was spoken of and what is said now, as others may speak meanwhile."""
        times = self.times.get((one.source_id, one.state), 0)
        said = ids.digest_of([one.patient_id, dict(one.labels)])[:SAID_LETTERS]
        return f"{one.state}{AGAIN}{times}{said}" if times else one.state


def _tables(lake: Lake) -> Tables:
    of_voxels = {row["scan_id"]: row["flags"] for row in lake.table("scans", columns=["scan_id", "flags"]).to_pylist()}
    last: dict[str, tuple[tuple[bool, Any], str, Outcome]] = {}
    filed: dict[str, tuple[str, Mapping[str, str]]] = {}
    times = Counter[tuple[str, str]]()
    taken = lake.table("sources", columns=SPOKEN_OF_SCANS).to_pylist()
    refused = lake.table("rejects", columns=["source_id", "state", "reasons", "sentence", "created_at"]).to_pylist()
    for row in [*taken, *refused]:
        name = row["source_id"]
        reason = row["reasons"][0] if "reasons" in row else ""
        if not reason and row["scan_id"] not in of_voxels:
            continue  # another ingest is committing it: its scan comes after its source
        state = row["state"].partition(AGAIN)[0]
        times[name, state] += 1
        weight = (reason not in TEMPORARY_REASONS, row["created_at"])
        if name in last and last[name][0] > weight:
            continue
        if reason:
            outcome = Outcome(name, "rejected", "", reason, row["sentence"])
        else:
            flags = all_flags(of_voxels[row["scan_id"]], row["flags"])
            outcome = Outcome(name, "already", row["scan_id"], flags=flags)
            filed[name] = row["patient_id"], dict(row["labels"] or ())
        last[name] = (weight, state, outcome)
    known = {(name, state): outcome for name, (weight, state, outcome) in last.items() if weight[0]}
    scans = [spoken for spoken, outcome in known.items() if outcome.status == "already"]
    return Tables(known, {(name, state): filed[name] for name, state in scans}, times)


def _convert(
    fresh: Sequence[Listed],
    listing: Listing,
    lake: Lake,
    config: IngestConfig,
    run_id: str,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> Iterator[Outcome]:
    """Outcomes as they come in; pending rows go into the tables now and then, so that there are never many files."""
    with (
        ray_session(address, needs={"ingest workers": min(workers, len(fresh))}) as ray,
        Progress("ingest: reading", len(fresh), quiet=quiet) as progress,
    ):
        nodes = [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]
        waiting, committed = 0, time.monotonic()
        for size_class in size_classes(fresh, nodes, workers):
            for outcome in _read(ray, size_class, listing, lake, config, run_id):
                yield outcome
                progress.advance()
                waiting += 1
                if waiting >= COMMIT_EVERY or time.monotonic() - committed > COMMIT_EVERY_S:
                    commit_pending(lake, run_id)
                    waiting, committed = 0, time.monotonic()


def _read(
    ray: Any, size_class: SizeClass, listing: Listing, lake: Lake, config: IngestConfig, run_id: str
) -> Iterator[Outcome]:
    """Outcomes of one class, by workers of its own that Ray places by their memory."""
    chosen, workers = size_class.listed, size_class.workers
    packed = listing.items.packed(one.number for one in chosen)
    sources = ray.data.from_items(
        [{"item": item, "state": one.state} for item, one in zip(packed, chosen, strict=True)],
        override_num_blocks=max(min(len(chosen), workers), len(chosen) // BLOCK_SOURCES),
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


def _recipe(config: IngestConfig, key: bytes) -> dict[str, Any]:
    """The configuration as the lake keeps it: what may name a hospital or quote its paths stands as a keyed digest."""
    said = config.model_dump(mode="json")
    defaults = {name: IngestConfig.model_fields[name].default for name in OPERATORS_WORDS}
    words = {name: ids.keyed_id(key, name, said[name]) for name in OPERATORS_WORDS if said[name] != defaults[name]}
    return {**said, **words}


def _finish(
    lake: Lake,
    run_id: str,
    recipe: dict[str, Any],
    fresh: Sequence[Listed],
    outcomes: Sequence[Outcome],
    seconds: float,
) -> int:
    """Commit what is pending and the row of this run; the new lake version makes them visible together."""
    commit_pending(lake, run_id)
    counts = Counter(outcome.status for outcome in outcomes)
    before = lake.refresh().table("runs", columns=["run_id"])["run_id"].to_pylist().count(run_id)
    run = {
        "run_id": run_id,
        "attempt": str(before),
        "kind": "ingest",
        "recipe": recipe,
        "state": "done" if len(outcomes) == len(fresh) else "incomplete",
        "steps": len(outcomes),
        "lake_version": lake.refresh().version,
        "details": {
            **counts,
            "bytes_in": _bytes_read(fresh),
            "seconds": round(seconds, 2),
        },
    }
    lake.insert("runs", [run])
    return lake.commit("ingest", run_id)


def _bytes_read(fresh: Sequence[Listed]) -> int:
    return sum(one.bytes for one in fresh if not one.reason)


def _summary(parted: Parted, outcomes: Sequence[Outcome], started: float, version: int, run_id: str) -> IngestSummary:
    every = [*parted.known, *outcomes]
    counts = Counter(outcome.status for outcome in every)
    return IngestSummary(
        found=len(parted.known) + len(parted.fresh),
        ingested=counts["ingested"],
        already=counts["already"],
        rejected=counts["rejected"],
        filed_otherwise=parted.filed_otherwise,
        flagged=sum(bool(outcome.flags) for outcome in every),
        decoded=sum(not one.reason for one in parted.fresh),
        voxels=sum(outcome.voxels for outcome in outcomes),
        bytes_in=_bytes_read(parted.fresh),
        bytes_stored=sum(outcome.bytes_stored for outcome in outcomes),
        seconds=round(time.monotonic() - started, 2),
        lake_version=version,
        run_id=run_id,
        reasons=dict(Counter(outcome.reason for outcome in every if outcome.reason).most_common()),
    )


def _check_report(path: Path, lake: Path | None) -> None:
    """Before hours of work. Raises ConfigError."""
    if lake is not None and lake.resolve() in path.resolve().parents:
        raise ConfigError(f"--report {path} lies in the lake, which keeps no paths in clear; give a place outside it")
    if path.is_dir() or not os.access(path.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--report {path} cannot be written; give a file in a folder that exists and is yours")


def _write_report(path: Path, listing: Listing, outcomes: Sequence[Outcome]) -> None:
    """The operator's own CSV, outside the lake: the only place where a path stands beside a refusal. Raises
    StorageError."""
    by_source = {outcome.source_id: outcome for outcome in outcomes}
    try:
        with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, REPORT_COLUMNS)
            writer.writeheader()
            writer.writerows(
                _report_row(item.source, by_source[item.source_id])
                for item in listing.items
                if item.source_id in by_source
            )
    except OSError as error:
        raise StorageError(
            f"--report {path} cannot be written ({error.strerror}); the lake is complete, run the command again for it"
        ) from None


def _report_row(source: Source, outcome: Outcome) -> dict[str, Any]:
    return {
        **_where(source),
        "status": outcome.status,
        "scan_id": outcome.scan_id,
        "reason": outcome.reason,
        "sentence": outcome.sentence,
        "flags": " ".join(outcome.flags),
        "slices": source.slices,
        "bytes": source.bytes,
    }


def _where(source: Source) -> dict[str, str]:
    """The file or folder of a source, and the member or folder of members in an archive."""
    paths, inside = {place.path for place in source.files}, {place.member for place in source.files}
    member = files.common(inside) if len(inside) == 1 or len(paths) == 1 else ""
    return {"source": files.common(paths), "member": member}


def most_rejects(limit: str, found: int) -> float:
    """How many refusals of `found` sources a limit allows: a count, or a percentage such as 5%. Raises ConfigError."""
    number = limit.removesuffix("%")
    if not number.replace(".", "", 1).isdigit():
        raise ConfigError(f"--max-rejects {limit} is neither a count nor a percentage; give e.g. 10 or 5%")
    return float(number) * (found / 100 if limit.endswith("%") else 1)


def check_rejects(summary: IngestSummary, limit: str | None) -> None:
    """Raise Incomplete where more sources were refused than `limit` allows."""
    if limit is not None and summary.rejected > most_rejects(limit, summary.found):
        raise Incomplete(
            f"{summary.rejected} of {summary.found} sources were refused, more than --max-rejects {limit}; "
            "see semgen-platform lake rejects"
        )
