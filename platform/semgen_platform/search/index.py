"""An index: vectors under names, searched by Euclidean distance, written as files that prove themselves.

The answer never depends on the backend, on threads or on how queries are batched: a backend (backends.py) proposes
candidates in float32, their distances are computed again in float64, ties go to the smaller id, and the candidates are
widened until no vector outside them can belong to the answer. For vectors of length one the order is that of cosine
similarity. Shapes: Q queries, N vectors, D dimensions, K neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import ConfigError, Damage, InputError
from semgen_platform.ids import digest_of, file_digest
from semgen_platform.search.backends import make_backend

METRIC = "euclidean"
FORMAT = 1
SPARE_CANDIDATES = 16
RERANK_BYTES = 64 * 2**20

StrArray = NDArray[np.str_]
FloatArray = NDArray[np.float64]


class Index:
    """Made by `build` or `load`.

    ids : N names in ascending order; a position has no meaning outside this object.
    vectors_ND : float32, in the order of `ids`.
    """

    def __init__(self, vectors_ND: NDArray[np.float32], ids: StrArray, backend: str) -> None:
        self.ids, self.vectors_ND, self.backend = ids, vectors_ND, backend
        # distances do not change when all vectors move together, and float32 keeps more digits near zero
        self._centre_D = vectors_ND.mean(0, dtype=np.float64).astype(np.float32)
        centred_ND = np.ascontiguousarray(vectors_ND - self._centre_D)
        self._largest_norm = float(np.linalg.norm(centred_ND, axis=1).max())
        self._backend = make_backend(backend, centred_ND)

    @property
    def dimensions(self) -> int:
        return int(self.vectors_ND.shape[1])

    def search(self, queries_QD: NDArray[Any], k: int) -> tuple[StrArray, FloatArray]:
        """Ids (Q, K) and Euclidean distances (Q, K), nearest first and ties by id; K is k, or N where that is less.

        Raises InputError for queries of another dimension or with values not finite, ConfigError for k below 1.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; ask for at least one neighbour")
        queries = _checked(queries_QD, "queries")
        if queries.shape[1] != self.dimensions:
            raise InputError(
                f"queries have {queries.shape[1]} dimensions and the index has {self.dimensions}; "
                "use the encoder that it was made with"
            )
        k = min(k, len(self.ids))
        positions = np.zeros((len(queries), k), dtype=np.int64)
        squared = np.zeros((len(queries), k))
        open_queries, count = np.arange(len(queries)), min(len(self.ids), k + SPARE_CANDIDATES)
        while len(open_queries):
            found, distances, settled = self._candidates(queries[open_queries], k, count)
            positions[open_queries], squared[open_queries] = found, distances
            open_queries, count = open_queries[~settled], min(len(self.ids), 2 * count)
        return self.ids[positions], np.sqrt(squared)

    def _candidates(
        self, queries_QD: NDArray[np.float32], k: int, count: int
    ) -> tuple[NDArray[np.int64], FloatArray, Any]:
        """The best k of `count` candidates, and for which queries no other vector can be among the best k."""
        centred = np.ascontiguousarray(queries_QD - self._centre_D)
        candidates, approximate = self._backend.nearest(centred, count)
        positions, squared = self._rerank(queries_QD, candidates)
        scale = np.linalg.norm(centred.astype(np.float64), axis=1) + self._largest_norm
        float32_error = 4 * self.dimensions * np.finfo(np.float32).eps * scale**2  # of a sum of D products, bounded
        settled = (count == len(self.ids)) | (squared[:, k - 1] + float32_error < approximate.max(1) - float32_error)
        return positions[:, :k], squared[:, :k], settled

    def _rerank(
        self, queries_QD: NDArray[np.float32], candidates_QM: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], FloatArray]:
        """Candidates ordered by squared distance in float64, ties by position, which is the order of ids."""
        positions = np.sort(candidates_QM, axis=1)
        squared = np.empty(positions.shape)
        block = max(1, RERANK_BYTES // (8 * self.dimensions * positions.shape[1]))
        for start in range(0, len(positions), block):
            rows = slice(start, start + block)
            difference = self.vectors_ND[positions[rows]].astype(np.float64) - queries_QD[rows, None].astype(np.float64)
            squared[rows] = np.square(difference).sum(-1)
        order = np.argsort(squared, axis=1, kind="stable")
        return np.take_along_axis(positions, order, 1), np.take_along_axis(squared, order, 1)


def build(vectors_ND: NDArray[Any], ids: Sequence[str], backend: str = "exact") -> Index:
    """An index over N vectors (float32, any D) under N different ids.

    backend : exact (torch), faiss (CPU) or faiss-gpu.
    Raises InputError for no vectors, values that are not finite, doubled ids or a backend that is not installed,
    ConfigError for an unknown one.
    """
    vectors = _checked(vectors_ND, "vectors")
    names = np.asarray(ids, dtype=np.str_)
    if names.shape != (len(vectors),) or not len(names):
        raise InputError(
            f"an index needs one id a vector and at least one; there are {names.size} ids and {len(vectors)} vectors"
        )
    order = np.argsort(names, kind="stable")
    names, vectors = names[order], np.ascontiguousarray(vectors[order])
    doubled = names[1:][names[1:] == names[:-1]]
    if doubled.size:
        raise InputError(f"id {doubled[0]} names more than one vector; give each its own id")
    return Index(vectors, names, backend)


def save(index: Index, folder: Path) -> str:
    """Write vectors.npy, ids.json and index.json into a folder; returns the digest that names them together."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "vectors.npy", index.vectors_ND)
    (folder / "ids.json").write_text(json.dumps(index.ids.tolist()), encoding="utf-8")
    description = {
        "format": FORMAT,
        "metric": METRIC,
        "backend": index.backend,
        "dimensions": index.dimensions,
        "count": len(index.ids),
        "files": {name: file_digest(folder / name) for name in ("vectors.npy", "ids.json")},
    }
    (folder / "index.json").write_text(json.dumps(description, indent=1, sort_keys=True), encoding="utf-8")
    return digest_of(description)


def load(folder: Path, *, digest: str, backend: str | None = None) -> Index:
    """The index that `save` wrote, checked against the digest that `save` returned; `backend` asks for another one.

    Raises Damage if a file is missing or altered.
    """
    try:
        description = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        found = {name: file_digest(folder / name) for name in description["files"]}
    except (OSError, ValueError, KeyError) as error:
        raise Damage(f"the index in {folder} cannot be read ({error}); build it again") from error
    if digest_of(description) != digest or found != description["files"]:
        raise Damage(f"the index in {folder} differs from its digest; build it again")
    if description["format"] != FORMAT or description["metric"] != METRIC:
        raise InputError(
            f"the index in {folder} has format {description['format']} and metric {description['metric']}; upgrade"
        )
    ids = json.loads((folder / "ids.json").read_text(encoding="utf-8"))
    return build(np.load(folder / "vectors.npy"), ids, backend or description["backend"])


def _checked(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    array = np.asarray(vectors, dtype=np.float32)
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{what} have shape {array.shape}; give a matrix with one vector a row")
    if not np.isfinite(array).all():
        raise InputError(f"{what} contain values that are not finite; embed those scans again")
    return array
