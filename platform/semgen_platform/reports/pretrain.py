"""The report of a pretraining run: curves of both stages, and what the network makes of a few crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.config import flatten
from semgen_platform.pictures import montage, png, window
from semgen_platform.reports.html import (
    Markup,
    Point,
    Section,
    details,
    figure,
    line_chart,
    page,
    side_by_side,
    table,
)

Row = Mapping[str, Any]
PICTURE_PX = 160  # shown height and width of one slice
SHARPEST_PX = 4  # screen pixels of a voxel, at most


@dataclass(frozen=True, eq=False)
class Example:
    """A crop's middle slice (y, x) in [0, 1] as the network saw it, restored it, and should have; pattern and guess."""

    pattern: int
    guessed: int
    perturbed: NDArray[np.float32]
    restored: NDArray[np.float32]
    target: NDArray[np.float32]


def pretrain_report(record: Row, train: Sequence[Row], validation: Sequence[Row], examples: Sequence[Example]) -> str:
    """HTML page of a finished run.

    record : run.json.  train, validation : rows of metrics.jsonl by step.
    """
    summary = record["summary"]
    facts = {
        "steps": summary["steps"],
        "patterns": summary["patterns"],
        "training crops": summary["training_crops"],
        "accuracy, unseen patients": summary["validation_accuracy"],
        "chance": 1 / summary["patterns"],
        "skipped steps": summary["skipped_steps"],
    }
    sections = [
        Section("Losses", _curves(train, validation)),
        Section("Restoration", _restoration(examples)),
        Section("Recipe and origin", _origin(record)),
    ]
    subtitle = f"run {record['run_id']}, attempt {record['attempt']}, recipe {record['recipe_name']}"
    return page("Pretraining", sections, subtitle=subtitle, facts=facts)


def _curves(train: Sequence[Row], validation: Sequence[Row]) -> list[Markup | str]:
    restoring = [[row for row in rows if row["restoration"]] for rows in (train, validation)]
    return [
        "Training values are means over the steps since the row before; validation is on patients that never train, "
        "perturbed anew in each epoch.",
        side_by_side(
            [
                line_chart(_both("classification", train, validation), "Cross-entropy of the patterns", "step", "nats"),
                line_chart(_both("accuracy", train, validation), "Accuracy of the patterns", "step", "share"),
                line_chart(_both("restoration", *restoring), "Restoration error", "step", "mean squared error"),
            ]
        ),
        "An accuracy near 1 says that the patterns are too easy to teach anything. Restoration begins with the second "
        "stage.",
    ]


def _both(name: str, train: Sequence[Row], validation: Sequence[Row]) -> dict[str, list[Point]]:
    return {"training": _points(name, train), "validation": _points(name, validation)}


def _points(name: str, rows: Sequence[Row]) -> list[Point]:
    return [(row["step"], row[name] if row[name] is not None else float("nan")) for row in rows]


def _restoration(examples: Sequence[Example]) -> list[Markup | str]:
    if not examples:
        return ["There are no crops to show."]
    return [
        "Middle slices of crops, from left: what the network saw, what it made of it, what it should have made.",
        side_by_side([_pictures(example) for example in examples]),
    ]


def _pictures(example: Example) -> Markup:
    slices = (example.perturbed, example.restored, example.target)
    zoom = max(1, min(SHARPEST_PX, PICTURE_PX // example.target.shape[0]))
    tiles = [window(np.kron(s, np.ones((zoom, zoom))), 0.0, 1.0) for s in slices]
    verdict = "recognised" if example.guessed == example.pattern else f"taken for pattern {example.guessed}"
    error = float(np.mean((example.restored - example.target) ** 2))
    return figure(png(montage(tiles, columns=3)), f"Pattern {example.pattern}, {verdict}; squared error {error:.3f}")


def _origin(record: Row) -> list[Markup | str]:
    origin = {
        "discovery": record["discovery_id"],
        "encoder": record["encoder_id"],
        "lake version": record["lake_version"],
        "weights digest": record["weights_digest"],
        "best step": record["summary"]["best_step"],
        "training time, s": record["summary"]["seconds"],
        "torch": record["software"]["torch"],
    }
    rows = [{"key": key, "value": value} for key, value in flatten(record["recipe"])]
    return [
        table([{"what": what, "value": value} for what, value in origin.items()]),
        details("The whole recipe", [table(rows)]),
    ]
