"""The report of a discovery: a montage for every pattern, what was dropped and why, which scans were refused.

Reads crops through the callable that it is given; which scans that touches and where they lie is the caller's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.config import flatten
from semgen_platform.discovery.resampling import Shape
from semgen_platform.discovery.rows import is_base, matrix_for_shape
from semgen_platform.lake.crops import CropRequest
from semgen_platform.pictures import montage, png, window
from semgen_platform.reports.html import Markup, Section, figure, page, table

Row = Mapping[str, Any]

ReadCrops = Callable[[Sequence[CropRequest]], NDArray[np.float32]]
"""Crops (N, z, y, x) in HU for requests of one shape, such as `CropReader.read`."""

PIXELS = 32  # of a tile's side: 1.4 to 1.5 mm
AXIAL: Shape = (1, PIXELS, PIXELS)
CORONAL: Shape = (PIXELS, 1, PIXELS)
WINDOW_HU = (-700.0, 350.0)  # lung and soft tissue in one picture
GREY_STEP = 8  # 32 grey levels: half the bytes, and the eye sees no difference at this size
FRAME = 2
REFERENCE_COLOUR, DROPPED_COLOUR, PLAIN_COLOUR = (64, 156, 255), (232, 64, 48), (24, 24, 24)
MOST_TILES = 20
"""Members shown of one pattern; of more, the reference, all dropped that fit and the others evenly by score."""

SHOWN_PX = 52  # a tile on the screen


def discovery_report(
    discovery: Row, patterns: Sequence[Row], members: Sequence[Row], poses: Sequence[Row], read: ReadCrops
) -> str:
    """HTML page of a discovery from its rows in the tables discoveries, patterns, members and poses."""
    base: dict[int, list[Row]] = {}
    for row in members:
        if is_base(row):
            base.setdefault(row["pattern"], []).append(row)
    refused = [p for p in poses if p["refused"]]
    dropped = sum(bool(r["dropped"]) for rows in base.values() for r in rows)
    facts = {
        "patterns": len(patterns),
        "members": sum(map(len, base.values())),
        "dropped": dropped,
        "weak patterns": sum(bool(p["weak"]) for p in patterns),
        "training and validation crops": sum(not r["dropped"] for r in members),
        "scans refused": len(refused),
    }
    sections = [
        Section("Patterns", [_legend(), *(_montage_of(p, base.get(p["pattern"], []), read) for p in patterns)]),
        Section("Dropped members", [_dropped_table(base)] if dropped else ["No member was dropped."]),
        Section("Refused scans", [_refused_table(refused)] if refused else ["No scan was refused."]),
        Section("Recipe and origin", _origin(discovery)),
    ]
    return page(
        f"Discovery {discovery['discovery_id']}", sections, subtitle=f"recipe {discovery['recipe_name']}", facts=facts
    )


def _legend() -> str:
    return (
        "One picture a pattern: the reference first in a blue frame, then members by score, dropped ones in a red "
        "frame. Above the middle axial slice (front at the top, the patient's left on the right), below the middle "
        "coronal one. Window -700 to 350 HU."
    )


def ranked(pattern: Row, base: Sequence[Row]) -> list[Row]:
    """A pattern's base rows as they are shown: the reference first, then by score, ties by id; scoreless ones by id."""
    reference = pattern["reference_scan_id"]
    return sorted(base, key=lambda r: (r["scan_id"] != reference, -(r["score"] or 0.0), r["scan_id"]))


def _shown(rows: Sequence[Row]) -> list[Row]:
    """At most MOST_TILES of the ranked rows, in their order."""
    if len(rows) <= MOST_TILES:
        return list(rows)
    dropped = [n for n, r in enumerate(rows) if r["dropped"] and n > 0][: MOST_TILES // 2]
    rest = [n for n in range(1, len(rows)) if n not in set(dropped)]
    evenly = np.linspace(0, len(rest) - 1, MOST_TILES - 1 - len(dropped)).round().astype(int)
    return [rows[n] for n in sorted({0, *dropped, *(rest[i] for i in evenly)})]


def _montage_of(pattern: Row, base: Sequence[Row], read: ReadCrops) -> Markup:
    rows = _shown(ranked(pattern, base))
    if not rows:
        return Markup(f'<p class="empty">pattern {pattern["pattern"]}: no members</p>')
    axial = read([_request(r, AXIAL) for r in rows])[:, 0]
    coronal = read([_request(r, CORONAL) for r in rows])[:, ::-1, 0]  # head up
    colours = [_colour(pattern, r) for r in rows]
    tiles = [framed(crop, colour) for view in (axial, coronal) for crop, colour in zip(view, colours, strict=True)]
    picture = png(montage(tiles, columns=len(rows), gap=1))
    return figure(picture, _caption(pattern, base, len(rows)), width_px=SHOWN_PX * len(rows))


def _request(row: Row, shape_zyx: Shape) -> CropRequest:
    return CropRequest(row["scan_id"], matrix_for_shape(row["matrix"], shape_zyx), shape_zyx)


def _colour(pattern: Row, row: Row) -> tuple[int, int, int]:
    if row["dropped"]:
        return DROPPED_COLOUR
    return REFERENCE_COLOUR if row["scan_id"] == pattern["reference_scan_id"] else PLAIN_COLOUR


def framed(slice_hu: NDArray[np.float32], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A slice as grey values in a frame of one colour: (rows + 4, columns + 4, 3) uint8."""
    grey = window(slice_hu, *WINDOW_HU) // GREY_STEP * GREY_STEP
    height, width = grey.shape
    tile = np.empty((height + 2 * FRAME, width + 2 * FRAME, 3), np.uint8)
    tile[:] = colour
    tile[FRAME:-FRAME, FRAME:-FRAME] = grey[..., None]
    return tile


def _caption(pattern: Row, base: Sequence[Row], shown: int) -> str:
    dropped = sum(bool(r["dropped"]) for r in base)
    parts = [f"pattern {pattern['pattern']}", f"{len(base)} members"]
    parts += [f"{dropped} dropped"] if dropped else []
    parts += [f"median NCC {pattern['score']:.2f}"] if pattern["score"] is not None else []
    parts += ["weak"] if pattern["weak"] else []
    parts += [f"{shown} shown, evenly by score"] if shown < len(base) else []
    return ", ".join(parts)


def _dropped_table(base: Mapping[int, Sequence[Row]]) -> Markup:
    rows = [
        {"pattern": r["pattern"], "scan": r["scan_id"], "score": r["score"], "reason": r["reason"]}
        for number in sorted(base)
        for r in sorted(base[number], key=lambda r: r["scan_id"])
        if r["dropped"]
    ]
    return table(rows)


def _refused_table(refused: Sequence[Row]) -> Markup:
    return table(
        [
            {"scan": p["scan_id"], "NCC": p["ncc"], "body overlap": p["overlap"], "reason": p["reason"]}
            for p in sorted(refused, key=lambda p: str(p["scan_id"]))
        ]
    )


def _origin(discovery: Row) -> list[Markup | str]:
    details = _decoded(discovery.get("details"))
    notes: list[Markup | str] = [str(note) for note in details.get("notes", [])]
    made = {
        "discovery": discovery["discovery_id"],
        "encoder": discovery.get("encoder_id"),
        "lake version": discovery.get("lake_version"),
        "digest of all rows": discovery.get("digest"),
        **dict(flatten(_decoded(discovery.get("recipe")))),
    }
    return [*notes, table([{"what": key, "value": value} for key, value in made.items()])]


def _decoded(value: Any) -> Mapping[str, Any]:
    """A JSON column as a mapping, whether it was read from a table or is about to be written."""
    decoded: Mapping[str, Any] = json.loads(value) if isinstance(value, str) else value or {}
    return decoded
