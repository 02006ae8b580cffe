"""What a person asks of a lake: how much is in it, what was refused and why, what one id stands for.

Pure reading at the lake's version; printing belongs to the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from semgen_platform.errors import NotFound
from semgen_platform.lake import selection
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.query import Query

ARTEFACTS = {
    "encoder": ("encoders", "encoder_id"),
    "index": ("indexes", "index_id"),
    "discovery": ("discoveries", "discovery_id"),
    "run": ("runs", "run_id"),
    "model": ("models", "name"),
    "evaluation": ("evaluations", "evaluation_id"),
    "tag": ("tags", "tag"),
}
"""Kind of artefact: its table and the column that names it."""

PARTS = {
    "encoder": ("embeddings",),
    "discovery": ("poses", "patterns", "members"),
    "model": ("aliases", "evaluations"),
}
"""Tables whose rows are counted with an artefact: they name it in a column of the same name, evaluations in `model`."""

Rows = list[dict[str, Any]]


def totals(lake: Lake) -> dict[str, Any]:
    """Scans, patients, voxels and bytes, whole and by collection; scans by flag; refusals by reason; rows by table."""
    with lake.query(*selection.TABLES) as query:
        selection.present_scans(query)
        sums = """
            count(*) AS scans, count(DISTINCT patient_id) AS patients, coalesce(sum(bytes), 0)::BIGINT AS bytes,
            coalesce(sum(shape_z * shape_y * shape_x), 0)::BIGINT AS voxels
        """
        whole = _rows(query, f"SELECT {sums} FROM present")[0]
        collections = _rows(query, f"SELECT collection, {sums} FROM present GROUP BY collection ORDER BY collection")
        flags = _rows(query, "SELECT unnest(flags) AS flag, count(*) AS scans FROM present GROUP BY flag ORDER BY flag")
        reasons = _reasons(query, None)
    return {
        "lake": lake.uri,
        "lake_id": lake.lake_id,
        "version": lake.version,
        **whole,
        "collections": collections,
        "flags": {row["flag"]: row["scans"] for row in flags},
        "rejects": {row["reason"]: row["sources"] for row in reasons},
        "rows": lake.counts(),
    }


def refusals(lake: Lake, collections: Sequence[str] | None = None) -> tuple[Rows, Rows]:
    """(by primary reason: sources and one sentence; every refusal), of sources whose newest word is a refusal."""
    with lake.query(*selection.TABLES) as query:
        selection.present_scans(query)
        chosen = "list_contains($collections, collection)" if collections else "true"
        values = {"collections": list(collections)} if collections else {}
        sql = f"SELECT rejects.* FROM rejects SEMI JOIN newest USING (source_id, state, created_at) WHERE {chosen}"
        every = _rows(query, f"{sql} ORDER BY reasons[1], source_id", **values)
        return _reasons(query, collections), every


def describe(lake: Lake, name: str) -> dict[str, Any]:
    """What an id stands for: {"kind", "rows", ...} of a scan with its sources, or of an artefact.

    Raises NotFound that names the nearest id.
    """
    for kind in ("scan", *ARTEFACTS):
        found = _scan(lake, name) if kind == "scan" else _artefact(lake, kind, name)
        if found is not None:
            return found
    known = [
        key[0] for table in ("scans", *(table for table, _ in ARTEFACTS.values())) for key in lake.head_keys(table)
    ]
    match = difflib.get_close_matches(name, sorted(set(known)), n=1)
    hint = (
        f"; did you mean {match[0]}?" if match else "; see lake ls, encoders ls, discoveries ls, runs ls and models ls"
    )
    raise NotFound(f"nothing in lake {lake.uri} at version {lake.version} is called {name}{hint}")


def _scan(lake: Lake, name: str) -> dict[str, Any] | None:
    with lake.query(*selection.TABLES, "embeddings", "members") as query:
        rows = _rows(query, "SELECT * FROM scans WHERE scan_id = $name", name=name)
        if not rows:
            return None
        groups = selection.split_groups(_presented(query))
        sources = _rows(query, "SELECT * FROM sources WHERE scan_id = $name ORDER BY created_at", name=name)
        twins = "SELECT scan_id FROM scans WHERE content_id = $content AND scan_id <> $name ORDER BY scan_id"
        same = _rows(query, twins, content=rows[0]["content_id"], name=name)
        encoders = _rows(query, "SELECT encoder_id FROM embeddings WHERE scan_id = $name ORDER BY 1", name=name)
        members = "SELECT discovery_id, count(*) AS crops FROM members WHERE scan_id = $name GROUP BY 1 ORDER BY 1"
        patients = sorted({row["patient_id"] for row in sources if row["patient_id"]})
        return {
            "kind": "scan",
            "rows": rows,
            "sources": sources,
            "same_content": [row["scan_id"] for row in same],
            "split_group": groups.get(patients[0], patients[0]) if patients else name,
            "encoders": [row["encoder_id"] for row in encoders],
            "discoveries": _rows(query, members, name=name),
        }


def _artefact(lake: Lake, kind: str, name: str) -> dict[str, Any] | None:
    table, column = ARTEFACTS[kind]
    parts = PARTS.get(kind, ())
    with lake.query(table, *parts) as query:
        rows = _rows(query, f"SELECT * FROM {table} WHERE {column} = $name ORDER BY created_at", name=name)
        if not rows:
            return None
        counts = {}
        for part in parts:
            named = kind if part == "evaluations" else column
            counts[part] = _rows(query, f"SELECT count(*) AS n FROM {part} WHERE {named} = $name", name=name)[0]["n"]
        return {"kind": kind, "rows": rows, **counts}


def _presented(query: Query) -> Query:
    selection.present_scans(query)
    return query


def _reasons(query: Query, collections: Sequence[str] | None) -> Rows:
    chosen = "list_contains($collections, collection)" if collections else "true"
    values = {"collections": list(collections)} if collections else {}
    sql = f"""
        SELECT reasons[1] AS reason, count(*) AS sources, min(sentence) AS sentence
        FROM rejects SEMI JOIN newest USING (source_id, state, created_at) WHERE {chosen}
        GROUP BY reason ORDER BY sources DESC, reason
    """
    return _rows(query, sql, **values)


def _rows(query: Query, sql: str, **values: Any) -> Rows:
    return query.arrow(sql, **values).to_pylist()
