"""Where candidates come from: exact search in torch, FAISS on the CPU, FAISS on the GPU.

A backend proposes the nearest vectors with squared distances in float32; index.py decides the order in float64, so that
all of them give one answer. Asking for a backend that is not there is an error that names the extra to install, never a
silent fallback (USERS.md 25). Shapes: Q queries, N vectors, D dimensions, M candidates.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from semgen_platform.errors import ConfigError, InputError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

BASE_BLOCK = 65_536  # with QUERY_BLOCK a product of 64 MiB
QUERY_BLOCK = 256
FAISS_GPU_MOST = 2048  # FAISS' own limit for neighbours on a GPU


class Backend(Protocol):
    """The nearest of N vectors, to float32 precision."""

    def nearest(self, queries_QD: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
        """Positions and squared Euclidean distances, both (Q, count), nearest first; `count` is at most N."""


class ExactTorch:
    """Every distance, as blocked matrix products."""

    def __init__(self, vectors_ND: FloatArray) -> None:
        self._vectors_ND = torch.from_numpy(vectors_ND)
        self._squares_N = self._vectors_ND.square().sum(1)

    def nearest(self, queries_QD: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
        blocks = [self._nearest(block, count) for block in torch.from_numpy(queries_QD).split(QUERY_BLOCK)]
        positions, squared = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
        return positions, squared

    def _nearest(self, queries_QD: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        best_squared = torch.full((len(queries_QD), 0), math.inf)
        best_positions = torch.zeros((len(queries_QD), 0), dtype=torch.int64)
        squares_Q1 = queries_QD.square().sum(1, keepdim=True)
        for start in range(0, len(self._vectors_ND), BASE_BLOCK):
            block = slice(start, start + BASE_BLOCK)
            squared = squares_Q1 + self._squares_N[block] - 2 * queries_QD @ self._vectors_ND[block].T
            found, places = squared.topk(min(count, squared.shape[1]), largest=False)
            squared = torch.cat([best_squared, found], dim=1)
            best_squared, kept = squared.topk(min(count, squared.shape[1]), largest=False)
            best_positions = torch.cat([best_positions, places + start], dim=1).gather(1, kept)
        return best_positions, best_squared


class FaissFlat:
    """FAISS' exhaustive index on the CPU."""

    def __init__(self, vectors_ND: FloatArray) -> None:
        self._index: Any = _import_faiss("faiss", extra="cpu").IndexFlatL2(vectors_ND.shape[1])
        self._index.add(vectors_ND)

    def nearest(self, queries_QD: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
        squared, positions = self._index.search(queries_QD, count)
        return positions, squared


class FaissFlatGpu:
    """FAISS' exhaustive index on the first GPU, in float32."""

    def __init__(self, vectors_ND: FloatArray) -> None:
        faiss = _import_faiss("faiss-gpu", extra="gpu")
        if not hasattr(faiss, "StandardGpuResources"):
            raise InputError(
                "search backend faiss-gpu needs a FAISS built for CUDA and the CPU one is installed; "
                "pip uninstall faiss-cpu, then pip install 'semgen-platform[gpu]'"
            )
        if faiss.get_num_gpus() == 0:
            raise InputError(
                "search backend faiss-gpu (extra semgen-platform[gpu]) found no CUDA device; use faiss or exact here"
            )
        self._resources = faiss.StandardGpuResources()
        self._index: Any = faiss.GpuIndexFlatL2(self._resources, vectors_ND.shape[1])
        self._index.add(vectors_ND)

    def nearest(self, queries_QD: FloatArray, count: int) -> tuple[IntArray, FloatArray]:
        if count > FAISS_GPU_MOST:
            raise InputError(
                f"faiss-gpu finds at most {FAISS_GPU_MOST} candidates and {count} are needed; use faiss or exact"
            )
        squared, positions = self._index.search(queries_QD, count)
        return positions, squared


BACKENDS: dict[str, type[ExactTorch] | type[FaissFlat] | type[FaissFlatGpu]] = {
    "exact": ExactTorch,
    "faiss": FaissFlat,
    "faiss-gpu": FaissFlatGpu,
}


def make_backend(name: str, vectors_ND: FloatArray) -> Backend:
    """The backend of this name over C-ordered float32 vectors.

    Raises ConfigError for an unknown name, InputError for one that is not installed.
    """
    if name not in BACKENDS:
        raise ConfigError(f"there is no search backend {name}; use one of {', '.join(BACKENDS)}")
    return BACKENDS[name](vectors_ND)


def _import_faiss(backend: str, *, extra: str) -> ModuleType:
    try:
        import faiss
    except (ImportError, RuntimeError) as error:  # RuntimeError: faiss-gpu without its CUDA libraries
        raise InputError(
            f"search backend {backend} is not installed ({error}); pip install 'semgen-platform[{extra}]', or use exact"
        ) from error
    module: ModuleType = faiss
    return module
