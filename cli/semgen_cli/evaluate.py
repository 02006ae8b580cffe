"""`evaluate`: what a published backbone is worth."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semgen_cli import common

evaluate = typer.Typer(
    help="Measure a published backbone.\n\nExample: semgen-platform evaluate probe --model demo ...",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.add_typer(evaluate, name="evaluate")


@evaluate.callback()
def _kinds() -> None:
    """Each kind of evaluation is a command of its own."""


@evaluate.command()
def probe(
    lake: common.LakeOption,
    model: Annotated[str, typer.Option("--model", help="REF: name[:version|alias].")],
    truth: Annotated[Path, typer.Option("--truth", help="Folder of label maps (.npz), such as OUT/truth of phantom.")],
    settings: common.SetOption = None,
    collection: common.CollectionOption = None,
    profile: common.ProfileOption = "default",
    where: common.WhereOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Tell anatomy apart by frozen features.

    Example: semgen-platform evaluate probe --model demo --truth held_out/truth --collection held-out --lake ./lake

    Linear probe and nearest neighbours, against random weights and a HU histogram. The scans must be of patients that
    the backbone has not seen: give their --collection.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.evaluate import evaluate_probe
    from semgen_platform.config import load_config
    from semgen_platform.evaluation.probe import ProbeConfig
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    config, _ = load_config(ProbeConfig, settings=settings or ())
    scans = opened.select_scans(collections=collection, profile=profile, where=where)
    summary = evaluate_probe(opened, model, scans, truth, config, quiet=quiet)
    facts = f"{summary.model}: {summary.places} places of {summary.classes} classes in {summary.patients} patients"
    rows = common.table(summary.scores, ("probe", "feature", "mean", "sd", "low", "high"))
    common.show(asdict(summary), as_json=as_json, lines=[facts, *rows, summary.spread_is, f"report {summary.report}"])
