"""`evaluate probe`: a published backbone against random networks and a histogram on held-out patients.

One process: some thousand crops of eight scans take a minute, which starting workers would not shorten. The crops are
read once and every feature is computed from them. The protocol is semgen_platform.evaluation.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semgen_pipelines.artefacts import ATTEMPT
from semgen_platform import ids
from semgen_platform.backbones.backbone import Backbone
from semgen_platform.backbones.registry import load_backbone, resolve
from semgen_platform.backbones.scan import crop_request
from semgen_platform.errors import InputError
from semgen_platform.evaluation import labelled, probe
from semgen_platform.evaluation.features import (
    CALIBRATION_CROPS,
    HISTOGRAM,
    PRETRAINED,
    RANDOM,
    compute,
    probe_features,
)
from semgen_platform.evaluation.held_out import check_held_out
from semgen_platform.evaluation.labelled import Places
from semgen_platform.evaluation.probe import ProbeConfig, Score
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.selection import Scan
from semgen_platform.phantom.labels import NAMES
from semgen_platform.progress import Progress
from semgen_platform.reports.probe import SPREAD, probe_report

PROTOCOL = "anatomy-probe"
BASELINES = (RANDOM, HISTOGRAM)
RESULT, REPORT = "scores.json", "report.html"


@dataclass(frozen=True)
class ProbeSummary:
    """What `evaluate probe` found; `scores` has one row a feature and probe, with the spread over splits.

    patients : that are probed, none of them among the training_patients of the backbone.
    """

    model: str
    evaluation_run: str
    found: bool
    patients: int
    training_patients: int
    places: int
    classes: int
    splits: int
    scores: list[dict[str, Any]]
    spread_is: str
    report: str
    seconds: float
    lake_version: int


def evaluate_probe(
    lake: Lake, ref: str, scans: Sequence[Scan], truth: Path, config: ProbeConfig, *, quiet: bool = False
) -> ProbeSummary:
    """Probe a model on labelled scans of patients it has not seen, or find that it was done.

    truth : folder of .npz label maps (evaluation.labelled).
    Raises NotFound (model), InputError (no scan, no truth, too few patients, patients that the backbone has seen),
    Busy.
    """
    started = time.monotonic()
    if not scans:
        raise InputError("no scan is selected; give the held-out collection with --collection")
    row = resolve(lake, ref)
    exact = f"{row['name']}:{row['version']}"
    run_id = ids.artefact_id(
        "evaluation",
        recipe={"protocol": PROTOCOL, **config.model_dump(mode="json")},
        revision=probe.REVISION,
        parents=[row["model_id"]],
        selection=ids.selection_digest((s.scan_id, s.patient_id, s.split_group) for s in scans),
    )
    folder = lake.artefact_dir("runs", run_id, ATTEMPT)
    with hold(lake.storage, run_id):
        found = (run_id, ATTEMPT) in lake.head_keys("runs")
        if not found:
            backbone = load_backbone(exact, lake=lake)
            result = _probe(lake, backbone, scans, truth, config, quiet=quiet)
            _write(folder, result, backbone)
            _insert(lake, result, backbone, run_id, row["model_id"], config, time.monotonic() - started)
        version = lake.commit("evaluate", run_id)
    document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return ProbeSummary(
        model=exact,
        evaluation_run=run_id,
        found=found,
        **document["facts"],
        scores=document["scores"],
        spread_is=SPREAD,
        report=str(folder / REPORT),
        seconds=round(time.monotonic() - started, 1),
        lake_version=version,
    )


@dataclass(frozen=True, eq=False)
class _Result:
    scores: list[Score]
    places: Places
    facts: dict[str, int]


def _probe(
    lake: Lake, backbone: Backbone, scans: Sequence[Scan], truth: Path, config: ProbeConfig, *, quiet: bool
) -> _Result:
    seen = check_held_out(lake, backbone.config.lineage, scans)
    places = labelled_places(scans, truth, config, quiet=quiet)
    probe.patient_splits(places.groups, config)  # too few patients are refused before the long part
    contract = backbone.config.preprocessing
    requests = [
        crop_request(str(scan_id), centre, contract)
        for scan_id, centre in zip(places.scan_ids, places.centres_zyx_mm, strict=True)
    ]
    reader = CropReader(lake.root, scans)
    features = probe_features(
        backbone,
        reader.read(_evenly(requests, CALIBRATION_CROPS)),
        initialisations=config.initialisations,
        bins=config.histogram_bins,
        seed=config.seed,
    )
    with Progress("evaluate: crops", len(requests), quiet=quiet) as progress:
        matrices = compute(features, reader, requests, progress.advance)
    scores = probe.score(matrices, places.labels, places.groups, config)
    facts = {
        "patients": len(np.unique(places.groups)),
        "training_patients": seen,
        "places": len(places),
        "classes": len(np.unique(places.labels)),
        "splits": config.splits,
    }
    return _Result(scores, places, facts)


def labelled_places(scans: Sequence[Scan], truth: Path, config: ProbeConfig, *, quiet: bool) -> Places:
    """Labelled places of all scans. Raises InputError if the truth does not fit them or shows too few classes."""
    files = labelled.truth_by_scan(scans, truth)
    parts = []
    with Progress("evaluate: truth", len(scans), quiet=quiet) as progress:
        for scan in scans:
            labels_ZYX = labelled.read_labels(files[scan.scan_id])
            centres, labels = labelled.candidates(labels_ZYX, scan.zyx_to_lps_mm, config.region_mm, config.least_share)
            parts.append(labelled.drawn(scan, centres, labels, config.per_label, config.ignored_labels, config.seed))
            progress.advance()
    places = labelled.joined(parts, config.least_patients)
    if len(np.unique(places.labels)) < 2:
        raise InputError(f"the truth in {truth} shows fewer than two classes in enough patients; lower least_patients")
    return places


def _evenly(requests: Sequence[CropRequest], count: int) -> list[CropRequest]:
    chosen = np.unique(np.linspace(0, len(requests) - 1, min(count, len(requests))).round().astype(int))
    return [requests[n] for n in chosen]


def _write(folder: Path, result: _Result, backbone: Backbone) -> None:
    """The result as JSON and as a page; the row that comes after makes them exist."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"feature": s.feature, "probe": s.probe, **asdict(s.spread), "by_split": s.by_split} for s in result.scores]
    (folder / RESULT).write_text(json.dumps({"facts": result.facts, "scores": rows}, indent=1), encoding="utf-8")
    counted = zip(*np.unique(result.places.labels, return_counts=True), strict=True)
    classes = [
        {"class": NAMES[label] if label < len(NAMES) else str(label), "places": int(count)} for label, count in counted
    ]
    lead = {"model": backbone.config.ref, **{name.replace("_", " "): value for name, value in result.facts.items()}}
    lead["chance"] = 1 / result.facts["classes"]
    (folder / REPORT).write_text(probe_report(result.scores, lead, classes), encoding="utf-8")


def _insert(
    lake: Lake,
    result: _Result,
    backbone: Backbone,
    run_id: str,
    model_id: str,
    config: ProbeConfig,
    seconds: float,
) -> None:
    by_name = {(s.feature, s.probe): s for s in result.scores}
    recipe = config.model_dump(mode="json")
    rows: list[Mapping[str, Any]] = []
    for metric in probe.PROBES:
        spread = by_name[PRETRAINED, metric].spread
        for baseline in BASELINES:
            rows.append(
                {
                    "evaluation_id": "v" + ids.digest_of([run_id, baseline]),
                    "model": backbone.config.ref,
                    "metric": f"{metric}_balanced_accuracy",
                    "protocol": PROTOCOL,
                    "mean": spread.mean,
                    "spread": spread.sd,
                    "interval": [spread.low, spread.high],
                    "baseline": by_name[baseline, metric].spread.mean,
                    "baseline_name": baseline,
                    "recipe": recipe,
                    "parents": [model_id],
                    "lake_version": lake.version,
                    "details": {**result.facts, "spread_is": SPREAD},
                    "run_id": run_id,
                }
            )
    lake.insert("evaluations", rows)
    run = {
        "run_id": run_id,
        "attempt": ATTEMPT,
        "kind": "evaluate",
        "recipe_name": PROTOCOL,
        "recipe": recipe,
        "parents": [model_id],
        "state": "done",
        "steps": result.facts["places"],
        "best_metric": by_name[PRETRAINED, "linear"].spread.mean,
        "seconds": round(seconds, 3),
        "lake_version": lake.version,
    }
    lake.insert("runs", [run])
