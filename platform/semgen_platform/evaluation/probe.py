"""The probe: how well frozen features tell anatomy apart, by nearest neighbours and by a linear classifier.

Features of one backbone are set against those of the same network with random weights and against the plain histogram
of HU. All see the same crops, splits and settings; splits are by patient. Scores are balanced accuracies. The spread is
over splits of one set of patients: it says nothing about another pretraining (METHOD.md 5b.10, USERS.md 32). Shapes: N
places, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from semgen_platform.config import Config
from semgen_platform.errors import InputError
from semgen_platform.evaluation.statistics import Spread, balanced_accuracy, spread_of
from semgen_platform.ids import uniform_stream

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

REVISION = 1
"""Raised whenever the same backbone and scans would give other scores."""

PROBES = ("linear", "knn")
LBFGS_STEPS = 100
SMALLEST_SD = 1e-6  # of the largest; features are float32, so below it there is rounding, not signal


class ProbeConfig(Config):
    """What is probed and how."""

    seed: int = 0
    region_mm: float = Field(default=12.0, gt=0)
    """Side of the region in a crop's middle whose dominant label is the crop's class."""
    least_share: float = Field(default=0.6, gt=0, le=1)
    """Share of the region that this label must fill."""
    ignored_labels: tuple[int, ...] = (0, 1)
    """Labels that are no class: air and table of the phantoms."""
    per_label: int = Field(default=4, ge=1)
    """At most so many places of one label in one scan."""
    least_patients: float = Field(default=0.6, ge=0, le=1)
    """A label that a smaller share of the patients shows is no class."""
    splits: int = Field(default=3, ge=1)
    training_share: float = Field(default=0.5, gt=0, lt=1)
    """Of the patients, in each split."""
    neighbours: int = Field(default=5, ge=1)
    penalties: tuple[float, ...] = (1e-3, 1e-2, 1e-1)
    """L2 penalties of the linear probe; the best on held-out training patients is taken."""
    initialisations: int = Field(default=3, ge=1)
    """Random networks that the backbone is compared with."""
    histogram_bins: int = Field(default=64, ge=2)


@dataclass(frozen=True)
class Score:
    """One probe of one feature: balanced accuracy of every split and, within it, of every initialisation."""

    feature: str
    probe: str
    by_split: tuple[tuple[float, ...], ...]

    @property
    def spread(self) -> Spread:
        """Over splits, after the mean over initialisations."""
        return spread_of([float(np.mean(split)) for split in self.by_split])


def patient_splits(groups_N: NDArray[Any], config: ProbeConfig) -> list[BoolArray]:
    """For each split, which of N places train; the others test. No patient is on both sides.

    Raises InputError for fewer than four patients: the linear probe holds some training patients out.
    """
    names = np.unique(groups_N)
    if len(names) < 4:
        raise InputError(
            f"the probe needs at least four held-out patients and {len(names)} are selected; ingest more of them"
        )
    count = min(max(2, round(config.training_share * len(names))), len(names) - 1)
    return [
        np.isin(groups_N, names[uniform_stream(config.seed, "split", n).permutation(len(names))[:count]])
        for n in range(config.splits)
    ]


def score(
    features: Mapping[str, Sequence[NDArray[Any]]], labels_N: IntArray, groups_N: NDArray[Any], config: ProbeConfig
) -> list[Score]:
    """Scores of every feature by every probe. A feature is one matrix (N, D), or one for each random initialisation."""
    splits = patient_splits(groups_N, config)
    scores = []
    for name, matrices in features.items():
        found: dict[str, list[tuple[float, ...]]] = {probe: [] for probe in PROBES}
        for training in splits:
            results = [_score_split(np.asarray(m, np.float64), labels_N, groups_N, training, config) for m in matrices]
            for probe in PROBES:
                found[probe].append(tuple(result[probe] for result in results))
        scores += [Score(name, probe, tuple(found[probe])) for probe in PROBES]
    return scores


def _score_split(
    features_ND: FloatArray, labels_N: IntArray, groups_N: NDArray[Any], training: BoolArray, config: ProbeConfig
) -> dict[str, float]:
    known, asked = standardised(features_ND[training], features_ND[~training])
    labels, truth = labels_N[training], labels_N[~training]
    penalty = _best_penalty(features_ND[training], labels, groups_N[training], config)
    return {
        "linear": balanced_accuracy(truth, linear_predictions(known, labels, asked, penalty)),
        "knn": balanced_accuracy(truth, knn_predictions(known, labels, asked, config.neighbours)),
    }


def standardised(known_ND: FloatArray, asked_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both with the mean and deviation of the first; features that do not vary there are left out."""
    mean, sd = known_ND.mean(0), known_ND.std(0)
    kept = sd > SMALLEST_SD * max(float(sd.max(initial=0.0)), 1e-30)
    return (known_ND[:, kept] - mean[kept]) / sd[kept], (asked_ND[:, kept] - mean[kept]) / sd[kept]


def knn_predictions(known_ND: FloatArray, labels_N: IntArray, asked_MD: FloatArray, neighbours: int) -> IntArray:
    """(M,) most frequent label among the nearest neighbours (Euclidean); ties go to the nearer one's label."""
    squared = (asked_MD**2).sum(1)[:, None] - 2 * asked_MD @ known_ND.T + (known_ND**2).sum(1)[None]
    nearest = labels_N[np.argsort(squared, axis=1, kind="stable")[:, :neighbours]]
    votes = (nearest[:, :, None] == nearest[:, None, :]).sum(2)
    first_most = votes.argmax(1)  # the first of equals, which is the nearest
    return np.asarray(nearest[np.arange(len(nearest)), first_most], np.int64)


def linear_predictions(known_ND: FloatArray, labels_N: IntArray, asked_MD: FloatArray, penalty: float) -> IntArray:
    """(M,) labels by multinomial logistic regression; every class weighs the same, and weights pay an L2 penalty."""
    classes, targets = np.unique(labels_N, return_inverse=True)
    weights_DC, bias_C = _fit_logistic(
        torch.from_numpy(known_ND).float(), torch.from_numpy(targets), len(classes), penalty
    )
    return np.asarray(classes[(asked_MD @ weights_DC.numpy() + bias_C.numpy()).argmax(1)], np.int64)


def _fit_logistic(
    known_ND: torch.Tensor, targets_N: torch.Tensor, classes: int, penalty: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (D, C) and bias (C,) that minimise weighted cross-entropy + penalty / 2 * |weights|^2, begun at zero."""
    weights_DC = torch.zeros(known_ND.shape[1], classes, requires_grad=True)
    bias_C = torch.zeros(classes, requires_grad=True)
    balance_C = len(targets_N) / (classes * torch.bincount(targets_N, minlength=classes))
    optimizer = torch.optim.LBFGS([weights_DC, bias_C], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        fit = torch.nn.functional.cross_entropy(known_ND @ weights_DC + bias_C, targets_N, weight=balance_C)
        total = fit + penalty / 2 * weights_DC.square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return weights_DC.detach(), bias_C.detach()


def _best_penalty(features_ND: FloatArray, labels_N: IntArray, groups_N: NDArray[Any], config: ProbeConfig) -> float:
    """The penalty that does best on half of the training patients, fitted on the other half; ties to the larger."""
    names = np.unique(groups_N)
    inner = np.isin(groups_N, names[: (len(names) + 1) // 2])
    known, asked = standardised(features_ND[inner], features_ND[~inner])
    results = {
        p: balanced_accuracy(labels_N[~inner], linear_predictions(known, labels_N[inner], asked, p))
        for p in config.penalties
    }
    return max(results, key=lambda p: (results[p], p))
