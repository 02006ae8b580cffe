"""Self-contained HTML pages: tables, pictures and charts in one file that asks the network for nothing.

Every text is escaped; what is HTML already carries the type `Markup`. Which numbers a report shows is the business of
the modules beside this one. Pictures are inlined as PNG data URIs, charts as SVG, and a content security policy in the
page itself forbids any request.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]

NO_REQUESTS = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
DASH = "\N{EN DASH}"  # stands for no value
LARGE_FACT = 18  # characters that fit in one line of a fact's large type

CHART_WIDTH, CHART_HEIGHT = 720, 300
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 62, 16, 12, 44
TICKS = 5  # aimed at; the real number follows from steps of 1, 2 or 5 times a power of ten
BINS, LEAST_BINS = 24, 9  # of a histogram, at most about and at least
SERIES_COLOURS = 6  # of style.css; further series start again with dashes


class Markup(str):
    """Text that is HTML already; any other string is escaped."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """One chapter of a page: a heading and blocks. A plain string becomes a paragraph."""

    title: str
    blocks: Sequence[Markup | str]


def page(title: str, sections: Sequence[Section], *, subtitle: str = "", facts: Mapping[str, Any] | None = None) -> str:
    """One HTML document; `facts` are the few numbers that a reader wants first, shown large under the title."""
    style = (resources.files("semgen_platform.reports") / "style.css").read_text(encoding="utf-8")
    lead = f'<p class="subtitle">{escape(subtitle)}</p>' if subtitle else ""
    contents = (
        "".join(f'<a href="#s{n}">{escape(s.title)}</a>' for n, s in enumerate(sections)) if len(sections) > 2 else ""
    )
    body = "".join(_section(n, s) for n, s in enumerate(sections))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{NO_REQUESTS}">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1>{lead}{_facts(facts or {})}</header>"
        f"{f'<nav>{contents}</nav>' if contents else ''}{body}</main></body></html>\n"
    )


def _section(number: int, section: Section) -> str:
    blocks = "".join(b if isinstance(b, Markup) else paragraph(b) for b in section.blocks)
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{blocks}</section>'


def _facts(facts: Mapping[str, Any]) -> str:
    if not facts:
        return ""
    return f'<dl class="facts">{"".join(_fact(k, text_of(v)) for k, v in facts.items())}</dl>'


def _fact(name: str, value: str) -> str:
    size = ' class="long"' if len(value) > LARGE_FACT else ""
    return f"<div><dt>{escape(name)}</dt><dd{size}>{escape(value)}</dd></div>"


def paragraph(text: str) -> Markup:
    """A paragraph of plain text."""
    return Markup(f"<p>{escape(text)}</p>")


def text_of(value: Any) -> str:
    """A value as a reader wants it: four significant digits, thousands apart, lists joined, a dash for no value."""
    if value is None:
        return DASH
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}" if math.isfinite(value) else DASH
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(v) for v in value)
    return str(value)


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None, *, caption: str = "") -> Markup:
    """Rows as a table; numbers stand to the right. Columns default to the first row's keys; `Markup` stays as it is."""
    listed = list(rows)
    heads = list(columns) if columns is not None else list(listed[0]) if listed else []
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    if not listed:
        return Markup(f'<p class="empty">{escape(caption or "table")}: no rows</p>')
    numeric = {c for c in heads if all(_is_number(r.get(c)) for r in listed)}
    head = "".join(f"<th{_number_class(c in numeric)}>{escape(c)}</th>" for c in heads)
    body = "".join("<tr>" + "".join(_cell(r.get(c), c in numeric) for c in heads) + "</tr>" for r in listed)
    return Markup(f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))


def _number_class(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def _cell(value: Any, numeric: bool) -> str:
    return f"<td{_number_class(numeric)}>{value if isinstance(value, Markup) else escape(text_of(value))}</td>"


def figure(png_bytes: bytes, caption: str, *, width_px: int | None = None) -> Markup:
    """A picture with its caption; `width_px` is the shown width where it should differ from the picture's own."""
    data = base64.b64encode(png_bytes).decode("ascii")
    size = f' width="{width_px}"' if width_px else ""
    return Markup(
        f'<figure><img alt="{escape(caption)}"{size} src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def side_by_side(blocks: Sequence[Markup]) -> Markup:
    """Blocks beside each other as the window's width allows."""
    return Markup(f'<div class="beside">{"".join(blocks)}</div>')


def cards(each: Sequence[Markup]) -> Markup:
    """Cards in a grid, as many beside each other as the window's width allows."""
    return Markup(f'<div class="cards">{"".join(each)}</div>')


def card(title: str, lines: Sequence[Markup | str], *, png_bytes: bytes | None = None, alt: str = "") -> Markup:
    """A small box: a picture if there is one, a title and lines of text."""
    picture = ""
    if png_bytes is not None:
        data = base64.b64encode(png_bytes).decode("ascii")
        picture = f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
    body = "".join(line if isinstance(line, Markup) else paragraph(line) for line in lines)
    return Markup(f'<article class="card">{picture}<h3>{escape(title)}</h3>{body}</article>')


def tag(text: str) -> Markup:
    """A short word in a frame, such as a flag."""
    return Markup(f'<span class="tag">{escape(text)}</span>')


def details(summary: str, blocks: Sequence[Markup | str]) -> Markup:
    """Blocks folded away under one line."""
    inner = "".join(b if isinstance(b, Markup) else paragraph(b) for b in blocks)
    return Markup(f"<details><summary>{escape(summary)}</summary>{inner}</details>")


def line_chart(series: Mapping[str, Sequence[Point]], title: str, x_label: str, y_label: str) -> Markup:
    """Named series of (x, y) as an SVG line chart; a value that is not finite leaves a gap."""
    finite = [(x, y) for points in series.values() for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not finite:
        return Markup(f'<p class="empty">{escape(title)}: no values</p>')
    x_ticks, y_ticks = (nice_ticks(min(v), max(v)) for v in zip(*finite, strict=True))
    x_range = (min(x for x, _ in finite), max(x for x, _ in finite))
    frame = _Frame(x_range, (y_ticks[0], y_ticks[-1]))
    lines = "".join(_series(n, name, points, frame) for n, (name, points) in enumerate(series.items()))
    legend = "".join(
        f'<span><i class="c{n % SERIES_COLOURS}"></i>{escape(name)}</span>' for n, name in enumerate(series)
    )
    return Markup(
        f'<figure class="chart"><figcaption><b>{escape(title)}</b><span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_axes(frame, x_ticks, y_ticks, x_label, y_label)}{lines}</svg></figure>"
    )


@dataclass(frozen=True)
class _Frame:
    """Where data values lie on the drawing, in SVG units."""

    x_range: Point
    y_range: Point

    def x(self, value: float) -> float:
        return MARGIN_LEFT + _share(value, self.x_range) * (CHART_WIDTH - MARGIN_LEFT - MARGIN_RIGHT)

    def y(self, value: float) -> float:
        return CHART_HEIGHT - MARGIN_BOTTOM - _share(value, self.y_range) * (CHART_HEIGHT - MARGIN_TOP - MARGIN_BOTTOM)


def _share(value: float, span: Point) -> float:
    low, high = span
    return 0.5 if high <= low else (value - low) / (high - low)


@dataclass(frozen=True)
class Interval:
    """One row of an interval chart: a value and the range that it lies in."""

    name: str
    value: float
    low: float
    high: float


def interval_chart(rows: Sequence[Interval], title: str, x_label: str) -> Markup:
    """A dot and a bar for each row on a common axis from zero, the value written behind it."""
    ticks = nice_ticks(0.0, max([row.high for row in rows], default=1.0))
    left, right, height = CHART_WIDTH * 0.32, CHART_WIDTH - 70.0, 30 * len(rows) + MARGIN_BOTTOM
    bottom = height - MARGIN_BOTTOM

    def x(value: float) -> float:
        return left + _share(value, (ticks[0], ticks[-1])) * (right - left)

    grid = "".join(
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="0" y2="{bottom}"/>'
        f'<text class="middle" x="{x(t):.1f}" y="{bottom + 17}">{t:.4g}</text>'
        for t in ticks
    )
    marks = "".join(
        f'<text class="end label" x="{left - 14}" y="{30 * n + 19}">{escape(row.name)}</text>'
        f'<line class="range c0" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{30 * n + 15}" y2="{30 * n + 15}"/>'
        f'<circle class="c0" r="5" cx="{x(row.value):.1f}" cy="{30 * n + 15}"/>'
        f'<text x="{x(row.high) + 12:.1f}" y="{30 * n + 19}">{row.value:.3f}</text>'
        for n, row in enumerate(rows)
    )
    return Markup(
        f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {height}" role="img" aria-label="{escape(title)}">{grid}{marks}'
        f'<text class="label middle" x="{(left + right) / 2}" y="{height - 8}">{escape(x_label)}</text></svg></figure>'
    )


def histogram_chart(
    values: NDArray[np.float64], title: str, x_label: str, y_label: str, *, whole: bool = False
) -> Markup:
    """How many values fall into bins of a round width, as SVG bars; a bin of `whole` values is at least 1 wide."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Markup(f'<p class="empty">{escape(title)}: no values</p>')
    edges, counts = round_bins(finite, least_step=1.0 if whole else 0.0)
    y_ticks = nice_ticks(0, max(*counts, TICKS))
    frame = _Frame((edges[0], edges[-1]), (0, y_ticks[-1]))
    bars = "".join(
        f'<rect class="c0" x="{frame.x(low) + 0.5:.1f}" width="{frame.x(high) - frame.x(low) - 1:.1f}" '
        f'y="{frame.y(count):.1f}" height="{frame.y(0) - frame.y(count):.1f}">'
        f"<title>{low:.4g} to {high:.4g}: {count} {escape(y_label)}</title></rect>"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
        if count
    )
    return Markup(
        f'<figure class="chart"><figcaption><b>{escape(title)}</b></figcaption>'
        f'<svg viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{_axes(frame, nice_ticks(edges[0], edges[-1]), y_ticks, x_label, y_label)}{bars}</svg></figure>"
    )


def round_bins(values: NDArray[np.float64], *, least_step: float = 0.0) -> tuple[list[float], list[int]]:
    """Edges (one more than bins) and counts of bins of a round width; a value on an edge counts in the bin above it.

    There are about BINS bins, at least LEAST_BINS, empty ones at the ends if need be; none below zero without a value.
    """
    low, high = float(values.min()), float(values.max())
    step = max(least_step, _round_step(*_widened(low, high), BINS))
    numbers = np.floor(values / step + 1e-6).astype(np.int64)
    first, last = int(numbers.min()), int(numbers.max())
    lacking = max(0, LEAST_BINS - (last - first + 1))
    start = max(first - lacking // 2, min(first, 0))
    bins = max(last - start + 1, LEAST_BINS)
    return [(start + n) * step for n in range(bins + 1)], np.bincount(numbers - start, minlength=bins).tolist()


def nice_ticks(low: float, high: float) -> list[float]:
    """Round values (steps of 1, 2 or 5 times a power of ten) from at or below `low` to at or above `high`."""
    low, high = _widened(low, high)
    step = _round_step(low, high, TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def _widened(low: float, high: float) -> Point:
    """A span of some length: half its value to each side of a single one."""
    return (low, high) if high > low else (low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5)


def _round_step(low: float, high: float, parts: int) -> float:
    """The least round step with which a span has at most `parts` parts."""
    raw = (high - low) / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str) -> str:
    right, bottom = CHART_WIDTH - MARGIN_RIGHT, CHART_HEIGHT - MARGIN_BOTTOM
    rows = "".join(
        f'<line class="grid" x1="{MARGIN_LEFT}" x2="{right}" y1="{frame.y(t):.1f}" y2="{frame.y(t):.1f}"/>'
        f'<text class="end" x="{MARGIN_LEFT - 8}" y="{frame.y(t) + 4:.1f}">{t:.4g}</text>'
        for t in y_ticks
    )
    inside = [t for t in x_ticks if frame.x_range[0] <= t <= frame.x_range[1]] or [frame.x_range[0]]
    columns = "".join(f'<text class="middle" x="{frame.x(t):.1f}" y="{bottom + 17}">{t:.6g}</text>' for t in inside)
    middle_x, middle_y = (MARGIN_LEFT + right) / 2, (MARGIN_TOP + bottom) / 2
    return (
        f'{rows}{columns}<line class="axis" x1="{MARGIN_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label middle" x="{middle_x}" y="{CHART_HEIGHT - 8}">{escape(x_label)}</text>'
        f'<text class="label middle" transform="translate(14 {middle_y}) rotate(-90)">{escape(y_label)}</text>'
    )


def _series(number: int, name: str, points: Sequence[Point], frame: _Frame) -> str:
    look = f"c{number % SERIES_COLOURS}{' dashed' if number >= SERIES_COLOURS else ''}"
    drawn = []
    for run in _finite_runs(points):
        if len(run) == 1:
            drawn.append(f'<circle class="{look}" r="3" cx="{frame.x(run[0][0]):.1f}" cy="{frame.y(run[0][1]):.1f}"/>')
        else:
            path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in run)
            drawn.append(f'<polyline class="{look}" points="{path}"/>')
    return f"<g><title>{escape(name)}</title>{''.join(drawn)}</g>"


def _finite_runs(points: Sequence[Point]) -> list[list[Point]]:
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]
