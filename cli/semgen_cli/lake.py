"""`lake`: make a lake and look at it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from semgen_cli import common

LS_COLUMNS = "scan_id,collection,modality,shape_z,shape_y,shape_x,spacing_z_mm,spacing_y_mm,spacing_x_mm,flags"

lake = typer.Typer(
    help="Make a lake and look at it.\n\nExample: semgen-platform lake ls --lake ./lake", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the noun."""
    app.add_typer(lake, name="lake")


@lake.command()
def init(
    lake: common.LakeOption,
    key_file: common.KeyFileOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Make a lake in a new or empty folder or s3:// prefix; one of the same key that is there already is left as it is.

    Example: semgen-platform lake init --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import create_lake
    from semgen_platform.privacy import key_fingerprint, load_key
    from semgen_platform.storage import is_local

    made = create_lake(lake, key_fingerprint=key_fingerprint(load_key(key_file, lake_is_local=is_local(lake))))
    document = {
        "lake": made.uri,
        "lake_id": made.lake_id,
        "version": made.version,
        "key_fingerprint": made.key_fingerprint,
    }
    common.show(document, as_json=as_json)


@lake.command()
def ls(
    lake: common.LakeOption,
    columns: Annotated[str, typer.Option("--columns", help="Columns to list, joined by commas.")] = LS_COLUMNS,
    collection: common.CollectionOption = None,
    profile: Annotated[str, typer.Option("--profile", help="Which scans are good enough: default or all.")] = "all",
    where: common.WhereOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """List scans.

    Example: semgen-platform lake ls --lake ./lake --where "spacing_z_mm < 3"
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    names = [name.strip() for name in columns.split(",") if name.strip()]
    opened = open_lake(lake)
    rows = opened.scan_rows(collections=collection, profile=profile, where=where, columns=names).to_pylist()
    lines = [*common.table(rows, names), f"{len(rows)} scans at version {opened.version}"]
    common.show({"scans": rows, "version": opened.version}, as_json=as_json, lines=lines)


@lake.command()
def show(
    lake: common.LakeOption,
    name: Annotated[str, typer.Argument(help="Id of a scan, encoder, index, discovery or run; name of a model.")],
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """All that the lake holds on one scan or artefact.

    Example: semgen-platform lake show SCAN --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.describe import describe
    from semgen_platform.lake.lake import open_lake

    found = describe(open_lake(lake), name)
    common.show(found, as_json=as_json, lines=_described(found))


@lake.command()
def stats(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """How much is in the lake.

    Example: semgen-platform lake stats --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.describe import totals
    from semgen_platform.lake.lake import open_lake

    found = totals(open_lake(lake))
    whole = [f"{key:<14} {found[key]}" for key in ("lake", "version", "scans", "patients", "voxels", "bytes")]
    lines = [
        *whole,
        "",
        *common.table(found["collections"], ("collection", "scans", "patients", "voxels", "bytes")),
        *_counted("flag", found["flags"]),
        *_counted("rejected for", found["rejects"]),
        *_counted("rows in", {name: n for name, n in found["rows"].items() if n}),
    ]
    common.show(found, as_json=as_json, lines=lines)


@lake.command()
def rejects(
    lake: common.LakeOption,
    collection: common.CollectionOption = None,
    resolve: Annotated[
        str | None, typer.Option("--resolve", help="The SOURCE that was ingested: print each refusal's path below it.")
    ] = None,
    key_file: common.KeyFileOption = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """What was refused and why.

    Example: semgen-platform lake rejects --lake ./lake

    The lake knows no paths; --resolve finds them again with the key.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.describe import refusals
    from semgen_platform.lake.lake import open_lake

    opened = open_lake(lake)
    by_reason, every = refusals(opened, collection)
    shown = [{**row, "for example": row["sentence"]} for row in by_reason]
    lines = [*common.table(shown, ("reason", "sources", "for example")), f"{len(every)} sources refused"]
    if resolve is not None:
        from semgen_platform.lake.resolving import paths_of
        from semgen_platform.privacy import load_key
        from semgen_platform.storage import is_local

        paths = paths_of(opened, every, resolve, load_key(key_file, lake_is_local=is_local(lake)))
        every = [{**row, "path": paths.get(row["source_id"])} for row in every]
        shown = [{**row, "reason": row["reasons"][0]} for row in every if row["path"]]
        lines += ["", *common.table(shown, ("reason", "path", "sentence"))]
    common.show({"reasons": by_reason, "rejects": every}, as_json=as_json, lines=lines)


@lake.command()
def duplicates(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Pairs of scans that show the same anatomy: equal voxels at two places, or equal slices, as in a crop.

    Example: semgen-platform lake duplicates --lake ./lake

    Slices are compared by a sample of their digests. A split never parts the patients of such a pair.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.duplicates import duplicates as find
    from semgen_platform.lake.lake import open_lake

    pairs = find(open_lake(lake))
    lines = [*common.table(pairs, ("scan_id", "other", "shared", "slices", "same_voxels")), f"{len(pairs)} pairs"]
    common.show({"pairs": pairs}, as_json=as_json, lines=lines)


@lake.command()
def history(
    lake: common.LakeOption,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """The lake's versions.

    Example: semgen-platform lake history --lake ./lake
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake

    versions = open_lake(lake).history()
    shown = [
        {
            "version": version["number"],
            "created_at": version["created_at"][:19],
            "command": version["command"],
            "run_id": version["run_id"],
            **{name: version["rows"][name] for name in ("scans", "embeddings", "members", "models")},
        }
        for version in versions
    ]
    columns = ("version", "created_at", "command", "run_id", "scans", "embeddings", "members", "models")
    common.show({"versions": versions}, as_json=as_json, lines=common.table(shown, columns))


@lake.command()
def report(
    lake: common.LakeOption,
    out: Annotated[Path, typer.Option("--out", help="File to write the page to.")] = Path("lake-report.html"),
    collection: common.CollectionOption = None,
    thumbnails: Annotated[
        int, typer.Option("--thumbnails", min=0, help="At most so many scans with pictures, flagged ones first.")
    ] = 60,  # about 3 MB of page
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Write an HTML page of a lake: counts, refusals, distributions, pictures.

    Example: semgen-platform lake report --lake ./lake --collection mine --out mine.html

    It shows what patients look like inside: keep it where the scans may be kept.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.lake.lake import open_lake
    from semgen_platform.reports.collection import write_collection_report

    summary = write_collection_report(open_lake(lake), out, collection, thumbnails=thumbnails, quiet=quiet)
    common.show(asdict(summary), as_json=as_json)


@lake.command()
def lint_phi(
    lake: common.LakeOption,
    canaries: Annotated[
        Path,
        typer.Option("--canaries", help="Names, numbers and dates to look for, one of 4 characters or more a line."),
    ],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Logs, reports and folders to search too.")
    ] = None,
    as_json: common.JsonOption = False,
    verbose: common.VerboseOption = False,
    quiet: common.QuietOption = False,
) -> None:
    """Search everything in a lake for strings that must not be there; exit code 5 if one is found.

    Example: semgen-platform lake lint-phi --canaries names.txt --lake ./lake

    Places are told with the line of the canary; the canary itself is never printed.
    """
    common.set_up(verbose=verbose, quiet=quiet)
    from semgen_platform.errors import Damage, Incomplete
    from semgen_platform.lake.lake import open_lake
    from semgen_platform.lake.lint_phi import lint, read_canaries

    wanted = read_canaries(canaries)
    result = lint(open_lake(lake).root, paths or [], wanted, quiet=quiet)
    document = {"canaries": wanted.count, **asdict(result)}
    lines = [
        *(common.table(document["found"], ("line", "form", "where")) if result.found else []),
        *(f"not searched through: {where}" for where in result.unread),
        f"{len(result.found)} places hold a canary; {wanted.count} canaries, {result.files} files searched",
    ]
    common.show(document, as_json=as_json, lines=lines)
    if result.found:
        raise Damage(
            f"{len({f.line for f in result.found})} of {wanted.count} canaries were found; see the places above"
        )
    if result.unread:
        raise Incomplete(f"{len(result.unread)} files could not be searched through; no canary is in the others")


def _counted(title: str, counts: dict[str, int]) -> list[str]:
    return (
        ["", *common.table([{title: name, "count": n} for name, n in counts.items()], (title, "count"))]
        if counts
        else []
    )


def _described(found: dict[str, Any]) -> list[str]:
    """One `key value` line for each value; rows of sources and levels as tables."""
    lines = [f"kind            {found['kind']}"]
    for row in found["rows"]:
        levels = row.pop("levels", None) or []
        lines += [f"{key:<15} {value}" for key, value in row.items() if value not in (None, [], "")]
        lines += ["", *common.table(levels, ("shape_zyx", "factor_zyx"))] if levels else []
    if found.get("sources"):
        lines += ["", *common.table(found["sources"], ("source_id", "collection", "patient_id", "kind", "flags"))]
    others = {key: value for key, value in found.items() if key not in ("kind", "rows", "sources") and value}
    return [*lines, "", *(f"{key:<15} {value}" for key, value in others.items())]
