"""Sources in classes by the memory that reading them takes, so that large scans are not read beside too many others.

Arithmetic over what headers promise; Ray then places a class's workers by their demand (DESIGN.md section 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semgen_pipelines.listing import Listed
from semgen_platform.formats.archive import DEFLATE_RATIO

BYTES_PER_VOXEL = 10
"""2.5 times a float32 volume; a listing does not know the type."""
PROCESS_BYTES = 2**30  # a worker and its decoder with their libraries
SMALLEST_CLASS_BYTES, CLASS_FACTOR = 2 * 2**30, 4  # up to 2 GiB (512 x 512 x 400), 8 GiB, 32 GiB ...


@dataclass(frozen=True)
class SizeClass:
    """Sources that are read by `workers` at once, each with `memory_bytes`."""

    memory_bytes: int
    workers: int
    listed: Sequence[Listed]


def demand_bytes(one: Listed) -> int:
    """Memory for reading a source. A header that promises more than its file can hold is not believed."""
    return PROCESS_BYTES + BYTES_PER_VOXEL * min(one.voxels, one.bytes * DEFLATE_RATIO)


def size_classes(listed: Sequence[Listed], node_bytes: Sequence[int], workers: int) -> list[SizeClass]:
    """The sources in classes of rising demand, in their order within a class.

    node_bytes : memory of each machine.  What needs more than the largest has is read alone there, within its limit.
    """
    most = max(node_bytes)
    groups: dict[int, list[Listed]] = {}
    for one in listed:
        groups.setdefault(_class_of(min(demand_bytes(one), most)), []).append(one)
    return [_size_class(groups[number], node_bytes, workers) for number in sorted(groups)]


def _size_class(listed: Sequence[Listed], node_bytes: Sequence[int], workers: int) -> SizeClass:
    memory = min(max(map(demand_bytes, listed)), max(node_bytes))
    fitting = sum(have // memory for have in node_bytes)
    return SizeClass(memory, max(1, min(workers, len(listed), fitting)), listed)


def _class_of(demand: int) -> int:
    number, limit = 0, SMALLEST_CLASS_BYTES
    while demand > limit:
        number, limit = number + 1, limit * CLASS_FACTOR
    return number
