"""Branching vessels: a tree from a root to many targets, its radii, and points along it to paint.

Each target joins the tree at the node that costs least in length and bend, nearest targets first, which gives trunks
that divide. A vessel's radius grows with the number of tips it feeds (Murray's law with an exponent near 2.2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

STEP_MM = 6.0
RADIUS_EXPONENT = 0.46


def grow_tree(
    root_xyz_mm: Any,
    heading_xyz: Any,
    targets_xyz_mm: NDArray[np.float64],
    *,
    tip_radius_mm: float,
    root_radius_mm: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (N, 3) about every millimetre along all branches, and the radius at each, in mm.

    heading_xyz : direction in which the trunk leaves the root.
    """
    nodes, parents = _attach(np.asarray(root_xyz_mm, float), np.asarray(heading_xyz, float), targets_xyz_mm)
    feeds = _tips_below(parents)
    nodes = _relaxed(nodes, parents, 4)
    radii = np.minimum(tip_radius_mm * feeds**RADIUS_EXPONENT, root_radius_mm)
    children = np.arange(1, len(nodes))
    return _along(nodes[parents[children]], nodes[children], radii[children], spacing_mm=1.2)


def _attach(
    root: NDArray[np.float64], heading: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    nodes, directions, parents = [root], [heading / np.linalg.norm(heading)], [0]
    for target in targets[np.argsort(np.linalg.norm(targets - root, axis=1))]:
        known, forward = np.array(nodes), np.array(directions)
        way = target - known
        length = np.linalg.norm(way, axis=1) + 1e-9
        bend = 1 - np.sum(way * forward, axis=1) / length
        joint = int(np.argmin(length * (1 + 0.9 * bend)))
        steps = max(1, round(length[joint] / STEP_MM))
        start, at = known[joint], joint
        for n in range(1, steps + 1):
            nodes.append(start + way[joint] * n / steps)
            directions.append(way[joint] / length[joint])
            parents.append(at)
            at = len(nodes) - 1
    return np.array(nodes), np.array(parents)


def _tips_below(parents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Number of tips that each node feeds; parents come before their children."""
    children = np.bincount(parents[1:], minlength=len(parents))
    feeds = (children == 0).astype(float)
    for node in range(len(parents) - 1, 0, -1):
        feeds[parents[node]] += feeds[node]
    return np.asarray(feeds)


def _relaxed(nodes: NDArray[np.float64], parents: NDArray[np.int64], rounds: int) -> NDArray[np.float64]:
    """Inner nodes moved towards the mean of parent and children, so that branches bend and do not break."""
    children = np.bincount(parents[1:], minlength=len(parents))
    inner = children > 0
    inner[0] = False
    for _ in range(rounds):
        below = np.zeros_like(nodes)
        np.add.at(below, parents[1:], nodes[1:])
        middle = 0.5 * (nodes[parents] + below / np.maximum(children, 1)[:, None])
        nodes = np.where(inner[:, None], 0.4 * nodes + 0.6 * middle, nodes)
    return nodes


def _along(
    starts: NDArray[np.float64], ends: NDArray[np.float64], radii: NDArray[np.float64], *, spacing_mm: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    counts = np.maximum(1, np.ceil(np.linalg.norm(ends - starts, axis=1) / spacing_mm).astype(int))
    edge = np.repeat(np.arange(len(counts)), counts)
    share = (np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + 1) / counts[edge]
    return starts[edge] + (ends - starts)[edge] * share[:, None], radii[edge]


def scatter_inside(
    distance_mm: NDArray[np.float32], grid: Any, count: int, apart_mm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Up to `count` points (N, 3), x, y, z in mm, inside a solid on the box `grid`, no two nearer than `apart_mm`."""
    inside = np.argwhere(distance_mm < 0)
    draws = inside[rng.integers(0, len(inside), size=12 * count)]
    axes = (grid.z.ravel(), grid.y.ravel(), grid.x.ravel())
    points = np.stack([axes[a][draws[:, a]] for a in (2, 1, 0)], axis=1).astype(np.float64)
    kept = np.empty((0, 3))
    for point in points:
        if len(kept) == count:
            break
        if len(kept) == 0 or np.min(np.sum((kept - point) ** 2, axis=1)) > apart_mm**2:
            kept = np.vstack([kept, point])
    return kept
