"""`train-encoder`: the auto-encoder that embeds whole scans."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="train-encoder")(train_encoder)


def train_encoder(
    lake: common.LakeOption,
    recipe: Annotated[str, typer.Option("--recipe", help="archive, demo or a YAML file.")] = "archive",
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
    """Train the encoder that embeds scans.

    Example: semgen-platform train-encoder --lake ./lake --recipe demo

    The same scans and recipe give the same encoder: what is there already is found and not trained again.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.encoder import train_encoder as run
    from semgen_platform.config import load_config
    from semgen_platform.discovery.embedder import EncoderConfig
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    opened.check_folder()
    config, _ = load_config(EncoderConfig, stage="encoder", recipe=recipe, settings=settings or ())
    scans = opened.select_scans(collections=collection, profile=profile, where=where)
    summary = run(opened, scans, config, recipe_name=recipe, workers=workers, address=address, quiet=quiet)
    common.show(asdict(summary), as_json=as_json)
