"""What the lake's tables hold: the schema, key and order of each, and how plain rows become Arrow rows.

Reading and writing them belongs to lake.py and query.py. Source: DESIGN.md section 4.

Every table ends in `created_at` (UTC, filled on insert) and `run_id`. Rows are inserted once and never updated; rows of
one key are equal but for created_at, run_id and attempt. Delta's MERGE, DuckDB and Polars take these types as they are:
- lists are Arrow lists. A matrix (16) is a (4, 4) affine in row order. Shards and levels are lists of structs.
- `labels`, which a manifest fills, is a map of strings: `labels['sex'] = 'F'` in DuckDB.
- values without fixed types (recipes, evidence, lineage ...) are JSON text, in the columns named by JSON_COLUMNS; a
  dictionary or list given to insert is written as canonical JSON. In DuckDB: `evidence ->> '$.gap_mm'`.
- what is not finite is null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from semgen_platform.errors import ConfigError
from semgen_platform.ids import canonical_json, digest_of

Row = Mapping[str, Any]

_TEXT, _INT, _REAL, _TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TEXTS, _REALS, _INTS = pa.list_(pa.string()), pa.list_(pa.float64()), pa.list_(pa.int64())
_SHARD = pa.struct([("digest", _TEXT), ("bytes", _INT)])
_LEVEL = pa.struct([("shape_zyx", _INTS), ("factor_zyx", _INTS), ("shards", pa.list_(_SHARD))])

JSON_COLUMNS = frozenset(
    {"attributes", "config", "details", "digests", "evidence", "files", "lineage", "options", "recipe", "software"}
)

# fmt: off
# Whatever is made with an artefact's id: recipe, revision and parents are what the id is a digest of (ids.artefact_id).
_MADE_FROM: list[tuple[str, pa.DataType]] = [
    ("recipe_name", _TEXT), ("recipe", _TEXT), ("revision", _INT), ("parents", _TEXTS), ("selection", _TEXT),
    ("lake_version", _INT), ("attempt", _TEXT), ("digest", _TEXT), ("software", _TEXT),
]

_COLUMNS: dict[str, list[tuple[str, pa.DataType]]] = {
    "sources": [
        ("source_id", _TEXT), ("state", _TEXT), ("scan_id", _TEXT), ("collection", _TEXT), ("patient_id", _TEXT),
        ("study_id", _TEXT), ("series_id", _TEXT), ("flags", _TEXTS), ("kind", _TEXT), ("extension", _TEXT),
        ("files", _INT), ("slices", _INT), ("bytes", _INT), ("converter_version", _INT), ("options", _TEXT),
        ("orientation", _TEXT), ("source_ijk_to_lps_mm", _REALS), ("slice_thickness_mm", _REAL), ("kernel", _TEXT),
        ("manufacturer", _TEXT), ("model", _TEXT), ("body_part", _TEXT), ("contrast", _TRUTH), ("kvp", _REAL),
        ("tube_current_ma", _REAL), ("exposure_mas", _REAL), ("attributes", _TEXT), ("repair", _TEXT),
        ("labels", pa.map_(_TEXT, _TEXT)),
    ],
    "rejects": [
        ("source_id", _TEXT), ("state", _TEXT), ("reasons", _TEXTS), ("sentence", _TEXT), ("evidence", _TEXT),
        ("collection", _TEXT), ("kind", _TEXT), ("extension", _TEXT), ("files", _INT), ("slices", _INT),
        ("bytes", _INT), ("converter_version", _INT), ("options", _TEXT),
    ],
    "scans": [
        ("scan_id", _TEXT), ("content_id", _TEXT), ("modality", _TEXT), ("shape_z", _INT), ("shape_y", _INT),
        ("shape_x", _INT), ("spacing_z_mm", _REAL), ("spacing_y_mm", _REAL), ("spacing_x_mm", _REAL),
        ("ijk_to_lps_mm", _REALS), ("dtype", _TEXT), ("padding_hu", _REAL), ("hu_min", _REAL), ("hu_p01", _REAL),
        ("hu_p50", _REAL), ("hu_p99", _REAL), ("hu_max", _REAL), ("body_fraction", _REAL), ("noise_hu", _REAL),
        ("flags", _TEXTS), ("levels", pa.list_(_LEVEL)), ("bytes", _INT), ("attempt", _TEXT),
        ("slice_digests", _INTS),
    ],
    "encoders": [("encoder_id", _TEXT), *_MADE_FROM, ("dimension", _INT), ("spacing_mm", _REAL), ("details", _TEXT)],
    "embeddings": [
        ("encoder_id", _TEXT), ("scan_id", _TEXT), ("vector", pa.list_(pa.float32())), ("level", _INT),
        ("lake_version", _INT),
    ],
    "indexes": [
        ("index_id", _TEXT), ("encoder_id", _TEXT), *_MADE_FROM, ("kind", _TEXT), ("vectors", _INT),
        ("dimension", _INT), ("recall", _REAL), ("files", _TEXT), ("details", _TEXT),
    ],
    "poses": [
        ("discovery_id", _TEXT), ("scan_id", _TEXT), ("patient_id", _TEXT), ("matrix", _REALS), ("ncc", _REAL),
        ("overlap", _REAL), ("log_scale", _REALS), ("refused", _TRUTH), ("reason", _TEXT), ("region", _TEXT),
        ("details", _TEXT),
    ],
    "members": [
        ("discovery_id", _TEXT), ("pattern", _INT), ("scan_id", _TEXT), ("scale", _REAL), ("jitter", _INT),
        ("patient_id", _TEXT), ("split", _TEXT), ("centre_lps_mm", _REALS), ("matrix", _REALS), ("score", _REAL),
        ("dropped", _TRUTH), ("reason", _TEXT),
    ],
    "patterns": [
        ("discovery_id", _TEXT), ("pattern", _INT), ("reference_scan_id", _TEXT), ("centre_mm", _REALS),
        ("box_zyx_mm", _REALS), ("shape_zyx", _INTS), ("region", _TEXT), ("kept", _TRUTH), ("weak", _TRUTH),
        ("members", _INT), ("score", _REAL), ("details", _TEXT),
    ],
    "discoveries": [
        ("discovery_id", _TEXT), ("encoder_id", _TEXT), *_MADE_FROM, ("seed", _INT), ("patterns", _INT),
        ("members", _INT), ("details", _TEXT),
    ],
    "runs": [
        ("run_id", _TEXT), ("attempt", _TEXT), ("kind", _TEXT), ("recipe_name", _TEXT), ("recipe", _TEXT),
        ("parents", _TEXTS), ("selection", _TEXT), ("lake_version", _INT), ("state", _TEXT), ("steps", _INT),
        ("best_metric", _REAL), ("seconds", _REAL), ("digest", _TEXT), ("software", _TEXT), ("details", _TEXT),
    ],
    "models": [
        ("name", _TEXT), ("version", _INT), ("model_id", _TEXT), ("config", _TEXT), ("digests", _TEXT),
        ("licence", _TEXT), ("lineage", _TEXT), ("parents", _TEXTS), ("lake_version", _INT), ("files", _TEXT),
        ("details", _TEXT),
    ],
    "aliases": [("name", _TEXT), ("alias", _TEXT), ("move", _INT), ("version", _INT)],
    "evaluations": [
        ("evaluation_id", _TEXT), ("model", _TEXT), ("metric", _TEXT), ("protocol", _TEXT), ("mean", _REAL),
        ("spread", _REAL), ("interval", _REALS), ("baseline", _REAL), ("baseline_name", _TEXT), ("recipe", _TEXT),
        ("parents", _TEXTS), ("lake_version", _INT), ("details", _TEXT),
    ],
    "tags": [("tag", _TEXT), ("lake_version", _INT)],
    "tombstones": [("patient_digest", _TEXT), ("lake_version", _INT)],
}
# fmt: on
"""In the order of commit: what is referred to stands before what refers to it (its head row makes a thing exist)."""

KEYS: dict[str, tuple[str, ...]] = {
    "sources": ("source_id", "state"),  # state: source_state() below
    "rejects": ("source_id", "state"),
    "scans": ("scan_id",),
    "encoders": ("encoder_id",),
    "embeddings": ("encoder_id", "scan_id"),
    "indexes": ("index_id",),
    "poses": ("discovery_id", "scan_id"),
    "members": ("discovery_id", "pattern", "scan_id", "scale", "jitter"),
    "patterns": ("discovery_id", "pattern"),
    "discoveries": ("discovery_id",),
    "runs": ("run_id", "attempt"),
    "models": ("name", "version"),
    "aliases": ("name", "alias", "move"),  # the row with the largest move speaks
    "evaluations": ("evaluation_id", "model", "metric"),
    "tags": ("tag",),
    "tombstones": ("patient_digest",),
}


def _schema(name: str) -> pa.Schema:
    own = [pa.field(column, kind, nullable=column not in KEYS[name]) for column, kind in _COLUMNS[name]]
    ending = [pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False)]
    return pa.schema(own + ending + ([] if name == "runs" else [pa.field("run_id", _TEXT)]))


SCHEMAS: dict[str, pa.Schema] = {name: _schema(name) for name in _COLUMNS}

DELTA_CONFIGURATION = {"delta.dataSkippingStatsColumns": "created_at"}
"""The log keeps least and largest values of this column only: a pseudonym must not outlive its row there."""


def source_state(validators: str, converter_version: int, options: Mapping[str, Any]) -> str:
    """`state` of a source: digest of its files' validators, the converter's version and the options of the reading."""
    return digest_of([validators, converter_version, dict(options)])


def key_of(name: str, row: Row) -> tuple[Any, ...]:
    """The row's key in table `name`."""
    return tuple(row[column] for column in KEYS[name])


def plain_row(name: str, row: Row) -> dict[str, Any]:
    """The row of table `name` in JSON types: arrays as flat lists, NumPy scalars as Python's, not finite as None.

    Raises ConfigError for a table or column that does not exist.
    """
    schema = schema_of(name)
    unknown = sorted(set(row) - set(schema.names))
    if unknown:
        raise ConfigError(f"table {name} has no column {unknown[0]}; it has {', '.join(schema.names)}")
    return {column: _json_text(value) if is_json(name, column) else _plain(value) for column, value in row.items()}


def is_json(name: str, column: str) -> bool:
    """Whether a column holds JSON text (`files` is a list of names in models and a count in sources)."""
    return column in JSON_COLUMNS and bool(SCHEMAS[name].field(column).type == _TEXT)


def to_arrow(name: str, rows: Sequence[Row], created_at: datetime) -> pa.Table:
    """Rows as an Arrow table of the table's schema; absent columns are null and created_at is filled.

    Raises ConfigError for a table or column that does not exist.
    """
    return pa.Table.from_pylist(
        [{**plain_row(name, row), "created_at": created_at} for row in rows], schema=schema_of(name)
    )


def schema_of(name: str) -> pa.Schema:
    """Schema of a table. Raises ConfigError for a name that is none."""
    if name not in SCHEMAS:
        raise ConfigError(f"there is no table {name}; there are {', '.join(SCHEMAS)}")
    return SCHEMAS[name]


def _json_text(value: Any) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        return canonical_json(_plain(value))
    return _plain(value)  # text already, null, or a number: `files` counts them in sources


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        flat = value.reshape(-1).tolist()
        finite = value.dtype.kind in "iub" or (value.dtype.kind == "f" and bool(np.isfinite(value).all()))
        return flat if finite else _plain(flat)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return value
