"""What the page of a lake or collection is made from: rows counted, scans chosen, their Hounsfield units sampled.

Reads the lake at its version and writes nothing; the page itself is collection.py. What is counted per scan comes from
the table scans; voxels are read for the HU curves alone, at a coarse level and of a sample of the scans.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.errors import Damage, NotFound
from semgen_platform.histogram import histogram
from semgen_platform.lake import selection
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.describe import refusals
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.query import Query
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.thumbnails import NOT_HU, box_zyx_mm, thumbnail, window_of
from semgen_platform.lake.versions import read_version
from semgen_platform.progress import Progress
from semgen_platform.volume import FLAGS, INT16

Row = Mapping[str, Any]

BURNED_IN = "burned_in_hint"
STATISTICS = ("hu_min", "hu_p01", "hu_p50", "hu_p99", "hu_max", "body_fraction", "noise_hu")
GRID = tuple(f"{what}_{axis}{unit}" for what, unit in (("shape", ""), ("spacing", "_mm")) for axis in "zyx")
COLUMNS = ("scan_id", "collections", "patient_id", "flags", "bytes", *GRID, *STATISTICS)

HU_SCANS = 200
"""Scans whose voxels are read for the HU curves: a share of 1 % that differs as much between them is known to 0.1 %."""
HU_SPACING_MM = 4.0
"""Their level: the coarsest with no spacing above this. Coarser ones mix organs with the fat around them."""
HU_RANGE, HU_BIN = (-1100, 1500), 10

_ACCEPTED = """
    SELECT sources.collection, patient_id, study_id, scan_id
    FROM sources SEMI JOIN newest USING (source_id, state, created_at) SEMI JOIN scans USING (scan_id)
"""
_COUNTS = """
    count(*) AS sources, count(DISTINCT scan_id) AS scans, count(DISTINCT patient_id) AS patients,
    count(DISTINCT nullif(study_id, '')) AS studies
"""


@dataclass(frozen=True, eq=False)
class Census:
    """A lake or some of its collections, counted at one version.

    collections : those asked for; none for the whole lake.  made : the day of the version.
    totals, by_collection : sources, scans, patients, studies (that a file names), and refused; rows.
    reasons : reason, sources, sentence and evidence of one of them.  scans : COLUMNS of every scan.
    """

    lake_id: str
    version: int
    made: str
    collections: tuple[str, ...]
    totals: Row
    by_collection: list[Row]
    reasons: list[Row]
    scans: pa.Table

    def rows(self, scan_ids: Sequence[str]) -> list[Row]:
        """COLUMNS of the named scans, in their order."""
        place = {scan_id: n for n, scan_id in enumerate(self.scans["scan_id"].to_pylist())}
        return self.scans.take([place[scan_id] for scan_id in scan_ids]).to_pylist() if scan_ids else []

    def values(self, column: str, *, only_hu: bool = False) -> NDArray[np.float64]:
        """A numeric column, NaN where a scan has none; `only_hu` leaves out scans whose values are not in HU."""
        found: NDArray[np.float64] = self.scans[column].to_numpy().astype(np.float64)
        return found[self.in_hu()] if only_hu else found

    def in_hu(self) -> NDArray[np.bool_]:
        """Whether each scan's values are in HU."""
        return np.array([NOT_HU.isdisjoint(flags) for flags in self.scans["flags"].to_pylist()], dtype=bool)

    def flags(self) -> dict[str, int]:
        """Scans by flag, in the order of FLAGS."""
        counts = Counter(flag for flags in self.scans["flags"].to_pylist() for flag in flags)
        return {flag: counts[flag] for flag in sorted(counts, key=_flag_order)}

    def collection_of(self) -> dict[str, str]:
        """Collection of each scan: of several the least that was asked for."""
        pairs = zip(self.scans["scan_id"].to_pylist(), self.scans["collections"].to_pylist(), strict=True)
        return {
            scan_id: min(name for name in names if not self.collections or name in self.collections)
            for scan_id, names in pairs
        }


def take_census(lake: Lake, collections: Sequence[str] | None = None) -> Census:
    """Count a lake or collections at the lake's version. Raises NotFound for an unknown collection."""
    scans = lake.scan_rows(collections=collections, profile="all", columns=COLUMNS)
    reasons, refused = refusals(lake, collections)
    sentences = {(row["reasons"][0], row["sentence"]): row["evidence"] for row in reversed(refused)}
    with lake.query(*selection.TABLES) as query:
        totals, by_collection = _counts(query, collections)
    rejected = Counter(row["collection"] for row in refused)
    named = {row["collection"]: row for row in by_collection}
    nothing = dict.fromkeys(("sources", "scans", "patients", "studies"), 0)
    return Census(
        lake_id=lake.lake_id,
        version=lake.version,
        made=read_version(lake.storage, lake.version).created_at[:10],
        collections=tuple(collections or ()),
        totals={**totals, "refused": len(refused)},
        by_collection=[
            {"collection": name, **nothing, **named.get(name, {}), "refused": rejected[name]}
            for name in sorted({*named, *rejected})
        ],
        reasons=[{**row, "evidence": sentences[row["reason"], row["sentence"]]} for row in reasons],
        scans=scans,
    )


def chosen(scan_ids: Sequence[str], flags: Sequence[Sequence[str]], most: int) -> list[str]:
    """At most `most` scans to show: flagged ones by their gravest flag, then the others, each by id.

    Where not all flagged ones find room the flags take turns, so that a frequent one does not hide a rare one. An id is
    a digest, so the first by id are as good as drawn by lot.
    """
    by_flag: dict[int, list[str]] = {}
    for scan_id, names in sorted(zip(scan_ids, flags, strict=True)):
        by_flag.setdefault(min(map(_flag_order, names), default=len(FLAGS) + 1), []).append(scan_id)
    unflagged = by_flag.pop(len(FLAGS) + 1, [])
    turns = sorted((turn, flag, scan) for flag, scans in by_flag.items() for turn, scan in enumerate(scans))
    shown = [scan for flag, scan in sorted((flag, scan) for _, flag, scan in turns[:most])]
    return shown + unflagged[: most - len(shown)]


def scans_of(lake: Lake, scan_ids: Sequence[str]) -> dict[str, Scan]:
    """Scans by id, for reading their voxels."""
    listed = ", ".join(f"'{scan_id}'" for scan_id in scan_ids)
    found = lake.select_scans(profile="all", where=f"scan_id IN ({listed})") if scan_ids else []
    return {scan.scan_id: scan for scan in found}


@dataclass(frozen=True, eq=False)
class Picture:
    """One scan of the page.

    scan : its row of the census with collection, coverage_mm, extent_zyx_mm (patient's axes) and obliquity_deg.
    png_bytes : its thumbnail, if there can be one, seen in window_hu.
    """

    scan: Row
    png_bytes: bytes | None
    window_hu: tuple[float, float]


def pictures_of(lake: Lake, census: Census, ids: Sequence[str], *, quiet: bool) -> list[Picture]:
    """Scans of the page in order; a volume that cannot be read has no thumbnail, nor one that may show a name."""
    scans, collection_of = scans_of(lake, ids), census.collection_of()
    reader, pictures = CropReader(lake.root, list(scans.values())), []
    with Progress("thumbnails", len(ids), quiet=quiet) as progress:
        for row in census.rows(ids):
            scan = scans[row["scan_id"]]
            window_hu = window_of(row["flags"], row["hu_p01"], row["hu_p99"])
            described = {
                **row,
                "flags": sorted(row["flags"], key=_flag_order),
                "collection": collection_of[scan.scan_id],
                "coverage_mm": row["shape_z"] * row["spacing_z_mm"],
                "extent_zyx_mm": box_zyx_mm(scan.zyx_to_lps_mm, scan.shape_zyx),
                "obliquity_deg": geometry.obliquity_deg(scan.ijk_to_lps_mm),
            }
            pictures.append(Picture(described, _thumbnail(lake, reader, scan, window_hu), window_hu))
            progress.advance()
    return pictures


def _thumbnail(lake: Lake, reader: CropReader, scan: Scan, window_hu: tuple[float, float]) -> bytes | None:
    if BURNED_IN in scan.flags:
        return None
    try:
        return thumbnail(lake.storage, reader, scan, window_hu)
    except (Damage, NotFound):
        return None


@dataclass(frozen=True, eq=False)
class HuCurve:
    """Mean over scans of the share (%) of voxels in each bin of HU_BIN, from HU_RANGE[0] on; and how many scans."""

    scans: int
    percent: NDArray[np.float64]


def hu_curves(lake: Lake, census: Census, *, quiet: bool = False) -> dict[str, HuCurve]:
    """A curve for each collection, from at most HU_SCANS scans in HU; a scan that cannot be read is left out."""
    ids = np.array(census.scans["scan_id"].to_pylist(), dtype=object)[census.in_hu()]
    picked = ids[np.unique(np.linspace(0, len(ids) - 1, min(len(ids), HU_SCANS)).astype(int))].tolist()
    scans, collection_of = scans_of(lake, picked), census.collection_of()
    reader = CropReader(lake.root, list(scans.values()))
    shares: dict[str, list[NDArray[np.float64]]] = {}
    with Progress("Hounsfield units", len(scans), quiet=quiet) as progress:
        for scan in scans.values():
            share = _hu_percent(reader, scan)
            if share is not None:
                shares.setdefault(collection_of[scan.scan_id], []).append(share)
            progress.advance()
    return {name: HuCurve(len(found), np.mean(found, axis=0)) for name, found in sorted(shares.items())}


def _hu_percent(reader: CropReader, scan: Scan) -> NDArray[np.float64] | None:
    """Share (%) of a scan's voxels without padding in each bin, or None if they cannot be read."""
    try:
        level = reader.level(scan.scan_id, max(HU_SPACING_MM, *scan.spacing_zyx_mm))
    except (Damage, NotFound):
        return None
    counts = histogram(level.voxels_ZYX).without(scan.padding_hu)
    binned = np.add.reduceat(counts.counts[: HU_RANGE[1] - INT16.min], np.arange(*HU_RANGE, HU_BIN) - INT16.min)
    return np.asarray(100 * binned / max(1, counts.total), dtype=np.float64)


def _counts(query: Query, collections: Sequence[str] | None) -> tuple[Row, list[Row]]:
    """Accepted sources and what they give, together and by collection."""
    selection.present_scans(query)
    query.define("accepted", _ACCEPTED)
    where = "list_contains($collections, collection)" if collections else "true"
    values = {"collections": list(collections)} if collections else {}
    whole = query.arrow(f"SELECT {_COUNTS} FROM accepted WHERE {where}", **values).to_pylist()[0]
    each = f"SELECT collection, {_COUNTS} FROM accepted WHERE {where} GROUP BY collection"
    return whole, query.arrow(each, **values).to_pylist()


def _flag_order(flag: str) -> int:
    return FLAGS.index(flag) if flag in FLAGS else len(FLAGS)
