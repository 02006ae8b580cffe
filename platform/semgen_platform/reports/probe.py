"""The report of an anatomy probe: what was compared, on whom, and what the spread does not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from semgen_platform.evaluation.features import HISTOGRAM, PRETRAINED, RANDOM
from semgen_platform.evaluation.probe import PROBES, Score
from semgen_platform.reports.html import Interval, Section, details, interval_chart, page, table

NAMES = {PRETRAINED: "pretrained", RANDOM: "same network, random weights", HISTOGRAM: "histogram of HU"}
PROBE_NAMES = {"linear": "Linear probe", "knn": "Nearest neighbours"}
SPREAD = (
    "The spread is over splits of one set of patients between training and testing the probe. It is not a spread over "
    "pretrainings: there was one, and another could come out differently."
)
FAIRNESS = (
    "All features see the same crops, splits and settings. The random networks are the backbone's architecture with "
    "the weights that training starts from, their running averages set from the same crops without labels; the mean "
    "over them counts. The histogram is that of the crop's HU in the backbone's window. The linear probe's penalty is "
    "chosen on patients held out of its training part. Classes count equally, however often they occur."
)


def probe_report(scores: Sequence[Score], facts: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]) -> str:
    """HTML page; `facts` lead it (model, patients, places ...), `classes` are rows of class name and counts."""
    sections = [Section(PROBE_NAMES[probe], _probe_blocks(scores, probe)) for probe in PROBES]
    sections.append(Section("How to read this", [SPREAD, FAIRNESS]))
    sections.append(
        Section("Classes", [details(f"{len(classes)} classes and how many places show each", [table(classes)])])
    )
    return page(
        "Anatomy probe", sections, subtitle="Frozen features against baselines, on held-out patients", facts=facts
    )


def _probe_blocks(scores: Sequence[Score], probe: str) -> list[Any]:
    mine = [score for score in scores if score.probe == probe]
    spreads = [(NAMES[score.feature], score.spread) for score in mine]
    chart = interval_chart(
        [Interval(n, s.mean, s.low, s.high) for n, s in spreads], "Mean and range over splits", "balanced accuracy"
    )
    rows = [
        {"feature": n, "mean": s.mean, "sd over splits": s.sd, "lowest": s.low, "highest": s.high} for n, s in spreads
    ]
    return [chart, table(rows)]
