"""Poses that workers keep as files while a discovery runs, so that a killed one does not align its scans again.

A file holds the poses of one chunk of scans and the digest of the atlases they belong to; another atlas ignores it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from semgen_platform.discovery.aligned import Placed
from semgen_platform.discovery.atlas import Spread
from semgen_platform.discovery.pose import Pose
from semgen_platform.ids import digest_of

PlaceChunk = Callable[[list[str]], dict[str, Placed]]


def kept_poses(folder: Path, atlases: str) -> dict[str, Placed]:
    """What `keeping_poses` left in a folder for these atlases, by scan id."""
    found: dict[str, Placed] = {}
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["atlases"] == atlases:
            found.update({scan_id: _decoded(placed) for scan_id, placed in document["placed"].items()})
    return found


def keeping_poses(spread: Spread, folder: Path, atlases: str) -> Spread:
    """A spread whose workers also write the poses of each chunk into `folder`; `atlases` is a digest of all atlases."""
    folder.mkdir(parents=True, exist_ok=True)

    def spread_and_keep(label: str, work: Callable[[list[str]], Any], scan_ids: Sequence[str]) -> list[Any]:
        return spread(label, partial(_place_and_keep, work, folder, atlases), scan_ids)

    return spread_and_keep


def _place_and_keep(work: PlaceChunk, folder: Path, atlases: str, scan_ids: list[str]) -> dict[str, Placed]:
    placed = work(scan_ids)
    document = {"atlases": atlases, "placed": {scan_id: _encoded(p) for scan_id, p in placed.items()}}
    path = folder / f"{digest_of([atlases, scan_ids])}.json"
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(document), encoding="utf-8")
    aside.replace(path)
    return placed


def _encoded(placed: Placed) -> dict[str, Any]:
    pose = placed.pose
    return {
        "region": placed.region,
        "shows": np.packbits(placed.shows_A).tobytes().hex(),
        "places": len(placed.shows_A),
        "matrix": pose.matrix.tolist(),  # JSON gives every float64 back
        "ncc": pose.ncc,
        "overlap": pose.overlap,
        "common": pose.common,
        "log_scale_zyx": list(pose.log_scale_zyx),
        "refused": pose.refused,
    }


def _decoded(kept: Mapping[str, Any]) -> Placed:
    z, y, x = kept["log_scale_zyx"]
    matrix = np.array(kept["matrix"], dtype=np.float64)
    pose = Pose(matrix, kept["ncc"], kept["overlap"], kept["common"], (z, y, x), kept["refused"])
    bits = np.frombuffer(bytes.fromhex(kept["shows"]), dtype=np.uint8)
    return Placed(kept["region"], pose, np.unpackbits(bits, count=kept["places"]).astype(bool))
