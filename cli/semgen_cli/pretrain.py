"""`pretrain`: from a discovery to a trained network."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from semgen_cli import common


class Resume(StrEnum):
    """Whether to go on with what an earlier start of the same run left."""

    AUTO = "auto"
    NO = "no"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(pretrain)


def pretrain(
    lake: common.LakeOption,
    recipe: Annotated[
        str, typer.Option("--recipe", help="semantic-genesis, tiny or a YAML file.")
    ] = "semantic-genesis",
    discovery: Annotated[str, typer.Option("--discovery", help="Id of a discovery, or latest.")] = "latest",
    settings: common.SetOption = None,
    workers: common.WorkersOption = 2,
    resume: Annotated[
        Resume, typer.Option("--resume", help="auto goes on where the same run was left; no starts it anew.")
    ] = Resume.AUTO,
    address: common.AddressOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Pretrain on the patterns of a discovery.

    Example: semgen-platform pretrain --lake ./lake --recipe tiny

    The same discovery and recipe give the same run: one that was stopped goes on, one that is finished is found.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.pretrain import pretrain as run
    from semgen_pipelines.pretrain_config import PretrainConfig
    from semgen_platform.config import load_config
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    config, _ = load_config(PretrainConfig, stage="pretrain", recipe=recipe, settings=settings or ())
    summary = run(
        opened,
        config,
        recipe_name=recipe,
        discovery=discovery,
        workers=workers,
        resume=resume is Resume.AUTO,
        address=address,
        quiet=quiet,
    )
    common.show(asdict(summary), as_json=as_json)
