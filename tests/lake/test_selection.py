"""Which scans a stage works on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from semgen_platform import geometry
from semgen_platform.errors import ConfigError, NotFound
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import joined
from semgen_platform.volume import UNTRAINABLE_FLAGS

Row = Callable[..., dict[str, Any]]


@pytest.fixture
def filled(lake: Lake, scan_row: Row, source_row: Row) -> Callable[..., Lake]:
    """Insert sources and scans, each as (id, source columns, scan columns), and give the lake at the new version."""

    def fill(*entries: tuple[str, dict[str, Any], dict[str, Any]]) -> Lake:
        lake.insert("sources", [source_row(scan, **source) for scan, source, _ in entries])
        lake.insert("scans", [scan_row(scan, **columns) for scan, _, columns in entries])
        lake.commit("ingest", "r")
        return lake.refresh()

    return fill


def _ids(lake: Lake, **choice: Any) -> list[str]:
    return [scan.scan_id for scan in lake.select_scans(**choice)]


def test_a_scan_says_what_and_where_it_is(filled: Callable[..., Lake]) -> None:
    scan = filled(("s1", {"flags": ["oblique"]}, {"flags": ["thick_slices"], "padding_hu": -2000.0})).select_scans()[0]
    assert (scan.scan_id, scan.content_id, scan.patient_id, scan.split_group) == ("s1", "cs1", "ps1", "ps1")
    assert (scan.collection, scan.shape_zyx, scan.dtype, scan.attempt) == ("siteA", (40, 50, 60), "int16", "a")
    assert scan.spacing_zyx_mm == pytest.approx((2.0, 0.8, 0.7))
    assert scan.flags == ("oblique", "thick_slices"), "what the file says and what the voxels say"
    assert scan.padding_hu == -2000.0
    # voxel (z, y, x) = (1, 2, 3) by hand: origin (1, 2, 3) mm in (x, y, z) plus 3 * 0.7, 2 * 0.8, 1 * 2
    assert geometry.apply_affine(scan.zyx_to_lps_mm, (1, 2, 3)).tolist() == pytest.approx([3.1, 3.6, 5.0])
    assert scan.levels[0].shape_zyx == (40, 50, 60)


def test_scans_come_in_the_order_of_their_ids(filled: Callable[..., Lake]) -> None:
    assert _ids(filled(("s3", {}, {}), ("s1", {}, {}), ("s2", {}, {}))) == ["s1", "s2", "s3"]


@pytest.mark.parametrize("flag", sorted(UNTRAINABLE_FLAGS))
@pytest.mark.parametrize("said_by", ["source", "voxels"])
def test_the_default_profile_leaves_out_what_is_no_ct_in_hu(
    filled: Callable[..., Lake], flag: str, said_by: str
) -> None:
    flags = {"flags": [flag]}
    lake = filled(("s1", flags, {}) if said_by == "source" else ("s1", {}, flags), ("s2", {}, {}))
    assert _ids(lake) == ["s2"]
    assert _ids(lake, profile="all") == ["s1", "s2"]


def test_the_default_profile_takes_one_anatomy_once(filled: Callable[..., Lake]) -> None:
    lake = filled(("s2", {}, {"content_id": "c"}), ("s1", {}, {"content_id": "c"}), ("s3", {}, {}))
    assert _ids(lake) == ["s1", "s3"]
    assert _ids(lake, profile="all") == ["s1", "s2", "s3"]


def test_patients_who_share_an_anatomy_are_one_group_however_long_the_chain(filled: Callable[..., Lake]) -> None:
    same = {"content_id": "shared"}
    lake = filled(
        ("s1", {"patient_id": "b"}, same),
        ("s2", {"patient_id": "c"}, same),
        ("s3", {"patient_id": "c"}, {"content_id": "other"}),
        ("s4", {"patient_id": "a"}, {"content_id": "other"}),
        ("s5", {"patient_id": "d"}, {}),
    )
    groups = {scan.scan_id: scan.split_group for scan in lake.select_scans(profile="all")}
    assert groups == {"s1": "a", "s2": "a", "s3": "a", "s4": "a", "s5": "d"}


def test_joining_agrees_with_a_plain_search_of_the_graph() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        links = [[f"p{n:02d}" for n in rng.integers(0, 25, rng.integers(2, 4))] for _ in range(12)]
        groups = joined(links)
        for name in groups:
            reached, frontier = {name}, [name]
            while frontier:
                last = frontier.pop()
                new = {other for link in links if last in link for other in link} - reached
                reached |= new
                frontier += new
            assert groups[name] == min(reached)


def test_one_scan_of_two_sources_is_one_scan_in_both_collections(lake: Lake, scan_row: Row, source_row: Row) -> None:
    lake.insert("sources", [source_row("s1"), source_row("s1", source_id="other", collection="siteB")])
    lake.insert("scans", [scan_row("s1")])
    lake.commit("ingest", "r")
    now = lake.refresh()
    assert _ids(now) == _ids(now, collections=["siteA"]) == _ids(now, collections=["siteB"]) == ["s1"]


def test_collections_narrow_and_an_unknown_one_is_named(filled: Callable[..., Lake]) -> None:
    lake = filled(("s1", {}, {}), ("s2", {"collection": "it's"}, {}))
    assert _ids(lake, collections=["it's"]) == ["s2"]
    assert _ids(lake, collections=["it's", "siteA"]) == ["s1", "s2"]
    with pytest.raises(NotFound, match="no collection siteC; it has it's, siteA"):
        lake.select_scans(collections=["siteA", "siteC"])


def test_a_condition_sees_scan_columns_flags_and_collection(filled: Callable[..., Lake]) -> None:
    lake = filled(("s1", {}, {"spacing_z_mm": 1.0}), ("s2", {"flags": ["oblique"]}, {}), ("s3", {}, {}))
    assert _ids(lake, where="spacing_z_mm < 1.5") == ["s1"]
    assert _ids(lake, where="list_contains(flags, 'oblique') AND collection = 'siteA'") == ["s2"]
    assert _ids(lake, where="scan_id = 's1' OR scan_id = 's3' -- a comment") == ["s1", "s3"]


def test_the_one_of_an_anatomy_is_taken_among_those_that_fulfil_the_condition(filled: Callable[..., Lake]) -> None:
    lake = filled(("s1", {}, {"content_id": "c"}), ("s2", {}, {"content_id": "c", "spacing_z_mm": 1.0}))
    assert _ids(lake, where="spacing_z_mm < 1.5") == ["s2"]


def test_a_wrong_condition_or_profile_is_one_sentence(filled: Callable[..., Lake]) -> None:
    lake = filled(("s1", {}, {}))
    with pytest.raises(ConfigError, match="did you mean shape_z"):
        lake.select_scans(where="shape_zz > 3")
    with pytest.raises(ConfigError, match="no profile strict; there are default and all"):
        lake.select_scans(profile="strict")


def test_the_newest_row_of_a_source_speaks(filled: Callable[..., Lake], scan_row: Row, source_row: Row) -> None:
    lake = filled(("s1", {"flags": ["burned_in_hint"]}, {}))
    assert _ids(lake) == []
    time.sleep(0.01)
    lake.insert("sources", [source_row("s1", state="second")])  # the file changed, its scan did not
    lake.commit("ingest", "r2")
    assert _ids(lake.refresh()) == ["s1"]


def test_a_newer_refusal_of_its_only_source_withdraws_a_scan(filled: Callable[..., Lake]) -> None:
    lake = filled(("s1", {}, {}), ("s2", {}, {}))
    time.sleep(0.01)
    lake.insert("rejects", [{"source_id": "qs1", "state": "second", "reasons": ["truncated"]}])
    lake.commit("ingest", "r2")
    assert _ids(lake.refresh(), profile="all") == ["s2"]
