"""`indexes`: search among the scans of the lake."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from semgen_cli import common

indexes = typer.Typer(help="Search indexes.\n\nExample: semgen-platform indexes ls --lake ./lake", no_args_is_help=True)

IndexOption = Annotated[str, typer.Option("--index", help="Id of an index, or latest.")]


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(indexes, name="indexes")


@indexes.command()
def ls(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """One line an index.

    Example: semgen-platform indexes ls --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    columns = ("index_id", "encoder_id", "kind", "vectors", "dimension", "recall")
    rows = open_lake(lake).table("indexes", columns=columns).to_pylist()
    common.show({"indexes": rows}, as_json=as_json, lines=common.table(rows, columns))


@indexes.command()
def show(
    lake: common.LakeOption,
    index: Annotated[str, typer.Argument(help="Id of an index, or latest.")] = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """All that is known of one index.

    Example: semgen-platform indexes show latest --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.discovery.neighbours import index_row
    from semgen_platform.lake.lake import open_lake

    common.show(index_row(open_lake(lake), index), as_json=as_json)


@indexes.command()
def search(
    scan: Annotated[str, typer.Argument(help="Id of an indexed scan.")],
    lake: common.LakeOption,
    k: Annotated[int, typer.Option("--k", min=1, help="So many neighbours.")] = 10,
    index: IndexOption = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """The scans nearest to one, without itself.

    Example: semgen-platform indexes search SCAN --k 5 --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.discovery.neighbours import load_scan_index
    from semgen_platform.lake.lake import open_lake

    loaded = load_scan_index(open_lake(lake), index)
    found = [asdict(neighbour) for neighbour in loaded.near_scan(scan, k)]
    document = {
        "index_id": loaded.index_id,
        "encoder_id": loaded.embedder.encoder_id,
        "scan": scan,
        "neighbours": found,
    }
    common.show(document, as_json=as_json, lines=common.table(found, ("scan_id", "similarity")))
