"""`ingest`: archives into the lake."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from semgen_cli import common

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Folders, archives, files, quoted globs, s3://bucket/prefix, or a CSV or Parquet manifest of these."
    ),
]
CollectionOption = Annotated[str, typer.Option("--collection", help="Name under which the scans are filed.")]
ManifestOption = Annotated[
    Path | None,
    typer.Option("--manifest", help="CSV or Parquet with path, patient_id and label columns, for what folders hold."),
]
RefileOption = Annotated[
    bool,
    typer.Option("--refile", help="Read again what these options would file under another patient or labels."),
]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="CSV, outside the lake, with the path and outcome of each source.")
]
GeometryOption = Annotated[
    Literal["strict", "repair"],
    typer.Option("--geometry", help="Refuse gantry tilt and uneven steps, or interpolate them away, flagged."),
]
MinSlicesOption = Annotated[int, typer.Option("--min-slices", min=2, help="Fewer slices are refused.")]
PatientFromOption = Annotated[
    str,
    typer.Option("--patient-from", help="For files that name no patient: file, folder or a regular expression."),
]
PatientNamespaceOption = Annotated[
    str, typer.Option("--patient-namespace", help="Keeps equal patient numbers of two hospitals apart.")
]
DatesOption = Annotated[
    Literal["drop", "shift"],
    typer.Option("--dates", help="Drop DICOM dates, or keep them moved back by days of the patient's own."),
]
MaxRejectsOption = Annotated[
    str | None, typer.Option("--max-rejects", help="More refusals than N or P% end with exit code 4.")
]
TimeLimitOption = Annotated[
    float, typer.Option("--time-limit", min=1, help="Most seconds for one source; it is refused then.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say from headers alone what would happen; nothing is written.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ingest)


def ingest(
    sources: SourcesArgument,
    lake: common.LakeOption,
    collection: CollectionOption = "default",
    manifest: ManifestOption = None,
    refile: RefileOption = False,
    report: ReportOption = None,
    geometry: GeometryOption = "strict",
    min_slices: MinSlicesOption = 16,
    patient_from: PatientFromOption = "file",
    patient_namespace: PatientNamespaceOption = "",
    dates: DatesOption = "drop",
    max_rejects: MaxRejectsOption = None,
    time_limit: TimeLimitOption = 900,
    dry_run: DryRunOption = False,
    workers: common.WorkersOption = 2,
    key_file: common.KeyFileOption = None,
    address: common.AddressOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Add scans to the lake.

    Example: semgen-platform ingest ./incoming --lake ./lake --collection siteA

    Running it again adds nothing and decodes nothing. Every refusal is explained: semgen-platform lake rejects.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_pipelines.convert import IngestConfig
    from semgen_pipelines.ingest import check_rejects, most_rejects
    from semgen_pipelines.ingest import dry_run as run_dry
    from semgen_pipelines.ingest import ingest as run_ingest
    from semgen_platform.errors import ConfigError
    from semgen_platform.lake.lake import open_lake, split_version
    from semgen_platform.privacy import load_key
    from semgen_platform.storage import is_local

    if max_rejects is not None:
        most_rejects(max_rejects, 0)  # before hours of work
    if dry_run and report is not None:
        raise ConfigError("--dry-run writes nothing, so there is no --report; leave one of them out")
    newest, version = split_version(lake)
    if version is not None:
        raise ConfigError(f"--lake {lake} is a version, to which nothing can be added; give {newest}")
    opened = open_lake(lake)
    config = IngestConfig(
        collection=collection,
        geometry=geometry,
        min_slices=min_slices,
        patient_from=patient_from,
        patient_namespace=patient_namespace,
        dates=dates,
        time_limit_s=time_limit,
    )
    key = load_key(key_file, lake_is_local=is_local(lake))
    if dry_run:
        found = run_dry(sources, opened, key, config, manifest_file=manifest, refile=refile, quiet=quiet)
        common.show(asdict(found), as_json=as_json)
        return
    summary = run_ingest(
        sources,
        opened,
        key,
        config,
        manifest_file=manifest,
        refile=refile,
        report=report,
        workers=workers,
        address=address,
        quiet=quiet,
    )
    common.show(asdict(summary), as_json=as_json)
    check_rejects(summary, max_rejects)
