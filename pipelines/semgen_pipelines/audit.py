"""A discovery measured against the truth of the phantoms that it was made from, and against random centres.

The truth lies outside the lake, beside the phantoms; a scan finds its own by the label `truth` of the cohort's
manifest. What is measured is semgen_platform.discovery.audit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from semgen_pipelines.member_crops import find_discovery
from semgen_platform.discovery.audit import Truth, TruthOf, audit, audit_poses, random_centres
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import Scan

TRUTHS_IN_MEMORY = 48  # about 10 MB each
BODIES = 3  # of the highest scans, which together show the whole labelled body


def audit_discovery(lake: Lake, discovery: str, truth: Path, *, seed: int = 0) -> dict[str, Any]:
    """Measures of a discovery under "patterns", of random centres under "random", of poses (or None) under "poses".

    truth : folder of the cohort's .npz files.
    Raises NotFound (no such discovery), InputError (a scan without truth).
    """
    row = find_discovery(lake, discovery)
    own = f"discovery_id = '{row['discovery_id']}'"
    patterns, members, poses = (lake.table(t, where=own).to_pylist() for t in ("patterns", "members", "poses"))
    scans = {member["scan_id"] for member in members} | {pose["scan_id"] for pose in poses}
    truth_of = truth_reader(lake, truth, scans)
    bodies = _highest([scan for scan in lake.select_scans(profile="all") if scan.scan_id in scans])
    return {
        "discovery_id": row["discovery_id"],
        "recipe": row["recipe_name"],
        "patterns": audit(patterns, members, truth_of, bodies),
        "random": audit(patterns, random_centres(members, truth_of, seed), truth_of, bodies),
        "poses": audit_poses(poses, patterns, truth_of) if poses else None,
    }


def truth_reader(lake: Lake, folder: Path, scan_ids: set[str]) -> TruthOf:
    """The truth of each of these scans, read when it is asked for. Raises InputError for a scan that has none."""
    rows = lake.table("sources", columns=["scan_id", "labels"], where="scan_id IS NOT NULL").to_pylist()
    names = {row["scan_id"]: dict(row["labels"] or []).get("truth", "") for row in rows}
    for scan_id in sorted(scan_ids):
        if not names.get(scan_id) or not (folder / names[scan_id]).is_file():
            raise InputError(
                f"scan {scan_id} has no truth in {folder}; ingest phantoms with their --manifest, and give "
                "the cohort's folder truth"
            )

    @lru_cache(maxsize=TRUTHS_IN_MEMORY)
    def truth_of(scan_id: str) -> Truth:
        with np.load(folder / names[scan_id]) as arrays:
            return Truth(
                arrays["labels_ZYX"],
                arrays["zyx_to_lps_mm"],
                arrays["body_xyz_mm"],
                arrays["lattice_zyx_to_lps_mm"],
            )

    return truth_of


def _highest(scans: Sequence[Scan]) -> list[str]:
    by_height = sorted(scans, key=lambda s: (-s.shape_zyx[0] * s.spacing_zyx_mm[0], s.scan_id))
    return [scan.scan_id for scan in by_height[:BODIES]]
