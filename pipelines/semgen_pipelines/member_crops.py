"""The members of a discovery as training crops: which rows train and validate, and how a worker reads them.

Rows are places, not pixels (METHOD.md 5b step 8). They travel to the workers as arrays of matrices; each worker reads
its own crops from the lake. Validation is on patients of the split `val`, at scale 1 and without jitter, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_pipelines.pretrain_config import CropSettings
from semgen_platform.discovery.members import TRAIN, VALIDATION
from semgen_platform.discovery.rows import is_base, matrix_for_shape
from semgen_platform.errors import InputError, NotFound
from semgen_platform.ids import uniform_stream
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import Scan
from semgen_platform.training.crops import Crops

Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Places:
    """Where crops lie and what they show.

    scan_ids : (N,) the scan of each.  zyx_to_lps_mm : (N, 4, 4), crop voxel index to LPS mm.  labels : (N,) class.
    """

    scan_ids: NDArray[np.str_]
    zyx_to_lps_mm: NDArray[np.float64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def crops(self, reader: CropReader, shape_zyx: tuple[int, int, int]) -> Crops:
        """The crops at these places, read by `reader` when they are asked for."""

        def read(indices: NDArray[np.int64]) -> NDArray[np.float32]:
            return reader.read([CropRequest(str(self.scan_ids[i]), self.zyx_to_lps_mm[i], shape_zyx) for i in indices])

        return Crops(self.labels, read)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a discovery offers to a pretraining.

    patterns : pattern number of each class.  spacing_zyx_mm : of a crop at scale 1 in a body of the atlas' size.
    """

    train: Places
    validation: Places
    patterns: tuple[int, ...]
    scans: tuple[Scan, ...]
    spacing_zyx_mm: tuple[float, float, float]

    def reader(self, root: Path) -> CropReader:
        """A reader of the scans that the crops lie in."""
        return CropReader(root, self.scans)


def find_discovery(lake: Lake, name: str) -> Row:
    """The row of a discovery by its id, or of the newest for `latest`. Raises NotFound with what there is."""
    rows = lake.table("discoveries").to_pylist()
    if name == "latest" and rows:
        return max(rows, key=lambda row: (row["created_at"], row["discovery_id"]))
    found = next((row for row in rows if row["discovery_id"] == name), None)
    if found is None:
        known = ", ".join(row["discovery_id"] for row in rows) or "none: run discover first"
        raise NotFound(f"lake {lake.uri} has no discovery {name}; there are {known}")
    return found


def training_data(lake: Lake, discovery_id: str, settings: CropSettings) -> TrainingData:
    """Crops of the kept members of the kept patterns. Raises InputError if they are too few to train on."""
    mine = f"discovery_id = '{discovery_id}'"
    patterns = [row for row in lake.table("patterns", where=mine).to_pylist() if row["kept"]]
    kept = {row["pattern"] for row in patterns}
    rows = [r for r in lake.table("members", where=mine).to_pylist() if not r["dropped"] and r["pattern"] in kept]
    train = [row for row in rows if row["split"] == TRAIN]
    classes = sorted({row["pattern"] for row in train})
    if len(classes) < 2:
        raise InputError(
            f"discovery {discovery_id} has {len(train)} training crops of {len(classes)} patterns; "
            "a classifier needs two patterns: ingest more patients or discover with other settings"
        )
    offered = [r for r in rows if r["split"] == VALIDATION and is_base(r) and r["pattern"] in set(classes)]
    validation = _drawn(offered, settings.validation_crops, discovery_id)
    box = np.array(patterns[0]["box_zyx_mm"]) / np.array(settings.shape_zyx)
    z, y, x = np.round(box, 6).tolist()
    return TrainingData(
        train=_places(train, classes, settings.shape_zyx),
        validation=_places(validation, classes, settings.shape_zyx),
        patterns=tuple(classes),
        scans=_scans(lake, {row["scan_id"] for row in [*train, *validation]}),
        spacing_zyx_mm=(z, y, x),
    )


def _drawn(rows: Sequence[Row], most: int, discovery_id: str) -> list[Row]:
    """At most so many of the rows, drawn by the discovery's name, in the order of the table."""
    chosen = uniform_stream("validation crops", discovery_id).permutation(len(rows))[:most]
    return [rows[n] for n in sorted(chosen)]


def _places(rows: Sequence[Row], classes: Sequence[int], shape_zyx: tuple[int, int, int]) -> Places:
    class_of = {pattern: n for n, pattern in enumerate(classes)}
    matrices = [matrix_for_shape(row["matrix"], shape_zyx) for row in rows]
    return Places(
        scan_ids=np.array([row["scan_id"] for row in rows], dtype=np.str_),
        zyx_to_lps_mm=np.array(matrices, dtype=np.float64).reshape(-1, 4, 4),
        labels=np.array([class_of[row["pattern"]] for row in rows], dtype=np.int64),
    )


def _scans(lake: Lake, wanted: set[str]) -> tuple[Scan, ...]:
    scans = tuple(scan for scan in lake.select_scans(profile="all") if scan.scan_id in wanted)
    if len(scans) < len(wanted):
        missing = min(wanted - {scan.scan_id for scan in scans})
        raise NotFound(f"scan {missing} of the discovery is no longer in the lake; discover again")
    return scans
