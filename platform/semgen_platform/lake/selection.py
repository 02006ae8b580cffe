"""Which scans a stage works on: profiles, collections and conditions; and what each scan is.

What can change later is computed here on read: the newest row of a source speaks for it (a newer refusal withdraws the
scan, unless it is one that may pass), and patients who share a content_id or slices form one split_group, so that no
split parts them. Source: DESIGN.md section 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.errors import ConfigError, NotFound
from semgen_platform.lake.pyramid import Level
from semgen_platform.lake.query import Query
from semgen_platform.volume import TEMPORARY_REASONS, UNTRAINABLE_FLAGS

TABLES = ("scans", "sources", "rejects")
"""Tables that a selection reads."""

PROFILES = ("default", "all")
"""default: no flag of UNTRAINABLE_FLAGS, and one scan per content_id (the least scan_id). all: every scan."""

_NEWEST = """
    SELECT * FROM (SELECT * FROM {accepted} UNION ALL BY NAME SELECT * FROM {refused})
    QUALIFY row_number() OVER (
        PARTITION BY source_id
        ORDER BY coalesce(list_contains({temporary}, reasons[1]), false), created_at DESC, state
    ) = 1
"""

_FACTS = """
    SELECT scan_id, min(patient_id) AS patient_id, min(collection) AS collection,
           list_sort(list(DISTINCT collection)) AS collections, flatten(list(coalesce(flags, []))) AS source_flags
    FROM newest WHERE scan_id IS NOT NULL GROUP BY scan_id
"""

_PRESENT = """
    SELECT scans.* EXCLUDE (flags), list_sort(list_distinct(list_concat(coalesce(flags, []), source_flags))) AS flags,
           collection, collections, patient_id
    FROM scans JOIN facts USING (scan_id)
"""

_SLICES = """
    SELECT content_id, unnest(slice_digests) AS digest
    FROM (SELECT content_id, first(slice_digests ORDER BY scan_id) AS slice_digests FROM scans GROUP BY content_id)
"""

_NEAR = """
    SELECT a.content_id AS one, b.content_id AS other, count(*) AS shared
    FROM slices a JOIN slices b ON a.digest = b.digest AND a.content_id < b.content_id
    WHERE a.digest IN (SELECT digest FROM slices GROUP BY digest HAVING count(DISTINCT content_id) > 1)
    GROUP BY one, other HAVING count(*) >= {least}
"""

_JOINED_PATIENTS = """
    WITH of_content AS (SELECT DISTINCT content_id, patient_id FROM newest JOIN scans USING (scan_id)),
         links AS (
             SELECT content_id AS link, patient_id FROM of_content
             UNION ALL
             SELECT one || other AS link, patient_id FROM near JOIN of_content ON content_id IN (one, other)
         )
    SELECT list_sort(list(DISTINCT patient_id)) AS patients
    FROM links GROUP BY link HAVING count(DISTINCT patient_id) > 1
"""

LEAST_SHARED = 2
"""Sampled slices that two scans must share to be one anatomy: no two slices of a scanner are equal by chance."""


@dataclass(frozen=True, eq=False)
class Scan:
    """One selected scan.

    split_group : what a split must keep together; the least patient_id of those who share a content_id or slices.
    collection : the least of its sources' collections.  flags : of the voxels and of the newest sources.
    ijk_to_lps_mm : (4, 4) float64.  levels : the stored pyramid, finest first.  attempt : its volume's folder.
    """

    scan_id: str
    content_id: str
    patient_id: str
    split_group: str
    collection: str
    modality: str
    shape_zyx: tuple[int, int, int]
    ijk_to_lps_mm: NDArray[np.float64]
    flags: tuple[str, ...]
    attempt: str
    levels: tuple[Level, ...]
    padding_hu: float | None
    dtype: str

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        return geometry.spacing_zyx_mm(self.ijk_to_lps_mm)

    @property
    def zyx_to_lps_mm(self) -> NDArray[np.float64]:
        return geometry.reverse_index_axes(self.ijk_to_lps_mm)


def present_scans(query: Query) -> None:
    """Define the views `newest` (sources' newest rows) and `present` (scans that a source speaks for)."""
    accepted = "(SELECT source_id, state, scan_id, collection, patient_id, flags, created_at FROM sources)"
    refused = "(SELECT source_id, state, collection, created_at, reasons FROM rejects)"
    temporary = list(TEMPORARY_REASONS)
    query.define("newest", _NEWEST.format(accepted=accepted, refused=refused, temporary=temporary))
    query.define("facts", _FACTS)
    query.define("present", _PRESENT)


def select(
    query: Query,
    *,
    collections: Sequence[str] | None = None,
    profile: str = "default",
    where: str | None = None,
    columns: Sequence[str] | None = None,
) -> pa.Table:
    """Rows of the selected scans by scan_id: the columns of scans with all flags, collection(s) and patient_id.

    Raises ConfigError for an unknown profile, column or condition, NotFound for a collection that is not in the lake.
    """
    if profile not in PROFILES:
        raise ConfigError(f"there is no profile {profile}; there are {' and '.join(PROFILES)}")
    present_scans(query)
    query.define("chosen", f"SELECT * FROM present WHERE {_collection_condition(query, collections)}")
    query.add("matching", query.filtered("chosen", None, where, ("scan_id",)))
    query.define("selected", _profile_sql(profile))
    return query.filtered("selected", columns, None, ("scan_id",))


def near_contents(query: Query) -> None:
    """Define the view `near`: pairs of content ids that share slices, with how many sampled ones."""
    query.define("slices", _SLICES)
    query.define("near", _NEAR.format(least=LEAST_SHARED))


def split_groups(query: Query) -> dict[str, str]:
    """split_group of every patient who shares a content_id or slices with another; others are groups of their own."""
    near_contents(query)
    return joined(query.arrow(_JOINED_PATIENTS)["patients"].to_pylist())


def joined(links: Iterable[Sequence[str]]) -> dict[str, str]:
    """Least name of the connected component of every name, where each link connects the names in it."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for first, *others in links:
        for other in others:
            low, high = sorted((root(first), root(other)))
            parent[high] = low
    return {name: root(name) for name in parent}


def scans_from(rows: pa.Table, groups: Mapping[str, str]) -> list[Scan]:
    """Scans from rows of `select`, in their order; a scan without a patient is a group of its own."""
    return [_scan(row, groups) for row in rows.to_pylist()]


def _scan(row: Mapping[str, Any], groups: Mapping[str, str]) -> Scan:
    patient = row["patient_id"] or row["scan_id"]
    return Scan(
        scan_id=row["scan_id"],
        content_id=row["content_id"],
        patient_id=patient,
        split_group=groups.get(patient, patient),
        collection=row["collection"] or "",
        modality=row["modality"] or "",
        shape_zyx=(row["shape_z"], row["shape_y"], row["shape_x"]),
        ijk_to_lps_mm=np.array(row["ijk_to_lps_mm"], dtype=np.float64).reshape(4, 4),
        flags=tuple(row["flags"]),
        attempt=row["attempt"],
        levels=tuple(Level(tuple(level["shape_zyx"]), tuple(level["factor_zyx"])) for level in row["levels"]),
        padding_hu=row["padding_hu"],
        dtype=row["dtype"],
    )


def _collection_condition(query: Query, collections: Sequence[str] | None) -> str:
    if not collections:
        return "true"
    known = set(query.arrow("SELECT DISTINCT collection FROM newest")["collection"].to_pylist()) - {None}
    for name in collections:
        if name not in known:
            raise NotFound(f"the lake has no collection {name}; it has {', '.join(sorted(known)) or 'none'}")
    return f"list_has_any(collections, [{', '.join(_literal(name) for name in collections)}])"


def _profile_sql(profile: str) -> str:
    if profile == "all":
        return "SELECT * FROM matching"
    flags = ", ".join(_literal(flag) for flag in sorted(UNTRAINABLE_FLAGS))
    return f"""
        SELECT * FROM matching WHERE NOT list_has_any(flags, [{flags}])
        QUALIFY row_number() OVER (PARTITION BY content_id ORDER BY scan_id) = 1
    """


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
