"""`encoders`: what was trained to embed scans."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from semgen_cli import common

encoders = typer.Typer(
    help="Encoders of whole scans.\n\nExample: semgen-platform encoders ls --lake ./lake", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(encoders, name="encoders")


@encoders.command()
def ls(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """One line an encoder.

    Example: semgen-platform encoders ls --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    rows = open_lake(lake).table("encoders").to_pylist()
    found = [
        {
            "encoder_id": row["encoder_id"],
            "recipe": row["recipe_name"],
            "dimension": row["dimension"],
            **json.loads(row["details"]),
            "created_at": row["created_at"].isoformat(timespec="seconds"),
        }
        for row in rows
    ]
    columns = ("encoder_id", "recipe", "dimension", "scans", "epochs", "validation_mse", "created_at")
    common.show({"encoders": found}, as_json=as_json, lines=common.table(found, columns))


@encoders.command()
def show(
    lake: common.LakeOption,
    encoder: Annotated[str, typer.Argument(help="Id of an encoder, or latest.")] = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """All that is known of one encoder.

    Example: semgen-platform encoders show latest --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.discovery.embedder import encoder_row
    from semgen_platform.lake.lake import open_lake

    common.show(encoder_row(open_lake(lake), encoder), as_json=as_json)
