"""Scans that show the same anatomy are listed, and never parted by a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.ids import slice_digests
from semgen_platform.lake.duplicates import duplicates
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.volume import Volume

Row = Callable[..., dict[str, Any]]
ORIGIN = (0.0, 0.0, 0.0)


def anatomy(seed: int, slices: int = 120) -> NDArray[np.int16]:
    return np.random.default_rng(seed).normal(0, 300, (slices, 24, 20)).astype(np.int16)


@pytest.fixture
def stored(lake: Lake, source_row: Row) -> Callable[..., tuple[Lake, list[str]]]:
    """A lake of these volumes, each (voxels, origin) of a patient of its own, and their scan ids."""

    def store(volumes: Sequence[tuple[NDArray[np.int16], tuple[float, float, float]]]) -> tuple[Lake, list[str]]:
        rows = [
            write_volume(lake.root, Volume(voxels, geometry.affine_from((1, 1, 2), origin), modality="CT"), "r")
            for voxels, origin in volumes
        ]
        lake.insert("sources", [source_row(row["scan_id"]) for row in rows])
        lake.insert("scans", rows)
        lake.commit("ingest", "r")
        return lake.refresh(), [row["scan_id"] for row in rows]

    return store


def test_a_crop_at_a_wrong_origin_is_listed_beside_its_whole(stored: Callable[..., Any]) -> None:
    whole, other = anatomy(1), anatomy(2)
    lake, ids = stored([(whole, ORIGIN), (whole[82:112], (0.0, 0.0, 246.0)), (other, ORIGIN)])
    (pair,) = duplicates(lake)
    assert {pair["scan_id"], pair["other"]} == set(ids[:2])
    assert pair["shared"] == pair["slices"] == len(slice_digests(whole[82:112]))
    assert pair["shared"] >= 2
    assert not pair["same_voxels"]


def test_equal_voxels_at_two_places_are_listed_as_the_same(stored: Callable[..., Any]) -> None:
    lake, ids = stored([(anatomy(1), ORIGIN), (anatomy(1), (5.0, 0.0, 0.0))])
    (pair,) = duplicates(lake)
    assert ({pair["scan_id"], pair["other"]}, pair["same_voxels"]) == (set(ids), True)


def test_empty_slices_join_nobody(stored: Callable[..., Any]) -> None:
    one, other = anatomy(1), anatomy(2)
    one[20:100] = other[20:100] = -1024
    lake, _ = stored([(one, ORIGIN), (other, ORIGIN)])
    assert duplicates(lake) == []


def test_patients_who_share_slices_are_one_split_group(stored: Callable[..., Any]) -> None:
    whole = anatomy(1)
    lake, ids = stored([(whole, ORIGIN), (whole[30:90], (0.0, 0.0, 9.0)), (anatomy(2), ORIGIN)])
    groups = {scan.scan_id: scan.split_group for scan in lake.select_scans(profile="all")}
    assert groups[ids[0]] == groups[ids[1]]
    assert groups[ids[2]] != groups[ids[0]]


def test_slices_are_sampled_alike_in_a_whole_and_its_part() -> None:
    voxels = anatomy(3, slices=400)
    assert set(slice_digests(voxels[100:200])) <= set(slice_digests(voxels))
    assert 60 < len(slice_digests(voxels)) < 140  # one in four of 400
