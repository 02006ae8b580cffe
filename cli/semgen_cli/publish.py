"""`publish`: a finished pretraining run becomes a version of a named backbone."""

from __future__ import annotations

from typing import Annotated

import typer

from semgen_cli import common


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(publish)


def publish(
    run: Annotated[str, typer.Argument(help="Id of a finished pretraining run, or latest.")],
    lake: common.LakeOption,
    name: Annotated[str, typer.Option("--name", help="Name of the backbone: lower case letters, digits, . _ -")],
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Publish a run's weights with their input contract.

    Example: semgen-platform publish latest --name demo --lake ./lake

    The same run under the same name is the same version; another run is the next one.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.backbones import registry
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    config = registry.publish(opened, run, name)
    document = {
        "model": config.ref,
        "run": config.lineage.run,
        "dimensions": config.architecture.dimensions,
        "parameters": config.parameters,
        "norm": config.architecture.norm,
        "folder": str(opened.artefact_dir("models", config.name, str(config.version))),
        "lake_version": opened.refresh().version,
    }
    common.show(document, as_json=as_json)
