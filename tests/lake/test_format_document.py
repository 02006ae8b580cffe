"""docs/lake-format.md names what the code writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from semgen_platform.lake.lake import FORMAT
from semgen_platform.lake.tables import KEYS, SCHEMAS, is_json

DOCUMENT = (Path(__file__).parents[2] / "docs" / "lake-format.md").read_text(encoding="utf-8")
MADE_FROM = re.search(r"^\*made from\*: (.*?)\n\n", DOCUMENT, re.MULTILINE | re.DOTALL)
WORD = re.compile(r"[a-z][a-z0-9_]+")


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_column_of_a_table_is_specified(name: str) -> None:
    line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {name} |"))
    _, _, key, columns, _ = line.split("|")
    assert MADE_FROM is not None
    columns = columns.replace("*made from*", MADE_FROM[1])
    assert [part.split()[0] for part in key.split(",")] == list(KEYS[name])
    specified = set(WORD.findall(columns)) | set(KEYS[name])
    assert set(SCHEMAS[name].names) - {"created_at", "run_id"} <= specified


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_json_text_is_marked_so(name: str) -> None:
    line = next(line for line in DOCUMENT.splitlines() if line.startswith(f"| {name} |"))
    assert MADE_FROM is not None
    marked = set()
    for group in line.replace("*made from*", MADE_FROM[1]).split("|")[3].split(";"):
        marked |= set(WORD.findall(group.partition("*J*")[0])) if "*J*" in group else set()
    assert marked == {column for column in SCHEMAS[name].names if is_json(name, column)}


def test_the_format_number_is_that_of_the_code() -> None:
    assert DOCUMENT.startswith(f"# The lake's format, version {FORMAT}\n")
