"""The nearest scans of the lake: an index of whitened vectors together with the encoder that made them.

An index names its encoder and the digest of its weights; another encoder is refused, whatever its dimension (USERS.md
29). What the server answers from is here; building one is semgen_pipelines.index.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry, ids
from semgen_platform.discovery.embedder import INPUT_LEVEL_MM, Embedder, load_encoder
from semgen_platform.discovery.resampling import Float32Array
from semgen_platform.errors import Damage, InputError, NotFound
from semgen_platform.lake.crops import SPACING_TOLERANCE
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.pyramid import block_mean, level_affine, plan_levels
from semgen_platform.lake.selection import Scan
from semgen_platform.search import index as search_index
from semgen_platform.search import whitening as search_whitening
from semgen_platform.search.index import Index
from semgen_platform.search.whitening import Whitening
from semgen_platform.volume import Volume

DESCRIPTION, WHITENING = "scans.json", "whitening.npz"


@dataclass(frozen=True)
class Neighbour:
    """A scan of the lake and its cosine similarity to the query, in [-1, 1]."""

    scan_id: str
    similarity: float


@dataclass(frozen=True, eq=False)
class ScanIndex:
    """An index of scans, its whitening and its encoder; made by `load_scan_index`.

    content_of : content_id of each indexed scan, by which a query is recognised among its own neighbours.
    """

    index_id: str
    index: Index
    whitening: Whitening
    embedder: Embedder
    content_of: dict[str, str]

    def near_volume(self, volume: Volume, k: int) -> list[Neighbour]:
        """The k nearest scans of a canonical volume, without the volume itself, nearest first."""
        voxels, zyx_to_lps_mm = coarse_level(volume, INPUT_LEVEL_MM)
        vector = self.embedder.embed(voxels, zyx_to_lps_mm, volume.padding_hu)
        return self.near_vector(vector, k, without_content=ids.content_id(volume.voxels))

    def near_scan(self, scan_id: str, k: int) -> list[Neighbour]:
        """The k nearest scans of an indexed one, without itself. Raises NotFound for a scan that is not indexed."""
        if scan_id not in self.content_of:
            raise NotFound(f"index {self.index_id} has no scan {scan_id}; name one of its {len(self.content_of)} scans")
        white = self.index.vectors_ND[np.searchsorted(self.index.ids, scan_id)]
        return self._near(white, k, self.content_of[scan_id])

    def near_vector(self, vector_D: NDArray[Any], k: int, *, without_content: str = "") -> list[Neighbour]:
        """The k nearest scans of a vector of this index's encoder, without those of one content id."""
        return self._near(self.whitening.transform(vector_D[None])[0], k, without_content)

    def _near(self, white_R: NDArray[np.float32], k: int, without_content: str) -> list[Neighbour]:
        same = sum(content == without_content for content in self.content_of.values())
        found, distances = self.index.search(white_R[None], k + same)
        nearest = [
            Neighbour(str(scan_id), round(1 - float(distance) ** 2 / 2, 6))  # vectors have length one
            for scan_id, distance in zip(found[0], distances[0], strict=True)
            if self.content_of[str(scan_id)] != without_content
        ]
        return nearest[:k]


def coarse_level(volume: Volume, spacing_mm: float) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(voxels, zyx_to_lps_mm) of the coarsest level at most so coarse, as the lake would store it, else the finest."""
    voxels, factor = volume.voxels, (1, 1, 1)
    for level in plan_levels(volume.shape_zyx, volume.spacing_zyx_mm)[1:]:
        spacings = zip(volume.spacing_zyx_mm, level.factor_zyx, strict=True)
        if any(spacing * f > spacing_mm * SPACING_TOLERANCE for spacing, f in spacings):
            break
        z, y, x = (new // old for new, old in zip(level.factor_zyx, factor, strict=True))
        voxels, factor = block_mean(voxels, (z, y, x), volume.padding_hu), level.factor_zyx
    return voxels, level_affine(geometry.reverse_index_axes(volume.ijk_to_lps_mm), factor)


def vectors_of(lake: Lake, encoder_id: str, scans: Sequence[Scan], dimension: int) -> Float32Array:
    """(N, D) vectors of scans in their order. Raises InputError where some are missing, Damage for another length."""
    rows = lake.table("embeddings", columns=["scan_id", "vector"], where=f"encoder_id = '{encoder_id}'")
    vectors = dict(zip(rows["scan_id"].to_pylist(), rows["vector"].to_pylist(), strict=True))
    missing = [s.scan_id for s in scans if s.scan_id not in vectors]
    if missing or not scans:
        raise InputError(
            f"{len(missing)} of {len(scans)} selected scans have no vector of encoder {encoder_id}; "
            f"run: semgen-platform embed --encoder {encoder_id}"
        )
    chosen = [vectors[s.scan_id] for s in scans]
    if any(len(vector) != dimension for vector in chosen):
        raise Damage(f"a vector of encoder {encoder_id} has not its {dimension} values; run lake verify")
    return np.array(chosen, dtype=np.float32)


def save_scan_index(
    index: Index, whitening: Whitening, embedder: Embedder, content_of: dict[str, str], folder: Path
) -> tuple[dict[str, str], str]:
    """Write all files of a scan index; returns ({file: digest}, digest that names them together)."""
    inner = search_index.save(index, folder)
    search_whitening.save(whitening, folder / WHITENING)
    description = {
        "encoder_id": embedder.encoder_id,
        "encoder_digest": embedder.digest,
        "index": inner,
        "whitening": ids.file_digest(folder / WHITENING),
        "content_of": content_of,
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, sort_keys=True), encoding="utf-8")
    files = {path.name: ids.file_digest(path) for path in sorted(folder.iterdir())}
    return files, ids.digest_of(description)


def index_row(lake: Lake, reference: str = "latest") -> dict[str, Any]:
    """Row of `indexes` of an id or of the newest index at the lake's version. Raises NotFound."""
    rows = lake.table("indexes").to_pylist()
    found = [r for r in rows if reference in ("latest", r["index_id"])]
    if not found:
        known = ", ".join(r["index_id"] for r in rows) or "none"
        raise NotFound(
            f"the lake has no index {reference} (it has {known}); make one with: semgen-platform build-index"
        )
    return max(found, key=lambda r: (r["created_at"], r["index_id"]))


def load_scan_index(lake: Lake, reference: str = "latest", *, backend: str | None = None) -> ScanIndex:
    """The scan index with this id, or the newest one, with its own encoder.

    Raises NotFound, Damage (files differ from their digest), InputError (its encoder has other weights now).
    """
    row = index_row(lake, reference)
    folder = lake.artefact_dir("indexes", row["index_id"], row["attempt"])
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        whole = description["whitening"] == ids.file_digest(folder / WHITENING)
    except (OSError, ValueError, KeyError) as error:
        raise Damage(f"index {row['index_id']} cannot be read ({error}); build it again") from error
    if not whole or ids.digest_of(description) != row["digest"]:
        raise Damage(f"index {row['index_id']} differs from its digest; build it again")
    embedder = load_encoder(lake, description["encoder_id"])
    if embedder.digest != description["encoder_digest"]:
        raise InputError(
            f"index {row['index_id']} was made with other weights of encoder {embedder.encoder_id}; build it again"
        )
    return ScanIndex(
        row["index_id"],
        search_index.load(folder, digest=description["index"], backend=backend),
        search_whitening.load(folder / WHITENING),
        embedder,
        description["content_of"],
    )
