"""The report of a pretraining: its numbers, curves and pictures, in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from semgen_platform.reports.pretrain import Example, pretrain_report

RECORD = {
    "run_id": "ptest",
    "attempt": "0",
    "recipe_name": "tiny",
    "recipe": {"training": {"seed": 3}, "network": {"width": 8}},
    "discovery_id": "dtest",
    "encoder_id": None,
    "lake_version": 7,
    "weights_digest": "w" * 24,
    "software": {"torch": "2"},
    "summary": {
        "steps": 40,
        "best_step": 30,
        "patterns": 4,
        "training_crops": 1234,
        "validation_accuracy": 0.625,
        "skipped_steps": 0,
        "seconds": 12.5,
    },
}


def row(step: int, restoration: float) -> dict[str, float | None]:
    return {"step": step, "classification": 3.0 - step / 20, "accuracy": step / 80, "restoration": restoration}


TRAIN = [row(10, 0.0), row(20, 0.0), row(30, 0.05), row(40, 0.02)]
VALIDATION = [row(20, 0.0), {**row(40, 0.03), "classification": None}]  # a loss that was no number


@pytest.fixture
def html() -> str:
    ramp = np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)
    examples = [Example(2, 2, 1 - ramp, ramp, ramp), Example(3, 0, ramp, ramp, np.zeros_like(ramp))]
    return pretrain_report(RECORD, TRAIN, VALIDATION, examples)


def test_first_come_the_numbers_that_a_reader_wants(html: str) -> None:
    for text in ("ptest", "tiny", "1\u202f234", "0.625", "0.25", "dtest", "w" * 24, "training.seed"):
        assert text in html


def test_restoration_is_drawn_from_the_second_stage_on(html: str) -> None:
    last_chart = html.split("Restoration error")[-1].split("</figure>")[0]
    assert "0.02" in last_chart
    assert len(re.findall(r"<polyline[^>]*points=\"([^\"]*)\"", last_chart)[0].split()) == 2


def test_each_crop_is_shown_three_times_with_its_verdict(html: str) -> None:
    assert "Pattern 2, recognised; squared error 0.000" in html
    assert "Pattern 3, taken for pattern 0; squared error 0.333" in html  # the mean of a squared ramp is a third
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"png;base64,([^\"]+)", html)]
    assert [picture.size for picture in pictures] == [(3 * 128 + 4, 128)] * 2  # 4 pixels a voxel, gaps of 2
    first = np.asarray(pictures[0])
    assert first[0, 0] == 255  # the input's corner is 1, the target's 0
    assert first[0, -128] == 0


def test_nothing_is_asked_of_the_network(html: str) -> None:
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", html)


def test_a_run_without_validation_or_pictures_has_a_report_too() -> None:
    record = {**RECORD, "summary": {**RECORD["summary"], "validation_accuracy": None}}  # type: ignore[dict-item]
    assert "There are no crops to show" in pretrain_report(record, TRAIN, [], [])
