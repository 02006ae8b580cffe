"""Options that many commands share, and the one way to print a result."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

LakeOption = Annotated[
    str, typer.Option("--lake", envvar="SEMGEN_LAKE", help="The lake: ./lake, ./lake@41 or s3://bucket/lake.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="More log on stderr.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, errors only.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", envvar="RAY_ADDRESS", help="A running Ray to join; none: a local Ray of its own."),
]
KeyFileOption = Annotated[
    Path | None,
    typer.Option("--key-file", envvar="SEMGEN_LAKE_KEY_FILE", help="Secret of at least 32 bytes for pseudonyms."),
]
CollectionOption = Annotated[
    list[str] | None, typer.Option("--collection", help="Only scans of this collection; repeatable.")
]
ProfileOption = Annotated[str, typer.Option("--profile", help="Which scans are good enough: default or all.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", help='SQL condition on scan columns, e.g. "spacing_z_mm < 3".')
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="Override a configuration key: key=value; repeatable.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Worker processes.")]


def set_up(*, verbose: bool = False, quiet: bool = False) -> None:
    """Logging to stderr at the level asked for; progress is silent under --quiet. Called first by each command."""
    level = logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True)
    logging.getLogger("semgen_platform").setLevel(min(level, logging.INFO) if not quiet else level)
    if quiet:
        os.environ["SEMGEN_QUIET"] = "1"


def show(document: Mapping[str, Any], *, as_json: bool, lines: Sequence[str] | None = None) -> None:
    """Print a command's result: the document as JSON, or the given lines, or one `key value` line each."""
    if as_json:
        typer.echo(json.dumps(document, default=str))
        return
    width = max(map(len, document), default=0)
    for line in lines if lines is not None else [f"{key:<{width}}  {value}" for key, value in document.items()]:
        typer.echo(line)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Rows as aligned text lines under a header; floats with four significant digits."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max([len(c), *(len(r[i]) for r in cells)]) for i, c in enumerate(columns)]
    return [
        "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in [list(columns), *cells]
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ",".join(_cell(v) for v in value)
    return "" if value is None else str(value)
