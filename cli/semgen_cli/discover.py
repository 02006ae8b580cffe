"""`discover`: patterns of anatomy."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(discover)


def discover(
    lake: common.LakeOption,
    recipe: Annotated[
        str, typer.Option("--recipe", help="aligned, published, aligned-demo, published-demo or a YAML file.")
    ] = "aligned",
    encoder: Annotated[str, typer.Option("--encoder", help="Id of an encoder, or latest.")] = "latest",
    settings: common.SetOption = None,
    collection: common.CollectionOption = None,
    profile: common.ProfileOption = "default",
    where: common.WhereOption = None,
    workers: common.WorkersOption = 2,
    address: common.AddressOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Find places that many scans share.

    Example: semgen-platform discover --lake ./lake --recipe aligned

    Every selected scan needs a vector first (embed). The same scans and recipe give the same discovery.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.discover import DiscoverConfig
    from semgen_pipelines.discover import discover as run
    from semgen_platform.config import load_config
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    config, _ = load_config(DiscoverConfig, stage="discovery", recipe=recipe, settings=settings or ())
    scans = opened.select_scans(collections=collection, profile=profile, where=where)
    summary = run(opened, scans, encoder, config, recipe_name=recipe, workers=workers, address=address, quiet=quiet)
    common.show(asdict(summary), as_json=as_json)
