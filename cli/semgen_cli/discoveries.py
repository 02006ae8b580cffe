"""`discoveries`: patterns that were found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from semgen_cli import common

discoveries = typer.Typer(
    help="Discoveries of patterns.\n\nExample: semgen-platform discoveries ls --lake ./lake", no_args_is_help=True
)

DiscoveryArgument = Annotated[str, typer.Argument(help="Id of a discovery, or latest.")]


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(discoveries, name="discoveries")


@discoveries.command()
def ls(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """One line a discovery.

    Example: semgen-platform discoveries ls --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    rows = open_lake(lake).table("discoveries").to_pylist()
    found = [
        {
            "discovery_id": row["discovery_id"],
            "recipe": row["recipe_name"],
            "scans": json.loads(row["details"])["scans"],
            "patterns": row["patterns"],
            "members": row["members"],
            "created_at": row["created_at"].isoformat(timespec="seconds"),
        }
        for row in rows
    ]
    columns = ("discovery_id", "recipe", "scans", "patterns", "members", "created_at")
    common.show({"discoveries": found}, as_json=as_json, lines=common.table(found, columns))


@discoveries.command()
def show(
    lake: common.LakeOption,
    discovery: DiscoveryArgument = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """A discovery and its patterns.

    Example: semgen-platform discoveries show latest --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.discover import summary_of
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    summary = asdict(summary_of(opened, discovery))
    patterns = opened.table("patterns", where=f"discovery_id = '{summary['discovery_id']}'").to_pylist()
    columns = ("pattern", "reference_scan_id", "region", "members", "score", "weak", "centre_mm")
    lines = [f"{key:<14} {value}" for key, value in summary.items()] + common.table(patterns, columns)
    common.show({**summary, "patterns": patterns}, as_json=as_json, lines=lines)


@discoveries.command()
def report(
    lake: common.LakeOption,
    discovery: DiscoveryArgument = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Where the HTML report of a discovery lies.

    Example: semgen-platform discoveries report latest --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.discover import summary_of
    from semgen_platform.lake.lake import open_lake

    summary = summary_of(open_lake(lake), discovery)
    document = {"discovery_id": summary.discovery_id, "report": summary.report}
    common.show(document, as_json=as_json, lines=[summary.report])


@discoveries.command()
def audit(
    lake: common.LakeOption,
    truth: Annotated[Path, typer.Option("--truth", help="The folder truth of a phantom cohort.")],
    discovery: DiscoveryArgument = "latest",
    seed: Annotated[int, typer.Option("--seed", help="Of the random centres that stand beside.")] = 0,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Purity, errors and coverage on phantom truth.

    Example: semgen-platform discoveries audit latest --truth ./ct/truth --lake ./lake

    Beside them stand the same measures for random centres in the same scans.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.audit import audit_discovery
    from semgen_platform.lake.lake import open_lake

    document = audit_discovery(open_lake(lake), discovery, truth, seed=seed)
    common.show(document, as_json=as_json, lines=_lines(document))


def _lines(document: Mapping[str, Any]) -> list[str]:
    rows = [
        {"measure": name, "discovered": value, "random centres": document["random"][name]}
        for name, value in document["patterns"].items()
    ]
    poses = [{"measure": f"poses: {name}", "discovered": value} for name, value in (document["poses"] or {}).items()]
    title = f"{document['discovery_id']} {document['recipe']}"
    return [title, *common.table([*rows, *poses], ("measure", "discovered", "random centres"))]
