"""The report shows every pattern, marks what was dropped, and asks the network for nothing."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform.discovery.rows import box_matrix, member_row
from semgen_platform.lake.crops import CropRequest
from semgen_platform.reports import discovery as report


def read(requests: Sequence[CropRequest]) -> NDArray[np.float32]:
    """Crops whose HU is the height above -1000, so that pictures tell up from down."""
    out = []
    for request in requests:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in request.shape_zyx], indexing="ij"), axis=-1)
        out.append(index @ request.zyx_to_lps_mm[2, :3] + request.zyx_to_lps_mm[2, 3] - 300)
    return np.stack(out).astype(np.float32)


def member(number: int, pattern: int, score: float | None, reason: str = "") -> dict[str, Any]:
    matrix = box_matrix(np.eye(4), (100.0, 0.0, 0.0), 1.0)
    return member_row(
        "d1", pattern, f"s{number:02d}", "p", "train", matrix, scale=1.0, jitter=0, score=score, reason=reason
    )


PATTERNS = [
    {"pattern": n, "reference_scan_id": "s01", "score": 0.8, "weak": n == 1, "kept": True, "members": 3} for n in (0, 1)
]
MEMBERS = [
    member(0, 0, 0.9),
    member(1, 0, 0.5),
    member(2, 0, 0.7, "ncc 0.1 < 0.5 & near"),
    member(1, 1, None),
    member(3, 1, None),
    {**member(0, 0, 0.9), "jitter": 1},
]
POSES = [
    {"scan_id": "s08", "ncc": 0.2, "overlap": 0.4, "refused": True, "reason": "bodies overlap by 0.40"},
    {"scan_id": "s01", "ncc": 0.9, "overlap": 0.9, "refused": False, "reason": ""},
]
DISCOVERY = {
    "discovery_id": "d1", "recipe_name": "aligned", "encoder_id": "e1", "lake_version": 3, "digest": "x",
    "recipe": '{"aligned": {"seed": 4}}', "details": {"notes": ["9 of 10 patterns: no further place"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def html() -> str:
    return report.discovery_report(DISCOVERY, PATTERNS, MEMBERS, POSES, read)


def pictures(html: str) -> list[NDArray[np.uint8]]:
    from PIL import Image

    found = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(f)))) for f in found]


def test_every_pattern_has_a_montage_and_every_fall_short_a_sentence(html: str) -> None:
    assert len(pictures(html)) == 2
    assert "9 of 10 patterns: no further place" in html
    assert "bodies overlap by 0.40" in html
    assert "ncc 0.1 &lt; 0.5 &amp; near" in html
    assert "pattern 1, 2 members" in html
    assert "weak" in html
    assert re.search(r"https?://", html) is None


def test_the_reference_is_first_then_members_by_score_with_drops_in_red(html: str) -> None:
    picture = pictures(html)[0]
    corners = [tuple(picture[0, n * 37].tolist()) for n in range(3)]  # tiles of 32 + 2 * 2 pixels, 1 apart
    assert corners == [report.REFERENCE_COLOUR, report.PLAIN_COLOUR, report.DROPPED_COLOUR]
    ordered = [r["scan_id"] for r in report.ranked(PATTERNS[0], [m for m in MEMBERS if m["pattern"] == 0][:3])]
    assert ordered == ["s01", "s00", "s02"]


def test_the_coronal_slice_stands_upright(html: str) -> None:
    coronal = pictures(html)[0][37:, :, 0]
    assert coronal[4, 10] > coronal[30, 10], "the head's end, which is brighter here, is above"


def test_of_many_members_the_reference_the_dropped_and_an_even_choice_are_shown() -> None:
    base = [member(n, 0, 1 - n / 100, "bad" if n == 60 else "") for n in range(90)]
    shown = report._shown(report.ranked(PATTERNS[0], base))
    assert len(shown) == report.MOST_TILES
    assert shown[0]["scan_id"] == "s01"
    assert "s60" in {r["scan_id"] for r in shown}
    scores = [r["score"] for r in shown[1:]]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) < 0.15 < 0.95 < max(scores)
