"""The probe's parts against other implementations, and its verdict on features whose worth is known."""

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from semgen_platform.errors import InputError
from semgen_platform.evaluation.probe import (
    ProbeConfig,
    knn_predictions,
    linear_predictions,
    patient_splits,
    score,
    standardised,
)
from semgen_platform.evaluation.statistics import balanced_accuracy, spread_of

CLASSES, DIMENSIONS = 5, 6


def _blobs(count: int, noise: float, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(99).normal(size=(CLASSES, DIMENSIONS))
    labels = rng.integers(0, CLASSES, count) * 10
    return middles[labels // 10] + rng.normal(0, noise, (count, DIMENSIONS)), labels


def test_neighbours_vote_as_a_kd_tree_and_a_count_say() -> None:
    (known, labels), (asked, _) = _blobs(120, 1.0), _blobs(60, 1.0, seed=1)
    _, order = cKDTree(known).query(asked, k=5)
    expected = [
        Counter(labels[row].tolist()).most_common(1)[0][0] for row in np.asarray(order)
    ]  # most_common keeps order of arrival
    assert knn_predictions(known, labels, asked, 5).tolist() == expected


def test_the_linear_probe_finds_the_minimum_that_scipy_finds() -> None:
    (known, labels), (asked, _) = _blobs(90, 1.0), _blobs(200, 1.0, seed=1)
    classes, targets = np.unique(labels, return_inverse=True)
    weight = (len(targets) / (CLASSES * np.bincount(targets)))[targets]
    penalty = 0.03

    def loss(flat: NDArray[np.float64]) -> float:
        w, b = flat[:-CLASSES].reshape(DIMENSIONS, CLASSES), flat[-CLASSES:]
        logits = known @ w + b
        logits -= logits.max(1, keepdims=True)
        nll = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(targets)), targets]
        return float((weight * nll).sum() / weight.sum() + penalty / 2 * (w**2).sum())

    best = minimize(loss, np.zeros((DIMENSIONS + 1) * CLASSES), method="BFGS", options={"gtol": 1e-7}).x
    logits = asked @ best[:-CLASSES].reshape(DIMENSIONS, CLASSES) + best[-CLASSES:]
    assert linear_predictions(known, labels, asked, penalty).tolist() == classes[logits.argmax(1)].tolist()


def test_balanced_accuracy_weighs_classes_and_not_places() -> None:
    truth, predicted = np.array([1, 1, 1, 1, 2]), np.array([1, 1, 1, 1, 1])
    assert balanced_accuracy(truth, predicted) == 0.5


def test_a_spread_is_mean_and_sample_deviation() -> None:
    found = spread_of([1.0, 2.0, 4.0])
    assert (found.low, found.high) == (1.0, 4.0)
    assert found.mean == pytest.approx(7 / 3)
    assert found.sd == pytest.approx(1.527525)
    assert spread_of([3.0]).sd == 0


def test_standardising_looks_at_the_training_part_alone_and_drops_what_does_not_vary() -> None:
    known = np.array([[1.0, 5.0, 7.0], [3.0, 5.0, 9.0]])
    asked = np.array([[100.0, 6.0, 8.0]])
    first, second = standardised(known, asked)
    assert first.tolist() == [[-1, -1], [1, 1]]
    assert second.tolist() == [[98, 0]]


def test_no_patient_trains_and_tests_in_one_split() -> None:
    groups = np.array([f"p{n % 8}" for n in range(80)])
    splits = patient_splits(groups, ProbeConfig(splits=5))
    for training in splits:
        assert len(set(groups[training])) == 4
        assert not set(groups[training]) & set(groups[~training])
    assert len({tuple(s.tolist()) for s in splits}) > 1
    assert all((a == b).all() for a, b in zip(splits, patient_splits(groups, ProbeConfig(splits=5)), strict=True))


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(InputError, match="at least four"):
        patient_splits(np.array(["a", "b", "c"] * 5), ProbeConfig())


def test_informative_features_score_above_weak_ones_and_noise_scores_chance() -> None:
    good, labels = _blobs(400, 0.4)
    groups = np.array([f"p{n % 8}" for n in range(400)])
    noise = np.random.default_rng(5).normal(size=(3, 400, 8))
    weak = good + np.random.default_rng(6).normal(0, 2.0, good.shape)
    config = ProbeConfig(penalties=(1e-3, 1e-1))
    found = {
        (s.feature, s.probe): s
        for s in score({"good": [good], "weak": [weak], "noise": list(noise)}, labels, groups, config)
    }
    for probe in ("linear", "knn"):
        assert found["good", probe].spread.mean > 0.9
        assert 0.3 < found["weak", probe].spread.mean < 0.8
        assert abs(found["noise", probe].spread.mean - 1 / CLASSES) < 0.08
    assert [len(split) for split in found["noise", "knn"].by_split] == [3, 3, 3]


def test_features_do_not_gain_from_their_units() -> None:
    features, labels = _blobs(200, 1.0)
    groups = np.array([f"p{n % 5}" for n in range(200)])
    config = ProbeConfig(penalties=(1e-2,), splits=1)
    plain, scaled = (score({"x": [features * unit]}, labels, groups, config) for unit in (1.0, 1e-4))
    assert [s.spread.mean for s in plain] == pytest.approx([s.spread.mean for s in scaled])
