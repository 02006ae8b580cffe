"""What the rows of encoders, indexes and discoveries have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from semgen_platform import ids
from semgen_platform.config import Config
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import Scan

ATTEMPT = "0"  # the same command goes on with the work of the one that was killed, so one attempt is enough


@dataclass(frozen=True)
class Made:
    """An artefact's name and all that its name is a digest of."""

    artefact_id: str
    recipe_name: str
    recipe: dict[str, Any]
    revision: int
    parents: tuple[str, ...]
    selection: str

    def columns(self, lake: Lake, digest: str) -> dict[str, Any]:
        """The columns that every artefact's row has; `digest` is that of its files."""
        import torch

        return {
            "recipe_name": self.recipe_name,
            "recipe": self.recipe,
            "revision": self.revision,
            "parents": list(self.parents),
            "selection": self.selection,
            "lake_version": lake.version,
            "attempt": ATTEMPT,
            "digest": digest,
            "software": {"torch": torch.__version__},
            "run_id": self.artefact_id,
        }


def made(
    kind: str, config: Config, scans: Sequence[Scan], *, recipe_name: str, revision: int, parents: Sequence[str] = ()
) -> Made:
    """The name of an artefact of this configuration over these scans. Raises InputError if no scan is selected."""
    if not scans:
        raise InputError("no scan is selected; look at --collection, --profile and --where, or ingest some")
    recipe = config.model_dump(mode="json")
    selection = ids.selection_digest((s.scan_id, s.patient_id, s.split_group) for s in scans)
    name = ids.artefact_id(kind, recipe=recipe, revision=revision, parents=parents, selection=selection)
    return Made(name, recipe_name, recipe, revision, tuple(parents), selection)
