"""`runs`: what was ingested, trained and made, finished or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semgen_cli import common

if TYPE_CHECKING:
    from semgen_platform.lake.lake import Lake

runs = typer.Typer(
    help="Runs of the lake's commands.\n\nExample: semgen-platform runs ls --lake ./lake", no_args_is_help=True
)

RunArgument = Annotated[str, typer.Argument(help="Id of a run, or latest for the newest pretraining.")]
REPORT = "report.html"


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(runs, name="runs")


@runs.command()
def ls(
    lake: common.LakeOption,
    kind: Annotated[str | None, typer.Option("--kind", help="Only runs of this kind, e.g. pretrain.")] = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """One line a run.

    Example: semgen-platform runs ls --lake ./lake --kind pretrain
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    found = [row for row in [*_ended(opened), *_not_ended(opened)] if kind in (None, row["kind"])]
    columns = ("run_id", "attempt", "kind", "recipe", "state", "steps", "best_metric", "seconds", "created_at")
    common.show({"runs": found}, as_json=as_json, lines=common.table(found, columns))


@runs.command()
def show(
    lake: common.LakeOption,
    run: RunArgument = "latest",
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """All that is known of one run.

    Example: semgen-platform runs show latest --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    row = _row(open_lake(lake), run)
    for column in ("recipe", "software", "details"):
        row[column] = json.loads(row[column]) if row[column] else None
    common.show(row, as_json=as_json)


@runs.command()
def report(
    lake: common.LakeOption,
    run: RunArgument = "latest",
    out: Annotated[Path | None, typer.Option("--out", help="Copy the page to this file.")] = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Where a pretraining's report lies.

    Example: semgen-platform runs report latest --lake ./lake --out pretrain.html
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.errors import NotFound
    from semgen_platform.lake.lake import open_lake
    from semgen_platform.reports.out import check_out
    from semgen_platform.storage import explained

    opened = open_lake(lake)
    if out is not None:
        check_out(opened, out)
    row = _row(opened, run)
    page = opened.artefact_dir("runs", row["run_id"], row["attempt"]) / REPORT
    if not page.is_file():
        raise NotFound(f"run {row['run_id']} of kind {row['kind']} has no {REPORT}")
    if out is not None:
        with explained(str(out)):
            shutil.copyfile(page, out)
    common.show({"run_id": row["run_id"], "report": str(out or page)}, as_json=as_json)


def _ended(lake: Lake) -> list[dict[str, Any]]:
    rows = sorted(lake.table("runs").to_pylist(), key=lambda row: row["created_at"])
    return [
        {
            **{c: row[c] for c in ("run_id", "attempt", "kind", "state", "steps", "best_metric", "seconds")},
            "recipe": row["recipe_name"],
            "created_at": row["created_at"].isoformat(timespec="seconds"),
        }
        for row in rows
    ]


def _not_ended(lake: Lake) -> list[dict[str, Any]]:
    """Pretrainings with a folder and no row: live ones and ones that the same command goes on with."""
    from semgen_platform.training.metrics import METRICS, read_metrics

    ended = lake.head_keys("runs")
    folders = [p.parent for p in sorted((lake.root / "runs").glob(f"*/*/{METRICS}"))]
    return [
        {
            "run_id": folder.parent.name,
            "attempt": folder.name,
            "kind": "pretrain",
            "state": "not ended",
            "steps": max((row["step"] for row in read_metrics(folder, "train")), default=0),
        }
        for folder in folders
        if (folder.parent.name, folder.name) not in ended
    ]


def _row(lake: Lake, run: str) -> dict[str, Any]:
    """The newest row of a run. Raises NotFound with what there is."""
    from semgen_platform.errors import NotFound

    rows = sorted(lake.table("runs").to_pylist(), key=lambda row: row["created_at"])
    mine = [row for row in rows if run == row["run_id"] or (run == "latest" and row["kind"] == "pretrain")]
    if not mine:
        known = ", ".join(sorted({row["run_id"] for row in rows})) or "none"
        raise NotFound(f"lake {lake.uri} has no ended run {run}; there are {known}")
    return dict(mine[-1])
