"""`discover`: patterns of anatomy in the scans of a lake, by the recipe `aligned` or `published`, as rows.

The driver decides, Ray actors read frames and align; what comes out is a pure function of scans, vectors, configuration
and seed, whatever the number of workers. Rows of poses, members and patterns come before the discovery's own row, which
makes it exist. A killed command keeps the poses that it had.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from semgen_pipelines.artefacts import ATTEMPT, Made, made
from semgen_pipelines.kept_poses import keeping_poses, kept_poses
from semgen_pipelines.member_crops import find_discovery
from semgen_pipelines.runtime import ray_session
from semgen_pipelines.spreading import LakeFrames, RaySpread, ray_spread
from semgen_platform.config import Config
from semgen_platform.discovery import aligned, published
from semgen_platform.discovery.aligned import AlignedConfig
from semgen_platform.discovery.atlas import Atlas
from semgen_platform.discovery.embedder import Embedder, load_encoder
from semgen_platform.discovery.neighbours import vectors_of
from semgen_platform.discovery.published import PublishedConfig
from semgen_platform.discovery.rows import Row
from semgen_platform.ids import digest_of
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.selection import Scan
from semgen_platform.progress import Progress
from semgen_platform.reports.discovery import discovery_report
from semgen_platform.search import whitening

ROWS_AT_ONCE = 20_000  # a MERGE holds its rows in memory
REPORT = "report.html"

Vectors = Mapping[str, NDArray[np.float32]]


class DiscoverConfig(Config):
    """One of the two recipes with its numbers; the other is left out."""

    aligned: AlignedConfig | None = None
    published: PublishedConfig | None = None

    @model_validator(mode="after")
    def _one_recipe(self) -> DiscoverConfig:
        if (self.aligned is None) == (self.published is None):
            raise ValueError("a discovery follows one recipe: give either aligned or published")
        return self

    @property
    def revision(self) -> int:
        return aligned.REVISION if self.aligned is not None else published.REVISION

    @property
    def seed(self) -> int:
        chosen = self.aligned or self.published
        assert chosen is not None
        return chosen.seed


@dataclass(frozen=True, eq=False)
class Found:
    """Rows without run_id, sentences about what fell short, facts and atlases of a discovery."""

    patterns: list[Row]
    members: list[Row]
    notes: list[str]
    poses: list[Row] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    atlases: list[Atlas] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """Of all rows in the order of their keys: what two runs must agree on."""
        return digest_of([self.poses, self.patterns, self.members])


@dataclass(frozen=True)
class DiscoverySummary:
    """What `discover` made or found."""

    discovery_id: str
    encoder_id: str
    found: bool
    scans: int
    patterns: int
    members: int
    notes: tuple[str, ...]
    digest: str
    report: str
    lake_version: int


def discover(
    lake: Lake,
    scans: Sequence[Scan],
    encoder: str,
    config: DiscoverConfig,
    *,
    recipe_name: str,
    workers: int = 2,
    address: str | None = None,
    quiet: bool = False,
) -> DiscoverySummary:
    """Discover patterns in these scans, or find the discovery.

    Raises InputError (no scan, vectors missing, no common place, Ray), NotFound (no such encoder), Busy, Incomplete.
    """
    embedder = load_encoder(lake, encoder)
    parents = [embedder.encoder_id]
    named = made("discovery", config, scans, recipe_name=recipe_name, revision=config.revision, parents=parents)
    folder = lake.artefact_dir("discoveries", named.artefact_id, ATTEMPT)
    with hold(lake.storage, named.artefact_id):
        found = (named.artefact_id,) in lake.head_keys("discoveries")
        if not found:
            result = _run(lake, scans, embedder, config, named, folder, workers, address, quiet=quiet)
            row = _discovery_row(lake, named, result, embedder.encoder_id, config, len(scans))
            _write_report(lake, scans, result, row, folder / REPORT)
            _write_rows(lake, result, row)
            shutil.rmtree(folder / "poses", ignore_errors=True)
        lake.commit("discover", named.artefact_id)
    return summary_of(lake.refresh(), named.artefact_id, found=found)


def _run(
    lake: Lake,
    scans: Sequence[Scan],
    embedder: Embedder,
    config: DiscoverConfig,
    named: Made,
    folder: Path,
    workers: int,
    address: str | None,
    *,
    quiet: bool,
) -> Found:
    """The discovery's rows, with its atlases written."""
    raw = vectors_of(lake, embedder.encoder_id, scans, embedder.dimension)
    folder.mkdir(parents=True, exist_ok=True)
    if config.published is not None:
        by_scan = dict(zip([s.scan_id for s in scans], raw, strict=True))  # Euclidean, without normalisation
        result = _published(lake, scans, by_scan, config.published, named.artefact_id, quiet=quiet)
    else:
        assert config.aligned is not None
        by_scan = dict(zip([s.scan_id for s in scans], whitening.fit(raw).transform(raw), strict=True))
        workers = min(workers, len(scans))
        with (
            ray_session(address, needs={"discovery workers": workers}) as ray,
            ray_spread(ray, workers, [s.scan_id for s in scans], "discover", quiet=quiet) as spread,
        ):
            result = _aligned(lake, scans, by_scan, config.aligned, named.artefact_id, folder, spread)
    for number, atlas in enumerate(result.atlases):
        _save_atlas(atlas, folder / f"atlas-{number}.npz")
    return result


def _aligned(
    lake: Lake,
    scans: Sequence[Scan],
    vectors: Vectors,
    config: AlignedConfig,
    discovery_id: str,
    folder: Path,
    spread: RaySpread,
) -> Found:
    """aligned.discover, stage by stage, with the poses of a killed run taken up."""
    frames = LakeFrames(lake.root, scans, config.body)
    regions = aligned.make_regions(scans, vectors, frames, spread, config)
    atlases = digest_of([region.atlas.digest for region in regions])
    kept = kept_poses(folder / "poses", atlases)
    fresh = [scan for scan in scans if scan.scan_id not in kept]
    keeping = keeping_poses(spread, folder / "poses", atlases)
    placed = {**kept, **aligned.place_scans(fresh, regions, frames, keeping, config)}
    patterns, choices = aligned.choose_patterns(scans, vectors, regions, placed, config)
    fits = aligned.refine(patterns, placed, frames, spread, config.members)
    made_ = aligned.to_found(discovery_id, scans, regions, placed, patterns, choices, fits, config)
    return Found(made_.patterns, made_.members, made_.notes, made_.poses, made_.details, made_.atlases)


def _published(
    lake: Lake, scans: Sequence[Scan], vectors: Vectors, config: PublishedConfig, discovery_id: str, *, quiet: bool
) -> Found:
    """published.discover, which reads whole volumes of its references one after the other."""
    reader = CropReader(lake.root, scans)
    with Progress("discover: references", quiet=quiet) as progress:

        def read_voxels(scan_id: str) -> NDArray[Any]:
            progress.advance()
            return reader.level(scan_id, 0.0).voxels_ZYX

        rows = published.discover(discovery_id, scans, vectors, read_voxels, config)
    return Found(rows.patterns, rows.members, rows.notes)


def _save_atlas(atlas: Atlas, path: Path) -> None:
    target = atlas.target
    np.savez(
        path,
        intensity_ZYX=target.intensity_ZYX,
        seen_ZYX=target.seen_ZYX,
        body_ZYX=target.body_ZYX,
        seen_by_ZYX=atlas.seen_by_ZYX,
        origin_zyx_mm=np.array(target.grid.origin_zyx_mm),
        spacing_mm=np.array(target.grid.spacing_mm),
        lung_ends_mm=np.array([target.lung_bottom_mm, target.lung_top_mm], dtype=np.float64),  # None is NaN
        scans=np.array(atlas.scans),
        digest=np.array(atlas.digest),
    )


def _discovery_row(lake: Lake, named: Made, result: Found, encoder_id: str, config: DiscoverConfig, scans: int) -> Row:
    return {
        "discovery_id": named.artefact_id,
        "encoder_id": encoder_id,
        **named.columns(lake, result.digest),
        "seed": config.seed,
        "patterns": len(result.patterns),
        "members": len(result.members),
        "details": {"scans": scans, "notes": result.notes, **result.details},
    }


def _write_report(lake: Lake, scans: Sequence[Scan], result: Found, row: Row, path: Path) -> None:
    reader = CropReader(lake.root, scans)
    page = discovery_report(row, result.patterns, result.members, result.poses, reader.read)
    path.write_text(page, encoding="utf-8")


def _write_rows(lake: Lake, result: Found, row: Row) -> None:
    """What the discovery refers to first, its own row last."""
    for table, rows in (("poses", result.poses), ("members", result.members), ("patterns", result.patterns)):
        for batch in _batches(rows):
            lake.insert(table, [{**own, "run_id": row["run_id"]} for own in batch])
    lake.insert("discoveries", [row])


def _batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield rows[start : start + ROWS_AT_ONCE]


def summary_of(lake: Lake, discovery: str, *, found: bool = True) -> DiscoverySummary:
    """What the lake says of a discovery, by id or `latest`. Raises NotFound."""
    row = find_discovery(lake, discovery)
    details = json.loads(row["details"])
    return DiscoverySummary(
        discovery_id=row["discovery_id"],
        encoder_id=row["encoder_id"],
        found=found,
        scans=details["scans"],
        patterns=row["patterns"],
        members=row["members"],
        notes=tuple(details["notes"]),
        digest=row["digest"],
        report=str(lake.artefact_dir("discoveries", row["discovery_id"], row["attempt"]) / REPORT),
        lake_version=lake.version,
    )
