"""The report of a lake or collection: what is in it, what was refused and why, and what the scans look like.

The numbers come from census.py, the pictures from the lake's thumbnails; here they become one page. It names no path
and no identity: ids are pseudonyms or digests, and shortened; a scan that may have identities burned into its pixels
has no picture.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.thumbnails import SOFT_TISSUE_HU
from semgen_platform.reports.census import (
    BURNED_IN,
    HU_BIN,
    HU_RANGE,
    HU_SPACING_MM,
    STATISTICS,
    Census,
    HuCurve,
    Picture,
    chosen,
    hu_curves,
    pictures_of,
    take_census,
)
from semgen_platform.reports.flags import explained, meaning
from semgen_platform.reports.html import (
    SERIES_COLOURS,
    Markup,
    Section,
    card,
    cards,
    histogram_chart,
    line_chart,
    page,
    side_by_side,
    table,
    tag,
    text_of,
)
from semgen_platform.reports.out import check_out
from semgen_platform.volume import UNTRAINABLE_FLAGS

Row = Mapping[str, Any]

SHORT_ID = 10  # characters of an id that a page shows
SHORT_EVIDENCE = 60  # characters of a measured value that a table shows
UNITS = {"mm": "mm", "deg": "degrees", "hu": "HU"}  # suffixes of the names of measured values
MOST_SHAPES = 8  # rows of the table of image sizes
TISSUE_RANGE_HU = (-200, 300)

NAMES = {
    "hu_min": "lowest, HU",
    "hu_p01": "1st percentile, HU",
    "hu_p50": "median, HU",
    "hu_p99": "99th percentile, HU",
    "hu_max": "highest, HU",
    "body_fraction": "share above -500 HU",
    "noise_hu": "noise in soft tissue, HU",
}


@dataclass(frozen=True)
class CollectionSummary:
    """What a report says in numbers, and where it lies.

    sources : accepted ones.  refused : other sources, whose newest word is a refusal.  flagged : scans with any flag.
    """

    report: str
    lake_version: int
    patients: int
    studies: int
    scans: int
    sources: int
    refused: int
    flagged: int
    shown: int
    not_shown: int


def write_collection_report(
    lake: Lake,
    out: Path,
    collections: Sequence[str] | None = None,
    *,
    thumbnails: int,
    quiet: bool = False,
) -> CollectionSummary:
    """Write the page whole or not at all; thumbnails that are not in the lake yet are made and kept there.

    Raises NotFound for an unknown collection, InputError where the page cannot be written or lies in the lake.
    """
    check_out(lake, out)
    census = take_census(lake, collections)
    flags = census.scans["flags"].to_pylist()
    ids = chosen(census.scans["scan_id"].to_pylist(), flags, thumbnails)
    pictures = pictures_of(lake, census, ids, quiet=quiet)
    _write_whole(out, collection_page(census, hu_curves(lake, census, quiet=quiet), pictures))
    totals = census.totals
    return CollectionSummary(
        report=str(out),
        lake_version=lake.version,
        **{name: totals[name] for name in ("patients", "studies", "scans", "sources", "refused")},
        flagged=sum(map(bool, flags)),
        shown=len(ids),
        not_shown=len(flags) - len(ids),
    )


def collection_page(census: Census, curves: Mapping[str, HuCurve], pictures: Sequence[Picture]) -> str:
    """HTML page; `pictures` in the order in which they are shown, flagged scans first."""
    flags = census.scans["flags"].to_pylist()
    flagged = sum(map(bool, flags))
    totals = census.totals
    facts = {
        "patients": totals["patients"],
        "studies": totals["studies"],
        "scans": totals["scans"],
        "scans flagged": flagged,
        "sources accepted": totals["sources"],
        "sources refused": totals["refused"],
    }
    shown = [[p for p in pictures if bool(p.scan["flags"]) is wanted] for wanted in (True, False)]
    sections = [
        Section("What is in it", _contents(census)),
        Section("Refused sources", _refused(census)),
        Section("Flags", _flags(census)),
        Section("Spacing and shape", _grids(census)),
        Section("Hounsfield units", _hounsfield(census, curves)),
        Section("Flagged scans", _gallery(shown[0], flagged, "flagged scans")),
        Section("Other scans", _gallery(shown[1], len(flags) - flagged, "scans without a flag")),
    ]
    subtitle = f"lake {census.lake_id[:SHORT_ID]}, version {census.version} of {census.made}"
    return page(_title(census.collections), sections, subtitle=subtitle, facts=facts)


def _title(collections: Sequence[str]) -> str:
    if not collections:
        return "All scans of the lake"
    return f"Collection{'s' if len(collections) > 1 else ''} {', '.join(collections)}"


def _contents(census: Census) -> list[Markup | str]:
    totals, unknown = census.totals, census.flags().get("patient_unknown", 0)
    voxels = float(np.prod([census.values(f"shape_{axis}") for axis in "zyx"], axis=0).sum())
    megabytes = round(census.values("bytes").sum() / 1e6)
    stored = f"{text_of(round(voxels / 1e6))} million voxels, stored in {text_of(megabytes)} MB"
    sentences = [
        f"{text_of(totals['sources'])} sources (a series or a volume file each) gave {text_of(totals['scans'])} scans:",
        f"{stored}.",
        "Studies are counted where files name one, as DICOM does.",
    ]
    if totals["sources"] > totals["scans"]:
        sentences.append("Sources that hold the same scan, voxel for voxel and at the same place, give it once.")
    if unknown:
        sentences.append(
            f"Nothing says whose scan it is for {text_of(unknown)} of them; each counts as a patient of its own."
        )
    columns = ("collection", "patients", "studies", "scans", "sources", "refused")
    return [" ".join(sentences), table(census.by_collection, columns) if census.by_collection else "There is nothing."]


def _refused(census: Census) -> list[Markup | str]:
    if not census.reasons:
        return ["No source was refused."]
    rows = [
        {
            "reason": tag(row["reason"]),
            "sources": row["sources"],
            "for example": row["sentence"],
            "measured": measured(row["evidence"]),
        }
        for row in census.reasons
    ]
    return [
        "A source is refused where it is no single regular CT volume. Each counts under its first reason; the sentence "
        "and what was measured are those of one of them.",
        table(rows),
    ]


def measured(evidence: str | None) -> str:
    """The short ones of a refusal's measured values (JSON) as text."""
    values: Mapping[str, Any] = json.loads(evidence) if evidence else {}
    pairs = [_named(name, _plain(value)) for name, value in values.items()]
    return "; ".join(pair for pair in pairs if len(pair) <= SHORT_EVIDENCE)


def _named(name: str, value: str) -> str:
    """`step_mm` is a step in mm: the unit goes behind the value."""
    what, _, unit = name.rpartition("_")
    words = (what, value, UNITS[unit]) if unit in UNITS else (name, value)
    return " ".join((words[0].replace("_", " "), *words[1:]))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flags(census: Census) -> list[Markup | str]:
    counts = census.flags()
    if not counts:
        return ["No scan has a flag."]
    rows = [
        {
            "flag": tag(flag),
            "scans": count,
            "what it says": meaning(flag),
            "trained on by default": flag not in UNTRAINABLE_FLAGS,
        }
        for flag, count in counts.items()
    ]
    return ["A flagged scan is kept; the flag says what to know before using it.", table(rows)]


def _grids(census: Census) -> list[Markup | str]:
    if not len(census.scans):
        return ["There are no scans."]
    spacing_mm, slices = census.values("spacing_z_mm"), census.values("shape_z")
    charts = [
        histogram_chart(spacing_mm, "Distance between slices", "mm", "scans"),
        histogram_chart(census.values("spacing_x_mm"), "Pixel width", "mm", "scans"),
        histogram_chart(slices, "Slices", "slices", "scans", whole=True),
        histogram_chart(spacing_mm * slices, "Length along the body", "mm", "scans"),
    ]
    sizes, counts = np.unique(
        np.stack([census.values("shape_y"), census.values("shape_x")], axis=1).astype(int), axis=0, return_counts=True
    )
    order = np.lexsort((sizes[:, 1], sizes[:, 0], -counts))
    rows = [{"rows x columns": f"{sizes[n][0]} x {sizes[n][1]}", "scans": int(counts[n])} for n in order[:MOST_SHAPES]]
    others = int(counts[order[MOST_SHAPES:]].sum())
    rows += [{"rows x columns": f"{len(order) - MOST_SHAPES} other sizes", "scans": others}] if others else []
    return [side_by_side(charts), table(rows, caption="Image sizes")]


def _hounsfield(census: Census, curves: Mapping[str, HuCurve]) -> list[Markup | str]:
    left_out = int((~census.in_hu()).sum())
    without = f" Left out, since not in HU: {text_of(left_out)}." if left_out else ""
    if not curves:
        return [f"There are no scans in HU.{without}"]
    largest = sorted(curves, key=lambda name: (-curves[name].scans, name))[:SERIES_COLOURS]
    of = "each collection" if len(curves) <= SERIES_COLOURS else f"the {SERIES_COLOURS} largest collections"
    read = sum(curve.scans for curve in curves.values())
    lowest, highest = TISSUE_RANGE_HU
    label = f"% of voxels per {HU_BIN} HU"
    charts = [
        line_chart(_points(curves, largest, *HU_RANGE), "Air to bone", "HU", label),
        line_chart(_points(curves, largest, lowest, highest), "Fat to soft tissue", "HU", label),
    ]
    rows = [{"over the scans": NAMES[name], **_spread(census.values(name, only_hu=True))} for name in STATISTICS]
    return [
        f"Curves: mean over the scans of {of}, every scan with the same weight, from {text_of(read)} of "
        f"{text_of(len(census.scans))} scans at a coarse level of about {HU_SPACING_MM:g} mm (so noise is averaged "
        f"out), without padding outside the scanner's field of view.{without}",
        side_by_side(charts),
        table(rows, caption="Statistics of the scans at full resolution, from the lake's table"),
    ]


def _points(curves: Mapping[str, HuCurve], names: Sequence[str], low: int, high: int) -> dict[str, Any]:
    centres = np.arange(*HU_RANGE, HU_BIN) + HU_BIN / 2
    inside = (centres >= low) & (centres <= high)
    return {
        f"{name} ({curves[name].scans})": list(
            zip(centres[inside].tolist(), curves[name].percent[inside].tolist(), strict=True)
        )
        for name in names
    }


def _spread(values: NDArray[np.float64]) -> dict[str, float | None]:
    """Least, 5 %, median, 95 % and greatest of the scans that have a value."""
    finite = values[np.isfinite(values)]
    heads = {"least": 0, "5 %": 5, "median": 50, "95 %": 95, "greatest": 100}
    return {head: float(np.percentile(finite, share)) if len(finite) else None for head, share in heads.items()}


def _gallery(pictures: Sequence[Picture], scans: int, what: str) -> list[Markup | str]:
    if not scans:
        return [f"There are no {what}."]
    low, high = SOFT_TISSUE_HU
    hidden = scans - len(pictures)
    count = (
        f"{text_of(len(pictures))} of {text_of(scans)} {what} are shown, {text_of(hidden)} not."
        if hidden
        else f"All {text_of(scans)} {what} are shown."
    )
    legend = (
        "From left: axial (seen from the feet), coronal (from the front), sagittal (from the patient's left), each "
        "through the middle of the scan, all three at one scale in mm. Letters: R right, L left, A front, P back, "
        f"S head, I feet. Soft-tissue window: level {(low + high) / 2:g} HU, width {high - low:g} HU, so {low:g} HU "
        f"and below is black, {high:g} HU and above white; what lies outside the scan is dark grey."
    )
    return [f"{count} {legend}", cards([_card(picture) for picture in pictures])] if pictures else [count]


def _card(picture: Picture) -> Markup:
    scan, name = picture.scan, picture.scan["scan_id"][:SHORT_ID]
    z, y, x = picture.scan["extent_zyx_mm"]
    lines: list[Markup | str] = [
        f"{scan['shape_z']} slices {scan['spacing_z_mm']:.3g} mm apart, {scan['shape_y']} x {scan['shape_x']} pixels "
        f"of {scan['spacing_y_mm']:.3g} x {scan['spacing_x_mm']:.3g} mm; RL {x:.0f}, AP {y:.0f}, SI {z:.0f} mm",
        f"patient {(scan['patient_id'] or 'unknown')[:SHORT_ID]}, collection {scan['collection']}",
        *(Markup(f"<p>{tag(flag)} {escape(explained(flag, scan))}</p>") for flag in scan["flags"]),
    ]
    if picture.png_bytes is None and BURNED_IN not in scan["flags"]:
        lines.append("No picture: the volume is absent or damaged.")
    if picture.png_bytes is not None and picture.window_hu != SOFT_TISSUE_HU:
        low, high = picture.window_hu
        lines.append(f"Shown from {low:.0f} (black) to {high:.0f} (white), since its values are not in HU.")
    return card(name, lines, png_bytes=picture.png_bytes, alt=f"axial, coronal and sagittal plane of scan {name}")


def _write_whole(out: Path, text: str) -> None:
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"the report cannot be written to {out} ({error.strerror}); give another --out") from None
