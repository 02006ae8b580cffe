"""Rows as they go into tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from semgen_platform.errors import ConfigError
from semgen_platform.lake.tables import KEYS, SCHEMAS, plain_row, source_state, to_arrow

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_every_table_has_a_key_of_its_own_columns_that_may_not_be_null() -> None:
    assert SCHEMAS.keys() == KEYS.keys()
    for name, schema in SCHEMAS.items():
        assert all(not schema.field(column).nullable for column in KEYS[name])


def test_every_table_says_when_in_utc_and_by_which_run() -> None:
    for schema in SCHEMAS.values():
        assert str(schema.field("created_at").type) == "timestamp[us, tz=UTC]"
        assert "run_id" in schema.names


@pytest.mark.parametrize(
    ("above", "below"),
    [("sources", "scans"), ("members", "discoveries"), ("patterns", "discoveries"), ("poses", "discoveries")],
)
def test_what_is_referred_to_is_committed_before_what_makes_it_exist(above: str, below: str) -> None:
    order = list(SCHEMAS)
    assert order.index(above) < order.index(below)


def test_arrays_are_stored_flat_in_row_order_and_numpy_numbers_as_plain_ones() -> None:
    row = plain_row(
        "scans", {"ijk_to_lps_mm": np.arange(16.0).reshape(4, 4), "shape_z": np.int32(3), "spacing_z_mm": np.float32(2)}
    )
    assert row == {"ijk_to_lps_mm": [float(n) for n in range(16)], "shape_z": 3, "spacing_z_mm": 2.0}


def test_what_is_not_finite_is_null() -> None:
    assert plain_row("scans", {"noise_hu": float("nan"), "hu_max": np.inf})["noise_hu"] is None
    assert plain_row("scans", {"ijk_to_lps_mm": np.array([1.0, np.nan])})["ijk_to_lps_mm"] == [1.0, None]


def test_values_without_fixed_types_become_canonical_json_and_text_stays_as_it_is() -> None:
    row = plain_row("rejects", {"evidence": {"b": np.float64(2.5), "a": (1, 2)}, "options": '{"x":1}'})
    assert row == {"evidence": '{"a":[1,2],"b":2.5}', "options": '{"x":1}'}


def test_files_are_a_count_in_sources_and_a_list_in_models() -> None:
    assert to_arrow("sources", [{"source_id": "q", "state": "s", "files": 3}], NOW)["files"].to_pylist() == [3]
    assert to_arrow("models", [{"name": "m", "version": 1, "files": ["a"]}], NOW)["files"].to_pylist() == ['["a"]']


def test_the_labels_of_a_manifest_stay_a_map() -> None:
    source: dict[str, Any] = {"source_id": "q", "state": "s", "labels": {"sex": "F", "age": "61"}}
    table = to_arrow("sources", [source], NOW)
    assert dict(table["labels"].to_pylist()[0]) == {"sex": "F", "age": "61"}
    assert table.schema == SCHEMAS["sources"]


def test_an_unknown_column_is_named_instead_of_dropped() -> None:
    with pytest.raises(ConfigError, match="no column scan_idd"):
        to_arrow("scans", [{"scan_idd": "s"}], NOW)


def test_an_unknown_table_is_named() -> None:
    with pytest.raises(ConfigError, match="no table scan;"):
        to_arrow("scan", [], NOW)


def test_the_state_of_a_source_changes_with_its_files_the_converter_and_the_options() -> None:
    states = {
        source_state("v", 1, {}),
        source_state("w", 1, {}),
        source_state("v", 2, {}),
        source_state("v", 1, {"a": 1}),
    }
    assert len(states) == 4
    assert source_state("v", 1, {"a": 1, "b": 2}) == source_state("v", 1, json.loads('{"b": 2, "a": 1}'))
