"""One contract for every search backend, against exhaustive search in float64 NumPy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_platform.errors import ConfigError, Damage, InputError
from semgen_platform.search import backends
from semgen_platform.search import index as search_index

BACKENDS = ["exact", "faiss", pytest.param("faiss-gpu", marks=pytest.mark.gpu)]


def oracle(vectors: Any, ids: list[str], queries: Any, k: int) -> tuple[Any, Any]:
    """Every distance in float64; ties by id."""
    distances: Any = np.sqrt(((queries[:, None].astype(float) - vectors[None].astype(float)) ** 2).sum(-1))
    order = np.stack([np.lexsort((ids, row)) for row in distances])[:, :k]
    return np.array(ids)[order], np.take_along_axis(distances, order, 1)


def cloud(count: int, dimensions: int, seed: int, offset: float = 0.0) -> tuple[Any, list[str]]:
    generator = np.random.default_rng(seed)
    vectors = (generator.normal(size=(count, dimensions)) + offset).astype(np.float32)
    return vectors, [f"s{n:05d}" for n in generator.permutation(count)]


@pytest.mark.parametrize("backend", BACKENDS)
class TestEveryBackend:
    @pytest.mark.parametrize(("count", "dimensions", "k"), [(1, 3, 1), (40, 64, 5), (700, 16, 50), (300, 128, 300)])
    def test_finds_what_exhaustive_search_in_float64_finds(
        self, backend: str, count: int, dimensions: int, k: int
    ) -> None:
        vectors, ids = cloud(count, dimensions, seed=1)
        queries = cloud(30, dimensions, seed=2)[0]
        found, distances = search_index.build(vectors, ids, backend).search(queries, k)
        expected, expected_distances = oracle(vectors, ids, queries, k)
        assert found.tolist() == expected.tolist()
        np.testing.assert_allclose(distances, expected_distances, rtol=1e-12)

    def test_orders_vectors_far_from_zero_as_float64_does(self, backend: str) -> None:
        vectors, ids = cloud(400, 32, seed=3, offset=1000.0)
        expected, _ = oracle(vectors, ids, vectors[:20], 10)
        assert search_index.build(vectors, ids, backend).search(vectors[:20], 10)[0].tolist() == expected.tolist()

    def test_breaks_ties_by_id_even_when_they_are_more_than_the_candidates(self, backend: str) -> None:
        vectors = np.repeat(np.eye(3, dtype=np.float32), 200, axis=0)
        ids = [f"s{n:03d}" for n in np.random.default_rng(4).permutation(600)]
        found, distances = search_index.build(vectors, ids, backend).search(vectors[:1], 7)
        assert found[0].tolist() == sorted(ids[:200])[:7]
        assert not distances.any()

    def test_gives_a_query_the_same_answer_alone_and_in_a_batch(self, backend: str) -> None:
        vectors, ids = cloud(500, 24, seed=5)
        queries = cloud(333, 24, seed=6)[0]
        index = search_index.build(vectors, ids, backend)
        together = index.search(queries, 9)
        for n in (0, 100, 332):
            alone = index.search(queries[n : n + 1], 9)
            assert alone[0][0].tolist() == together[0][n].tolist()
            assert np.array_equal(alone[1][0], together[1][n])

    def test_returns_all_vectors_when_fewer_than_k_exist_and_never_a_filler(self, backend: str) -> None:
        vectors, ids = cloud(4, 8, seed=7)
        found, distances = search_index.build(vectors, ids, backend).search(vectors[:1], 10)
        assert sorted(found[0]) == sorted(ids)
        assert distances.shape == (1, 4)

    def test_comes_back_from_its_files_with_the_same_answers(self, backend: str, tmp_path: Path) -> None:
        vectors, ids = cloud(60, 12, seed=8)
        index = search_index.build(vectors, ids, backend)
        digest = search_index.save(index, tmp_path)
        again = search_index.load(tmp_path, digest=digest)
        assert again.backend == backend
        assert again.search(vectors, 5)[0].tolist() == index.search(vectors, 5)[0].tolist()

    @pytest.mark.parametrize(
        ("vectors", "ids", "sentence"),
        [
            (np.zeros((2, 3)), ["a", "a"], "id a names more than one vector"),
            (np.zeros((2, 3)), ["a"], "1 ids and 2 vectors"),
            (np.zeros((0, 3)), [], "at least one"),
            (np.array([[0.0, np.nan]]), ["a"], "not finite"),
            (np.zeros(3), ["a"], "shape"),
        ],
    )
    def test_refuses_vectors_that_cannot_be_searched(
        self, backend: str, vectors: Any, ids: list[str], sentence: str
    ) -> None:
        with pytest.raises(InputError, match=sentence):
            search_index.build(vectors, ids, backend)

    def test_refuses_a_query_of_another_dimension_and_k_below_one(self, backend: str) -> None:
        vectors, ids = cloud(10, 6, seed=9)
        index = search_index.build(vectors, ids, backend)
        with pytest.raises(InputError, match="have 5 dimensions and the index has 6"):
            index.search(np.zeros((1, 5)), 1)
        with pytest.raises(ConfigError, match="k is 0"):
            index.search(vectors, 0)


def test_the_exact_backend_agrees_over_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "BASE_BLOCK", 64)
    monkeypatch.setattr(backends, "QUERY_BLOCK", 7)
    vectors, ids = cloud(1000, 10, seed=10)
    queries = cloud(30, 10, seed=11)[0]
    found, _ = search_index.build(vectors, ids).search(queries, 80)
    assert found.tolist() == oracle(vectors, ids, queries, 80)[0].tolist()


def test_an_unknown_backend_is_named_with_the_right_ones() -> None:
    with pytest.raises(ConfigError, match="no search backend ivf; use one of exact, faiss, faiss-gpu"):
        search_index.build(np.eye(2), ["a", "b"], "ivf")


def test_without_faiss_the_error_names_the_extra_and_nothing_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"semgen-platform\[cpu\]"):
        search_index.build(np.eye(2), ["a", "b"], "faiss")
    with pytest.raises(InputError, match=r"semgen-platform\[gpu\]"):
        search_index.build(np.eye(2), ["a", "b"], "faiss-gpu")


def test_the_gpu_backend_is_an_error_where_there_is_no_gpu() -> None:
    faiss = pytest.importorskip("faiss", reason="FAISS is not installed")
    if hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        pytest.skip("a GPU and a FAISS that uses it are here")
    with pytest.raises(InputError, match=r"semgen-platform\[gpu\]"):
        search_index.build(np.eye(2), ["a", "b"], "faiss-gpu")


@pytest.mark.parametrize("name", ["vectors.npy", "ids.json", "index.json"])
def test_an_index_with_an_altered_or_missing_file_is_damage(name: str, tmp_path: Path) -> None:
    vectors, ids = cloud(20, 4, seed=12)
    digest = search_index.save(search_index.build(vectors, ids), tmp_path)
    original = (tmp_path / name).read_bytes()
    altered = original.replace(b"s00003", b"s00099") if name == "ids.json" else original.replace(b"1", b"2")
    (tmp_path / name).write_bytes(altered if altered != original else original[:-1] + b"\x01")
    with pytest.raises(Damage):
        search_index.load(tmp_path, digest=digest)
    (tmp_path / name).unlink()
    with pytest.raises(Damage):
        search_index.load(tmp_path, digest=digest)


def test_the_files_say_metric_dimension_and_backend(tmp_path: Path) -> None:
    vectors, ids = cloud(20, 4, seed=13)
    search_index.save(search_index.build(vectors, ids), tmp_path)
    description = json.loads((tmp_path / "index.json").read_text())
    assert (description["metric"], description["dimensions"], description["count"]) == ("euclidean", 4, 20)
