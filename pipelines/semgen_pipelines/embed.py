"""`embed`: one vector per scan with Ray Data, by an encoder of the lake.

Rows name scans; the actor that gets one reads a coarse level from the lake, so that no voxel passes through Ray.
Vectors are written as pending rows and committed in batches; a killed command begins with what is pending and skips
what is there.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semgen_pipelines.artefacts import ATTEMPT
from semgen_pipelines.runtime import ray_session
from semgen_platform import ids
from semgen_platform.discovery.embedder import INPUT_LEVEL_MM, REVISION, encoder_row, load_encoder
from semgen_platform.errors import Incomplete, InputError
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake, open_lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.pending import commit_pending, write_pending
from semgen_platform.lake.selection import Scan
from semgen_platform.progress import Progress

SCANS_A_TASK = 8  # a few seconds of work; what a crash costs
COMMIT_EVERY_S = 30.0


@dataclass(frozen=True)
class EmbedSummary:
    """scans = embedded + already."""

    encoder_id: str
    scans: int
    embedded: int
    already: int
    lake_version: int
    run_id: str


class EmbedScans:
    """Vectors of a batch of scans as one pending file. Ray builds this once per worker."""

    def __init__(self, lake_uri: str, version: int, encoder_id: str, run_id: str) -> None:
        self._lake = open_lake(lake_uri, version=version)
        self._embedder, self._run_id = load_encoder(self._lake, encoder_id), run_id

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        scans: list[Scan] = list(batch["scan"])
        reader = CropReader(self._lake.root, scans)
        rows = [self._row(scan, reader) for scan in scans]
        write_pending(self._lake.root, self._run_id, ATTEMPT, {"embeddings": rows})
        return {"embedded": [len(rows)]}

    def _row(self, scan: Scan, reader: CropReader) -> dict[str, Any]:
        level = reader.level(scan.scan_id, INPUT_LEVEL_MM)
        return {
            "encoder_id": self._embedder.encoder_id,
            "scan_id": scan.scan_id,
            "vector": self._embedder.embed(level.voxels_ZYX, level.zyx_to_lps_mm, scan.padding_hu),
            "level": level.level,
            "lake_version": self._lake.version,
            "run_id": self._run_id,
        }


def embed(
    lake: Lake,
    scans: Sequence[Scan],
    encoder: str = "latest",
    *,
    workers: int = 2,
    address: str | None = None,
    quiet: bool = False,
) -> EmbedSummary:
    """Give every scan a vector of this encoder.

    Raises InputError (no scan, Ray), NotFound (no such encoder), Busy (the same command runs), Incomplete (run again).
    """
    if not scans:
        raise InputError("no scan is selected; look at --collection, --profile and --where, or ingest some")
    encoder_id = encoder_row(lake, encoder)["encoder_id"]
    run_id = run_id_of(encoder_id, scans)
    with hold(lake.storage, run_id):
        commit_pending(lake, run_id)  # of the command that was killed
        fresh = _fresh(lake, encoder_id, scans)
        if fresh:
            _embed(lake, fresh, encoder_id, run_id, min(workers, len(fresh)), address, quiet=quiet)
            commit_pending(lake, run_id)
            _record(lake, run_id, encoder_id, scans)
        version = lake.commit("embed", run_id)
        if missing := len(_fresh(lake, encoder_id, scans)):
            raise Incomplete(
                f"{missing} of {len(scans)} scans have no vector after retries; run the same command again"
            )
    return EmbedSummary(encoder_id, len(scans), len(fresh), len(scans) - len(fresh), version, run_id)


def run_id_of(encoder_id: str, scans: Sequence[Scan]) -> str:
    """Name of the embedding of these scans: the same command finds what a killed one left pending."""
    return ids.artefact_id("vectors", recipe={}, revision=REVISION, parents=[encoder_id], selection=_selection(scans))


def _selection(scans: Sequence[Scan]) -> str:
    return ids.selection_digest((s.scan_id, s.patient_id, s.split_group) for s in scans)


def _fresh(lake: Lake, encoder_id: str, scans: Sequence[Scan]) -> list[Scan]:
    known = lake.head_keys("embeddings")
    return [scan for scan in scans if (encoder_id, scan.scan_id) not in known]


def _embed(
    lake: Lake,
    scans: Sequence[Scan],
    encoder_id: str,
    run_id: str,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> None:
    with (
        ray_session(address, needs={"embedding workers": workers}) as ray,
        Progress("embed: scans", len(scans), quiet=quiet) as progress,
    ):
        rows = ray.data.from_items(
            [{"scan": scan} for scan in scans], override_num_blocks=-(-len(scans) // SCANS_A_TASK)
        )
        done = rows.map_batches(
            EmbedScans,
            fn_constructor_args=(lake.uri, lake.version, encoder_id, run_id),
            batch_size=SCANS_A_TASK,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        committed = time.monotonic()
        for row in done.iter_rows():
            progress.advance(int(row["embedded"]))
            if time.monotonic() - committed > COMMIT_EVERY_S:
                commit_pending(lake, run_id)
                committed = time.monotonic()


def _record(lake: Lake, run_id: str, encoder_id: str, scans: Sequence[Scan]) -> None:
    run = {
        "run_id": run_id,
        "attempt": ATTEMPT,
        "kind": "embed",
        "parents": [encoder_id],
        "selection": _selection(scans),
        "state": "done",
        "steps": len(scans),
        "lake_version": lake.version,
    }
    lake.insert("runs", [run])
