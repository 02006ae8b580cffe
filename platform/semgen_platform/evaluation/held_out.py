"""Patients that a backbone has seen must not be among those that judge it (USERS.md 32)."""

from __future__ import annotations

from collections.abc import Sequence

from semgen_platform.backbones.contract import Lineage
from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import Scan

SEEN_IN = ("poses", "members")
"""Tables that name the scans of a discovery: aligned to its atlas, and cut for its patterns."""


def check_held_out(lake: Lake, lineage: Lineage, scans: Sequence[Scan]) -> int:
    """How many patients the backbone's discovery has seen, none of them among the scans.

    Patients who share a scan's content count as one (split groups). Raises InputError where some are among them.
    """
    if lineage.discovery is None:
        return 0
    mine = f"discovery_id = '{lineage.discovery}'"
    rows = [lake.table(name, columns=["scan_id"], where=mine)["scan_id"].to_pylist() for name in SEEN_IN]
    seen_scans = {scan_id for column in rows for scan_id in column}
    seen = {scan.split_group for scan in lake.select_scans(profile="all") if scan.scan_id in seen_scans}
    asked = {scan.split_group for scan in scans}
    if seen & asked:
        raise InputError(
            f"{len(seen & asked)} of the {len(asked)} selected patients were in discovery {lineage.discovery}, "
            "on which this backbone was trained; select a collection of other patients with --collection"
        )
    return len(seen)
