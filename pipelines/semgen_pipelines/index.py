"""`build-index`: whitened vectors of the selected scans as an index of the lake, with its recall measured.

One process: a hundred thousand vectors are 50 MB, and whitening and indexing them takes seconds. Answering from an
index is semgen_platform.discovery.neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from semgen_pipelines.artefacts import ATTEMPT, made
from semgen_platform import ids
from semgen_platform.config import Config
from semgen_platform.discovery.embedder import load_encoder
from semgen_platform.discovery.neighbours import index_row, save_scan_index, vectors_of
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.leases import hold
from semgen_platform.lake.selection import Scan
from semgen_platform.search import index as search_index
from semgen_platform.search import whitening as search_whitening
from semgen_platform.search.index import Index

REVISION = 1
RECALL_QUERIES = 1000
RECALL_AT = 10
LEAST_RECALL = 0.95


class IndexConfig(Config):
    """What the index is."""

    kind: Literal["exact", "faiss", "faiss-gpu"] = "exact"
    """Search backend that it is built for."""


@dataclass(frozen=True)
class IndexSummary:
    """What `build-index` made or found."""

    index_id: str
    encoder_id: str
    found: bool
    vectors: int
    dimension: int
    recall: float
    lake_version: int


def build_index(
    lake: Lake, scans: Sequence[Scan], encoder: str, config: IndexConfig, *, recipe_name: str
) -> IndexSummary:
    """Index the vectors of these scans by this encoder, or find the index.

    Raises InputError (no scan, vectors missing, backend not installed), NotFound (no such encoder), Busy.
    """
    embedder = load_encoder(lake, encoder)
    parents = [embedder.encoder_id]
    named = made("index", config, scans, recipe_name=recipe_name, revision=REVISION, parents=parents)
    with hold(lake.storage, named.artefact_id):
        found = (named.artefact_id,) in lake.head_keys("indexes")
        if not found:
            vectors = vectors_of(lake, embedder.encoder_id, scans, embedder.dimension)
            whitening = search_whitening.fit(vectors)
            white = whitening.transform(vectors)
            index = search_index.build(white, [s.scan_id for s in scans], config.kind)
            content_of = {s.scan_id: s.content_id for s in scans}
            folder = lake.artefact_dir("indexes", named.artefact_id, ATTEMPT)
            files, digest = save_scan_index(index, whitening, embedder, content_of, folder)
            row = {
                "index_id": named.artefact_id,
                "encoder_id": embedder.encoder_id,
                **named.columns(lake, digest),
                "kind": config.kind,
                "vectors": len(scans),
                "dimension": index.dimensions,
                "recall": recall_of(index),
                "files": files,
                "details": {"metric": search_index.METRIC, "recall_at": RECALL_AT},
            }
            lake.insert("indexes", [row])
        version = lake.commit("build-index", named.artefact_id)
    row = index_row(lake.refresh(), named.artefact_id)
    return IndexSummary(
        named.artefact_id, embedder.encoder_id, found, row["vectors"], row["dimension"], row["recall"], version
    )


def recall_of(index: Index) -> float:
    """Share of the true nearest RECALL_AT among those that the index finds, over its own vectors; 1 for an exact one.

    Raises InputError below LEAST_RECALL, since such an index answers wrongly without saying so.
    """
    if index.backend == "exact":
        return 1.0
    chosen = ids.uniform_stream("recall", len(index.ids)).permutation(len(index.ids))[:RECALL_QUERIES]
    queries = index.vectors_ND[np.sort(chosen)]
    exact = search_index.build(index.vectors_ND, index.ids.tolist())
    found, true = (i.search(queries, RECALL_AT)[0] for i in (index, exact))
    hits = [len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)]
    recall = float(np.mean(hits))
    if recall < LEAST_RECALL:
        raise InputError(
            f"the {index.backend} index finds {recall:.3f} of the true neighbours, below {LEAST_RECALL}; use exact"
        )
    return recall
