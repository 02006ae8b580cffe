"""`build-index`: a search index over the vectors of scans."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="build-index")(build_index)


def build_index(
    lake: common.LakeOption,
    encoder: Annotated[str, typer.Option("--encoder", help="Id of an encoder, or latest.")] = "latest",
    kind: Annotated[str, typer.Option("--kind", help="exact, faiss (extra cpu) or faiss-gpu (extra gpu).")] = "exact",
    collection: common.CollectionOption = None,
    profile: common.ProfileOption = "default",
    where: common.WhereOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Index the vectors of scans for search.

    Example: semgen-platform build-index --lake ./lake

    Then: semgen-platform indexes search SCAN --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.index import IndexConfig
    from semgen_pipelines.index import build_index as run
    from semgen_platform.config import load_config
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    config, _ = load_config(IndexConfig, settings=[f"kind={kind}"])
    scans = opened.select_scans(collections=collection, profile=profile, where=where)
    common.show(asdict(run(opened, scans, encoder, config, recipe_name=kind)), as_json=as_json)
