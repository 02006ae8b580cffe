"""Whitening against its definition: no mean, no correlation, unit variance, then length one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semgen_platform.errors import Damage, InputError
from semgen_platform.search import whitening


def correlated(count: int, dimensions: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, dimensions)) @ generator.normal(size=(dimensions, dimensions)) + 5.0


def test_the_projection_has_unit_covariance_along_the_leading_axes() -> None:
    vectors = correlated(500, 20, seed=1)
    fitted = whitening.fit(vectors)
    white = (vectors - fitted.mean_D) @ fitted.projection_DR
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(20), atol=1e-9)


def test_vectors_have_length_one_and_at_most_64_dimensions() -> None:
    white = whitening.fit(correlated(600, 100, seed=2)).transform(correlated(600, 100, seed=2))
    assert white.shape == (600, 64)
    assert white.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(white, axis=1), 1, atol=1e-6)


def test_the_axes_kept_are_those_with_the_most_variance() -> None:
    vectors = np.random.default_rng(3).normal(size=(400, 80)) * np.r_[np.full(64, 10.0), np.full(16, 0.1)]
    weights = np.abs(whitening.fit(vectors).projection_DR).max(1)
    assert weights[:64].min() > weights[64:].max()


def test_fewer_vectors_than_dimensions_keep_a_quarter_so_that_neighbours_differ() -> None:
    vectors = correlated(32, 128, seed=4)
    white = whitening.fit(vectors).transform(vectors)
    distances = np.linalg.norm(white[:, None] - white[None], axis=-1)[np.triu_indices(32, 1)]
    assert white.shape == (32, 8)
    assert distances.std() > 0.1 * distances.mean()  # in 31 dimensions all would be equal


def test_directions_without_variance_are_left_out() -> None:
    vectors = np.zeros((50, 30))
    vectors[:, :3] = np.random.default_rng(5).normal(size=(50, 3))
    white = whitening.fit(vectors).transform(vectors)
    assert white.shape == (50, 3)
    assert np.isfinite(white).all()


def test_a_vector_is_whitened_the_same_alone_and_in_a_batch() -> None:
    vectors = correlated(257, 128, seed=6)
    fitted = whitening.fit(vectors)
    together = fitted.transform(vectors)
    assert all(np.array_equal(fitted.transform(vectors[n : n + 1])[0], together[n]) for n in range(257))


@pytest.mark.parametrize("vectors", [np.ones((1, 4)), np.full((5, 4), 0.3)])
def test_equal_vectors_cannot_be_whitened(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="equal vectors cannot be whitened"):
        whitening.fit(vectors)


def test_vectors_of_another_encoder_are_refused() -> None:
    fitted = whitening.fit(correlated(40, 8, seed=7))
    with pytest.raises(InputError, match="do not fit a whitening of 8 dimensions"):
        fitted.transform(np.zeros((1, 9)))


def test_it_comes_back_from_its_file_unchanged(tmp_path: Path) -> None:
    vectors = correlated(40, 8, seed=8)
    fitted = whitening.fit(vectors)
    whitening.save(fitted, tmp_path / "whitening.npz")
    assert np.array_equal(whitening.load(tmp_path / "whitening.npz").transform(vectors), fitted.transform(vectors))
    (tmp_path / "whitening.npz").write_bytes(b"PK")
    with pytest.raises(Damage):
        whitening.load(tmp_path / "whitening.npz")
