"""`phantom`: a cohort of CT phantoms with their truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semgen_cli.common import AddressOption, JsonOption, QuietOption, SetOption, VerboseOption, set_up, show


def register(app: typer.Typer) -> None:
    app.command()(phantom)


def phantom(
    out: Annotated[Path, typer.Argument(help="New folder; gets scans/, truth/ and manifest.csv.")],
    patients: Annotated[int, typer.Option("--patients", min=1, help="How many patients; one scan each.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same cohort.")] = 0,
    format: Annotated[str, typer.Option("--format", help="nifti, dicom or mixed.")] = "nifti",
    matrix: Annotated[
        int | None, typer.Option("--matrix", help="Pixels along x and y; 128 is small and quick.")
    ] = None,
    settings: SetOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Worker processes; more than one need Ray.")] = 1,
    address: AddressOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make CT phantoms.

    Example: semgen-platform phantom ./ct --patients 8 --seed 1 --format dicom --set noise_hu=[10,20]

    Run again after an interruption, or with more --patients, it writes only what is missing.
    """
    from semgen_platform.config import load_config
    from semgen_platform.phantom.cohort import CohortConfig, write_cohort
    from semgen_platform.progress import Progress

    set_up(verbose=verbose, quiet=quiet)
    given = [
        f"patients={patients}",
        f"seed={seed}",
        f"format={format}",
        *([] if matrix is None else [f"matrix={matrix}"]),
    ]
    config, _ = load_config(CohortConfig, settings=[*given, *(settings or [])])
    with Progress("phantom", patients, quiet=quiet) as progress:
        if workers == 1:
            summary = write_cohort(out, config, progress)
        else:
            from semgen_pipelines.phantoms import write_cohort_with

            summary = write_cohort_with(workers, out, config, progress, address=address)
    show(summary, as_json=as_json)
