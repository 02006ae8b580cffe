"""What a server answers from, loaded from a lake at one version: backbones by digest, the index with its encoder."""

from __future__ import annotations

from collections.abc import Sequence

from semgen_platform.backbones.backbone import Backbone
from semgen_platform.backbones.registry import load_backbone, models, resolve
from semgen_platform.backbones.scan import LEAST_BODY, MOST_CROPS, embed_volume
from semgen_platform.discovery.neighbours import index_row, load_scan_index
from semgen_platform.errors import NotFound
from semgen_platform.lake.lake import Lake
from semgen_platform.serving.application import ServedIndex, ServedModel

VECTOR = (
    f"mean over crops on a fixed lattice in the body (crops at least {LEAST_BODY:.0%} body, at most {MOST_CROPS}) of "
    "the bottleneck averaged over space"
)


def served_models(lake: Lake, refs: Sequence[str]) -> dict[str, ServedModel]:
    """Models under each REF asked for and under `name:version`; no REF means the latest version of every model.

    Raises NotFound, and Damage where a model's files are not what was published.
    """
    wanted = list(refs) or sorted({row["name"] for row in models(lake)})
    if not wanted:
        raise NotFound(
            f"lake {lake.uri} has no model to serve; publish a run first: semgen-platform publish RUN --name NAME"
        )
    versions = {ref: f"{row['name']}:{row['version']}" for ref in wanted for row in [resolve(lake, ref)]}
    loaded = {exact: _served(load_backbone(exact, lake=lake)) for exact in sorted(set(versions.values()))}
    return {**loaded, **{ref: loaded[exact] for ref, exact in versions.items()}}


def served_index(lake: Lake) -> ServedIndex | None:
    """The newest index of the lake with the encoder that it names, or None where there is none. Raises Damage."""
    if not lake.counts()["indexes"]:
        return None
    index = load_scan_index(lake, index_row(lake)["index_id"])
    return ServedIndex(index.index_id, index.embedder.encoder_id, index.near_volume)


def _served(backbone: Backbone) -> ServedModel:
    config = backbone.config
    description = {
        "dimensions": config.architecture.dimensions,
        "vector": VECTOR,
        "preprocessing": config.preprocessing.model_dump(mode="json"),
        "licence": config.licence,
        "non_commercial": config.non_commercial,
        "run": config.lineage.run,
    }
    return ServedModel(config.ref, description, lambda volume: embed_volume(backbone, volume))
