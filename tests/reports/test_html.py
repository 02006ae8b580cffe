"""A report is one file: everything inside, everything escaped, nothing asked of the network."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semgen_platform.pictures import montage, png, window
from semgen_platform.reports.html import (
    Interval,
    Markup,
    Section,
    details,
    figure,
    histogram_chart,
    interval_chart,
    line_chart,
    nice_ticks,
    page,
    round_bins,
    side_by_side,
    table,
    text_of,
)

HOSTILE = "<script>alert('x')</script> & \"quoted\""


class _Outline(HTMLParser):
    """Tags in order, and every address that an element refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        self.text += data


def _full_page() -> str:
    blocks = [
        HOSTILE,
        table([{HOSTILE: HOSTILE, "n": 1}], caption=HOSTILE),
        figure(png(np.zeros((4, 6), np.uint8)), HOSTILE),
        line_chart({HOSTILE: [(0, 1), (1, 2)]}, HOSTILE, HOSTILE, HOSTILE),
        details(HOSTILE, [HOSTILE]),
    ]
    return page(HOSTILE, [Section(HOSTILE, blocks)] * 3, subtitle=HOSTILE, facts={HOSTILE: HOSTILE})


def test_no_text_of_a_caller_becomes_markup() -> None:
    outline = _Outline(_full_page())
    assert "script" not in outline.tags
    assert "alert('x')" in outline.text


def test_a_page_refers_to_nothing_outside_itself() -> None:
    text = _full_page()
    assert all(a.startswith(("data:", "#")) for a in _Outline(text).addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_a_picture_comes_back_out_of_the_page_pixel_for_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13), dtype=np.uint8)
    found = re.search(r"data:image/png;base64,([^\"]+)", figure(png(pixels), "noise"))
    assert found is not None
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.group(1)))))
    np.testing.assert_array_equal(read, pixels)


def test_a_window_maps_its_ends_to_black_and_white_and_clips_beyond() -> None:
    hu = np.array([-2000, -1000, 0, 1000, 3000], np.int16)
    assert window(hu, -1000, 1000).tolist() == [0, 0, 128, 255, 255]


def test_a_montage_lays_tiles_row_by_row_on_a_dark_ground() -> None:
    laid = montage([np.full((2, 2), v, np.uint8) for v in (50, 100, 150)], columns=2, gap=1)
    assert laid.tolist() == [
        [50, 50, 24, 100, 100],
        [50, 50, 24, 100, 100],
        [24, 24, 24, 24, 24],
        [150, 150, 24, 24, 24],
        [150, 150, 24, 24, 24],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (True, "yes"),
        (1234567, "1\u202f234\u202f567"),
        (0.123456, "0.1235"),
        (math.nan, "\N{EN DASH}"),
        ([1, 2.5], "1, 2.5"),
    ],
)
def test_values_are_written_for_people(value: Any, text: str) -> None:
    assert text_of(value) == text


def test_numbers_stand_to_the_right_and_an_empty_table_says_so() -> None:
    made = table([{"name": "a", "score": 0.5}, {"name": "b", "score": None}])
    assert '<th class="number">score</th>' in made
    assert "<th>name</th>" in made
    assert "no rows" in table([])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.9), (1e-5, 3e-5), (12345, 99999), (0.5, 0.5), (0, 0)])
def test_ticks_are_few_round_and_enclose_the_data(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 9
    step = ticks[1] - ticks[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6) in (1, 2, 5)


def test_a_rising_line_rises_on_the_page_and_ends_at_the_frame() -> None:
    chart = line_chart({"a": [(0, 0), (5, 5), (10, 10)]}, "t", "x", "y")
    found = re.search(r'points="([^"]+)"', chart)
    assert found is not None
    points = [tuple(map(float, p.split(","))) for p in found.group(1).split()]
    assert [p[0] for p in points] == pytest.approx([62, 383, 704])
    assert [p[1] for p in points] == pytest.approx([256, 134, 12])


def test_a_value_that_is_not_finite_leaves_a_gap_and_a_lone_value_is_a_dot() -> None:
    chart = line_chart({"a": [(0, 1), (1, 2), (2, math.nan), (3, 4)]}, "t", "x", "y")
    assert chart.count("<polyline") == 1
    assert chart.count("<circle") == 1
    assert "no values" in line_chart({"a": [(0, math.nan)]}, "t", "x", "y")


def test_blocks_stand_beside_each_other() -> None:
    assert side_by_side([Markup("<b>1</b>"), Markup("<b>2</b>")]) == '<div class="beside"><b>1</b><b>2</b></div>'


def test_an_interval_is_a_dot_inside_its_bar_on_an_axis_from_zero() -> None:
    chart = interval_chart([Interval("a & b", 0.5, 0.25, 1.0)], "t", "score")
    found = re.search(r'x1="([\d.]+)" x2="([\d.]+)" y1="15".*cx="([\d.]+)"', chart)
    assert found is not None
    low, high, value = map(float, found.groups())
    left, right = 720 * 0.32, 650.0
    assert (low, high, value) == pytest.approx(
        (left + 0.25 * (right - left), right, left + 0.5 * (right - left)), abs=0.1
    )
    assert "a &amp; b" in chart
    assert "0.500" in chart


@pytest.mark.parametrize(("values", "least"), [([1, 1.25, 5, 5], 0), ([40] * 3, 1), ([0.7], 0), ([12, 900, 13], 1)])
def test_bins_are_round_hold_every_value_once_and_are_not_few(values: list[float], least: float) -> None:
    edges, counts = round_bins(np.array(values, dtype=np.float64), least_step=least)
    assert sum(counts) == len(values)
    assert 9 <= len(counts) <= 30
    assert len(edges) == len(counts) + 1
    assert edges[0] >= 0
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low - 1e-9 <= value < high - 1e-9 for value in values)
        assert high - low >= least


def test_bars_are_as_high_as_they_count() -> None:
    chart = histogram_chart(np.array([1.0, 1.0, 1.0, 2.0, np.nan]), HOSTILE, "mm", "scans")
    heights = [float(h) for h in re.findall(r'<rect[^>]* height="([\d.]+)"', chart)]
    assert heights == pytest.approx([3 / 5 * 244, 1 / 5 * 244], abs=0.1)  # an axis goes to 5 at least
    assert "1 to 1.05: 3 scans" in chart
    assert "<script" not in chart
    assert "no values" in histogram_chart(np.array([np.nan]), "t", "mm", "scans")
