"""Sources are read beside as many others as their memory allows; numbers worked out by hand."""

from semgen_pipelines.listing import Listed
from semgen_pipelines.size_classes import demand_bytes, size_classes

GIB = 2**30


def source(number: int, voxels: int, size: int = 2**40) -> Listed:
    return Listed(number, f"source{number}", "state", "patient", {}, size, voxels, "")


def test_the_demand_is_two_and_a_half_float32_volumes_beside_the_process() -> None:
    assert demand_bytes(source(1, 512 * 512 * 300)) == GIB + 10 * 512 * 512 * 300


def test_a_promise_that_no_file_of_its_size_can_keep_is_not_believed() -> None:
    assert demand_bytes(source(1, 10**15, size=1000)) == GIB + 10 * 1032 * 1000


def test_small_scans_share_a_machine_and_large_ones_are_read_one_by_one() -> None:
    small = [source(n, 512 * 512 * 200) for n in range(5)]  # 1.5 GiB each
    large = [source(5 + n, 512 * 512 * 2000) for n in range(2)]  # 5.9 GiB each
    first, second = size_classes([large[0], *small, large[1]], [8 * GIB], workers=4)
    assert (list(first.listed), first.workers) == (small, 4)
    assert (list(second.listed), second.workers) == (large, 1)
    assert second.memory_bytes == GIB + 10 * 512 * 512 * 2000


def test_workers_are_counted_machine_by_machine() -> None:
    scans = [source(n, 512 * 512 * 2000) for n in range(9)]
    (one,) = size_classes(scans, [5 * GIB, 8 * GIB, 13 * GIB], workers=16)
    assert one.workers == 3  # none on the first, one on the second, two on the third


def test_what_no_machine_can_hold_is_read_alone_with_all_that_the_largest_has() -> None:
    (one,) = size_classes([source(1, 10**10)], [4 * GIB, 8 * GIB], workers=4)
    assert (one.memory_bytes, one.workers) == (8 * GIB, 1)
