"""`models`: what was published."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from semgen_cli import common

models = typer.Typer(
    help="Published backbones.\n\nExample: semgen-platform models ls --lake ./lake", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(models, name="models")


@models.command()
def ls(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """One line a version.

    Example: semgen-platform models ls --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.backbones import registry
    from semgen_platform.lake.lake import open_lake

    found = []
    for row in registry.models(open_lake(lake)):
        config = json.loads(row["config"])
        found.append(
            {
                "model": f"{row['name']}:{row['version']}",
                "recipe": config["lineage"]["recipe"],
                "width": config["architecture"]["width"],
                "norm": config["architecture"]["norm"],
                "run": config["lineage"]["run"],
                "created_at": row["created_at"].isoformat(timespec="seconds"),
            }
        )
    columns = ("model", "recipe", "width", "norm", "run", "created_at")
    common.show({"models": found}, as_json=as_json, lines=common.table(found, columns))


@models.command()
def show(
    model: Annotated[str, typer.Argument(help="REF: name[:version|alias].")],
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Contract, lineage and measurements of a model.

    Example: semgen-platform models show demo --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.backbones import registry
    from semgen_platform.config import flatten
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    row = registry.resolve(opened, model)
    config = json.loads(row["config"])
    evaluations = [
        {key: r[key] for key in ("metric", "mean", "spread", "baseline_name", "baseline", "protocol")}
        for r in opened.table("evaluations").to_pylist()
        if r["model"] == f"{row['name']}:{row['version']}"
    ]
    document = {**config, "digests": json.loads(row["digests"]), "evaluations": evaluations}
    lines = [f"{key:<34} {value}" for key, value in flatten(config)]
    columns = ("metric", "mean", "spread", "baseline_name", "baseline")
    common.show(document, as_json=as_json, lines=[*lines, *(common.table(evaluations, columns) if evaluations else [])])
