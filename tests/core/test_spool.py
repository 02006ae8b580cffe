"""A spool gives back what it was given, in order and in groups, keeps it on disk, and says when the disk is full."""

from __future__ import annotations

import subprocess
import sys

import pytest

from semgen_platform.spool import Spool, packed, unpacked

GROWTH = """
import random, resource
from semgen_platform.spool import Spool

spool = Spool()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chance = random.Random(1)
for number in range(30_000):
    spool.add(chance.randbytes(1000), (str(number % 7),))
assert sum(1 for _ in spool) == 30_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
FULL = """
import os, resource
from semgen_platform.errors import StorageError
from semgen_platform.spool import Spool

resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
spool = Spool()
try:
    for _ in range(100_000):
        spool.add(os.urandom(1000))
except StorageError as error:
    print(error)
"""


def output(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_records_come_back_by_order_and_by_number() -> None:
    spool = Spool[tuple[str, int]]()
    assert [spool.add((name, n)) for n, name in enumerate("abc")] == [1, 2, 3]
    assert list(spool) == [("a", 0), ("b", 1), ("c", 2)]
    assert [unpacked(data) for data in spool.packed([3, 1])] == [("c", 2), ("a", 0)]


def test_groups_come_in_the_order_of_their_first_records() -> None:
    spool = Spool[int]()
    for n, name in enumerate([("b", ""), ("a", ""), ("b", ""), ("", "x\udc80"), ("a", "")]):
        spool.add(n, name)
    assert list(spool.groups()) == [[0, 2], [1, 4], [3]]
    assert list(Spool[int]().groups()) == []


def test_paths_of_one_folder_take_a_few_bytes_each() -> None:
    paths = [f"/archive/north/2019/patient 0412/series 3/IM-0001-{n:04d}.dcm" for n in range(500)]
    assert len(packed(paths)) < 10 * len(paths)
    assert unpacked(packed(paths)) == paths


def test_thirty_thousand_records_of_a_kilobyte_take_less_than_a_third_in_memory() -> None:
    assert int(output(GROWTH)) < 10_000  # KiB


@pytest.mark.skipif(sys.platform != "linux", reason="limits of file sizes are tested on Linux")
def test_a_full_temporary_folder_is_one_sentence() -> None:
    assert output(FULL).startswith("the temporary folder cannot hold the listing")
