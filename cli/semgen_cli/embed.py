"""`embed`: one vector per scan."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(embed)


def embed(
    lake: common.LakeOption,
    encoder: Annotated[str, typer.Option("--encoder", help="Id of an encoder, or latest.")] = "latest",
    collection: common.CollectionOption = None,
    profile: common.ProfileOption = "default",
    where: common.WhereOption = None,
    workers: common.WorkersOption = 2,
    address: common.AddressOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Give every scan a vector.

    Example: semgen-platform embed --lake ./lake

    Scans that have a vector of this encoder are skipped; a killed command goes on where it was.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.embed import embed as run
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    opened.check_folder()
    scans = opened.select_scans(collections=collection, profile=profile, where=where)
    summary = run(opened, scans, encoder, workers=workers, address=address, quiet=quiet)
    common.show(asdict(summary), as_json=as_json)
