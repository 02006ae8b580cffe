"""Scans that show the same anatomy: equal voxels at two places, or slices that are equal one by one.

A crop of a scan, an export with a wrong origin or another number type has an id of its own; its slices give it away
(ids.slice_digests). What was resampled, rotated or windowed has none in common: that is found by embedding.
"""

from __future__ import annotations

from typing import Any

from semgen_platform.lake import selection
from semgen_platform.lake.lake import Lake


def duplicates(lake: Lake) -> list[dict[str, Any]]:
    """Pairs of scans, as {"scan_id", "other", "shared", "slices", "same_voxels"}, those with most in common first.

    shared : sampled slices that are equal, of `slices` sampled ones of the smaller scan; where all voxels are equal,
        all are.
    """
    with lake.query(*selection.TABLES) as query:
        selection.present_scans(query)
        query.define("present_contents", "SELECT content_id, min(scan_id) AS scan_id FROM present GROUP BY content_id")
        selection.near_contents(query)
        sql = """
            SELECT a.scan_id, b.scan_id AS other, shared, least(len(x.slice_digests), len(y.slice_digests)) AS slices,
                   false AS same_voxels
            FROM near JOIN present_contents a ON near.one = a.content_id
            JOIN present_contents b ON near.other = b.content_id
            JOIN scans x ON x.scan_id = a.scan_id JOIN scans y ON y.scan_id = b.scan_id
            UNION ALL BY NAME
            SELECT a.scan_id, b.scan_id AS other, len(x.slice_digests) AS shared, len(x.slice_digests) AS slices,
                   true AS same_voxels
            FROM present_contents a JOIN present b ON a.content_id = b.content_id AND a.scan_id < b.scan_id
            JOIN scans x ON x.scan_id = a.scan_id
            ORDER BY same_voxels DESC, shared / greatest(slices, 1) DESC, scan_id, other
        """
        return query.arrow(sql).to_pylist()
