"""The page of a lake says what is in it: its numbers are those counted by hand, and it names no path and nobody."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_cli.main import run
from semgen_platform import geometry
from semgen_platform.errors import InputError, NotFound
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.reports.census import chosen, hu_curves, take_census
from semgen_platform.reports.collection import measured, write_collection_report
from semgen_platform.reports.flags import MEANING, explained
from semgen_platform.volume import FLAGS, Volume

HOSTILE = "<b>half</b> & co"


def who(letter: str) -> str:
    """A pseudonym of full length."""
    return f"p{letter * 24}"


def body(seed: int, spacing_z_mm: float = 2.0, slices: int = 64) -> Volume:
    """Noisy water in air: a CT without flags if it is 100 mm long and has slices of 4 mm at most."""
    voxels = np.random.default_rng(seed).normal(-1000, 8, (slices, 48, 40))
    voxels[:, 10:38, 8:32] += 1040
    return Volume(voxels.astype(np.int16), geometry.affine_from((1.5, 1.5, spacing_z_mm), (0, 0, 0)), "CT")


def half() -> Volume:
    """Upper half 40 HU, lower half air."""
    voxels = np.full((64, 32, 32), -1000, np.int16)
    voxels[32:] = 40
    return Volume(voxels, geometry.affine_from((2, 2, 2), (0, 0, 0)), "CT")


def foreign() -> Volume:
    """What an MR looks like: no air, no HU."""
    voxels = np.random.default_rng(9).integers(100, 900, (60, 40, 40)).astype(np.int16)
    return Volume(voxels, geometry.affine_from((2, 2, 2), (0, 0, 0)), "")


def refused(source: str, collection: str, reason: str, sentence: str, **evidence: Any) -> dict[str, Any]:
    return {
        "source_id": source,
        "state": "1",
        "collection": collection,
        "reasons": [reason],
        "sentence": sentence,
        "evidence": evidence,
    }


@pytest.fixture(scope="module")
def ids() -> dict[str, str]:
    """Scan ids by the names that these tests give them; filled by the lake."""
    return {}


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, ids: dict[str, str]) -> Lake:
    """Five scans of six sources and five patients in three collections; five refusals, one collection of them alone."""
    lake = create_lake(str(tmp_path_factory.mktemp("reports") / "lake"), key_fingerprint="f" * 24)
    volumes = {"plain": body(1), "thick": body(2, 5.0, 30), "burned": body(3), "foreign": foreign(), "half": half()}
    rows = {name: write_volume(lake.root, volume, "r") for name, volume in volumes.items()}
    ids.update({name: row["scan_id"] for name, row in rows.items()})
    lake.insert("rejects", [refused("q1", "siteA", "truncated", "it came back whole later")])
    sources = [
        ("q1", "plain", "siteA", "a", "t1", []),
        ("q2", "thick", "siteA", "a", "t1", []),
        ("q3", "plain", "siteB", "b", "", []),  # a file without studies, as ingest writes it
        ("q4", "foreign", "siteB", "c", None, ["patient_unknown"]),
        ("q5", "burned", "siteB", "d", "t2", ["burned_in_hint"]),
        ("q6", "half", HOSTILE, "e", None, []),
    ]
    keys = ("source_id", "scan_id", "collection", "patient_id", "study_id", "flags")
    lake.insert(
        "sources",
        [
            dict(zip(keys, (source, ids[scan], collection, who(patient), study, flags), strict=True)) | {"state": "1"}
            for source, scan, collection, patient, study, flags in sources
        ],
    )
    lake.insert("scans", list(rows.values()))
    lake.insert(
        "rejects",
        [
            refused(
                "x1", "siteA", "missing_slices", "slices are missing: 3", missing=3, gaps_mm=[7.5, 2.5], step_mm=2.5
            ),
            refused("x2", "siteA", "missing_slices", "slices are missing: 9", missing=9, at_mm=list(range(100))),
            refused("x3", "siteA", "pdf", "a PDF"),
            refused("x4", "siteB", "too_few_slices", "it has 3 slices", slices=3, min_slices=16),
            refused("x5", "siteC", "corrupt", "a <script>alert(1)</script> & more"),
        ],
    )
    lake.commit("ingest", "r")
    return lake.refresh()


class Page(HTMLParser):
    """Facts, tables (title of the section, rows of cell texts), cards and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.facts: dict[str, str] = {}
        self.tables: dict[str, list[list[str]]] = {}
        self.cards: list[dict[str, Any]] = []
        self.addresses: list[str] = []
        self._within: list[str] = []
        self._section, self._term = "", ""
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [v or "" for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        if tag == "article":
            self.cards.append({"section": self._section, "picture": False, "text": ""})
        if tag == "img" and self.cards:
            self.cards[-1]["picture"] = True
        if tag == "tr":
            self.tables.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.tables[self._section][-1].append("")
        if tag not in ("img", "meta"):  # these have no end
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        inside = self._within[-1] if self._within else ""
        if inside == "h2":
            self._section = data
        elif inside == "dt":
            self._term = data
        elif inside == "dd":
            self.facts[self._term] = data
        elif "article" in self._within:
            self.cards[-1]["text"] += data + " "
        elif "td" in self._within or "th" in self._within:
            self.tables[self._section][-1][-1] += data

    def rows(self, section: str) -> list[list[str]]:
        return self.tables[section]


def report(lake: Lake, tmp_path: Path, collections: list[str] | None = None, thumbnails: int = 60) -> tuple[str, Page]:
    out = tmp_path / "page.html"
    write_collection_report(lake, out, collections, thumbnails=thumbnails, quiet=True)
    text = out.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def page(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return report(lake, tmp_path_factory.mktemp("page"))


def test_the_numbers_are_those_counted_by_hand(page: tuple[str, Page]) -> None:
    assert page[1].facts == {
        "patients": "5",
        "studies": "2",
        "scans": "5",
        "scans flagged": "3",
        "sources accepted": "6",
        "sources refused": "5",
    }
    assert page[1].rows("What is in it") == [
        ["collection", "patients", "studies", "scans", "sources", "refused"],
        [HOSTILE, "1", "0", "1", "1", "0"],
        ["siteA", "1", "1", "2", "2", "3"],
        ["siteB", "3", "1", "3", "3", "1"],
        ["siteC", "0", "0", "0", "0", "1"],
    ]


def test_refusals_stand_by_reason_with_a_sentence_and_what_was_measured(page: tuple[str, Page]) -> None:
    assert page[1].rows("Refused sources")[1:] == [
        ["missing_slices", "2", "slices are missing: 3", "gaps 7.5, 2.5 mm; missing 3; step 2.5 mm"],
        ["corrupt", "1", "a <script>alert(1)</script> & more", ""],
        ["pdf", "1", "a PDF", ""],
        ["too_few_slices", "1", "it has 3 slices", "min slices 16; slices 3"],
    ]


def test_what_was_measured_is_left_out_where_it_is_long() -> None:
    assert measured(json.dumps({"missing": 9, "at_mm": list(range(100))})) == "missing 9"
    assert measured(None) == ""


def test_flags_are_counted_and_explained(page: tuple[str, Page]) -> None:
    rows = page[1].rows("Flags")[1:]
    assert [(flag, scans, trained) for flag, scans, _, trained in rows] == [
        ("not_ct", "1", "no"),
        ("thick_slices", "1", "yes"),
        ("burned_in_hint", "1", "no"),
        ("patient_unknown", "1", "yes"),
    ]
    assert all(sentence.endswith(".") and len(sentence) > 30 for _, _, sentence, _ in rows)


def test_every_flag_has_its_sentence() -> None:
    assert tuple(MEANING) == FLAGS
    scan = {"hu_p01": 1.0, "hu_p99": 2.0, "coverage_mm": 80.4, "spacing_z_mm": 5.0, "obliquity_deg": 12.34}
    for flag in FLAGS:
        assert re.fullmatch(r"[A-Z][^.]*(\.\d[^.]*)?\.", explained(flag, scan)), flag
    assert explained("thick_slices", scan).endswith("lost (here 5 mm).")
    assert explained("low_coverage", scan).endswith("(here 80 mm).")


def test_flagged_scans_come_first_each_with_its_sentences(page: tuple[str, Page], ids: dict[str, str]) -> None:
    shown = [(card["section"], card["text"].split()[0]) for card in page[1].cards]
    unflagged = sorted(ids[name][:10] for name in ("plain", "half"))
    assert shown == [
        ("Flagged scans", ids["foreign"][:10]),
        ("Flagged scans", ids["thick"][:10]),
        ("Flagged scans", ids["burned"][:10]),
        *(("Other scans", scan) for scan in unflagged),
    ]
    foreign, thick, *_ = (card["text"] for card in page[1].cards)
    assert "too few of its values lie near air" in foreign
    assert "counts as a patient of its own" in foreign
    assert "more than 4 mm apart" in thick
    assert "30 slices 5 mm apart, 48 x 40 pixels of 1.5 x 1.5 mm; RL 60, AP 72, SI 150 mm" in thick


def test_the_window_is_said_in_words_and_another_one_where_values_are_not_in_hu(page: tuple[str, Page]) -> None:
    assert page[1].text.count("Soft-tissue window: level 40 HU, width 400 HU, so -160 HU and below is black") == 2
    own = [card for card in page[1].cards if "since its values are not in HU" in card["text"]]
    assert len(own) == 1
    low, high = map(int, re.findall(r"Shown from (\d+) \(black\) to (\d+)", own[0]["text"])[0])
    assert [low, high] == pytest.approx([108, 891], abs=3)  # 1 and 99 % of 100 to 899


def test_a_scan_that_may_show_a_name_is_not_shown(page: tuple[str, Page], lake: Lake, ids: dict[str, str]) -> None:
    assert [card["picture"] for card in page[1].cards] == [True, True, False, True, True]
    kept = {path.stem for path in (lake.root / "thumbnails").rglob("*.png")}
    assert kept == set(ids.values()) - {ids["burned"]}


def test_distributions_count_every_scan_once(page: tuple[str, Page]) -> None:
    charts = dict(re.findall(r"<b>([^<]+)</b></figcaption>(<svg.*?</svg>)", page[0]))
    bars = {name: re.findall(r"<title>([\d.]+) to [\d.]+: (\d+) scans", chart) for name, chart in charts.items()}
    assert bars["Distance between slices"] == [("2", "4"), ("5", "1")]
    assert bars["Slices"] == [("30", "1"), ("60", "1"), ("64", "3")]
    assert sum(int(count) for _, count in bars["Pixel width"]) == 5
    assert page[1].rows("Spacing and shape")[1:] == [["48 x 40", "3"], ["32 x 32", "1"], ["40 x 40", "1"]]


def test_the_curve_of_a_half_empty_scan_has_two_bins_of_half_its_voxels(lake: Lake) -> None:
    curves = hu_curves(lake, take_census(lake), quiet=True)
    assert {name: curve.scans for name, curve in curves.items()} == {HOSTILE: 1, "siteA": 2, "siteB": 1}
    percent = curves[HOSTILE].percent
    bins = {-1100 + 10 * int(n): float(percent[n]) for n in np.flatnonzero(percent)}
    assert bins == {-1000: 50.0, 40: 50.0}


def test_statistics_leave_out_what_is_not_in_hu(page: tuple[str, Page]) -> None:
    rows = {row[0]: row[1:] for row in page[1].rows("Hounsfield units")}
    assert float(rows["99th percentile, HU"][-1]) < 100
    assert "Left out, since not in HU: 1." in page[1].text
    assert float(rows["lowest, HU"][0]) < -1020  # noise of 8 HU in some 100,000 voxels of air


def test_one_collection_counts_its_own_sources_scans_and_refusals(lake: Lake, tmp_path: Path) -> None:
    _, site = report(lake, tmp_path, ["siteB"])
    assert list(site.facts.values()) == ["3", "1", "3", "2", "3", "1"]
    assert [row[0] for row in site.rows("Refused sources")[1:]] == ["too_few_slices"]
    assert len(site.cards) == 3
    assert all("collection siteB" in card["text"] for card in site.cards)


def test_a_collection_of_which_everything_was_refused_has_its_page(lake: Lake, tmp_path: Path) -> None:
    _, site = report(lake, tmp_path, ["siteC"])
    assert list(site.facts.values()) == ["0", "0", "0", "0", "0", "1"]
    with pytest.raises(NotFound, match="no collection nowhere"):
        report(lake, tmp_path, ["nowhere"])


def test_an_old_version_shows_what_it_held(lake: Lake, tmp_path: Path) -> None:
    _, old = report(open_lake(lake.uri, version=0), tmp_path)
    assert set(old.facts.values()) == {"0"}


def test_more_scans_than_thumbnails_are_counted_as_not_shown(lake: Lake, tmp_path: Path) -> None:
    _, few = report(lake, tmp_path, thumbnails=2)
    assert [card["section"] for card in few.cards] == ["Flagged scans"] * 2
    assert "2 of 3 flagged scans are shown, 1 not." in few.text
    assert "0 of 2 scans without a flag are shown, 2 not." in few.text


def test_a_frequent_flag_does_not_hide_a_rare_one() -> None:
    flags = [["thick_slices"]] * 8 + [["oblique", "patient_unknown"]] * 2 + [[]] * 5 + [["not_ct"]]
    scans = [f"s{n:02d}" for n in range(len(flags))]
    assert chosen(scans, flags, 5) == ["s15", "s00", "s01", "s08", "s09"]
    assert chosen(scans, flags, 13) == ["s15", *scans[:8], "s08", "s09", "s10", "s11"]
    assert chosen(scans, flags, 0) == []


def test_a_page_names_no_path_and_nobody(page: tuple[str, Page], lake: Lake, ids: dict[str, str]) -> None:
    assert str(lake.root) not in page[0]
    assert "/tmp" not in re.sub(r"base64,[^\"]+", "", page[0])
    for name in [*ids.values(), *map(who, "abcde"), lake.lake_id]:
        assert name not in page[0]
        assert name[:10] in page[0] or name == who("b")  # b's source holds a scan of a's, who is shown


def test_nothing_is_asked_of_the_network_and_no_text_becomes_markup(page: tuple[str, Page]) -> None:
    assert not re.search(r"https?:|//", re.sub(r"base64,[^\"]+", "", page[0]))
    assert all(address.startswith(("data:", "#")) for address in page[1].addresses)
    assert "<script" not in page[0]
    assert "<b>half" not in page[0]


def test_a_volume_that_is_gone_costs_its_picture_and_not_the_page(
    lake: Lake, tmp_path: Path, ids: dict[str, str]
) -> None:
    shutil.copytree(lake.root, tmp_path / "copy", ignore=shutil.ignore_patterns("thumbnails"))
    shutil.rmtree(tmp_path / "copy" / "volumes" / ids["thick"][1:3] / ids["thick"])
    text, damaged = report(open_lake(str(tmp_path / "copy")), tmp_path)
    cards = {card["text"].split()[0]: card for card in damaged.cards}
    assert not cards[ids["thick"][:10]]["picture"]
    assert "No picture: the volume is absent or damaged" in cards[ids["thick"][:10]]["text"]
    assert cards[ids["plain"][:10]]["picture"]
    assert str(tmp_path) not in text


def test_the_command_writes_the_page_and_says_what_is_in_it(
    lake: Lake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.html"
    words = ["lake", "report", "--lake", lake.uri, "--out", str(out), "--thumbnails", "4", "--json"]
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "report": str(out),
        "lake_version": lake.version,
        "patients": 5,
        "studies": 2,
        "scans": 5,
        "sources": 6,
        "refused": 5,
        "flagged": 3,
        "shown": 4,
        "not_shown": 1,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]


def test_a_page_that_cannot_be_written_is_one_sentence(lake: Lake, tmp_path: Path) -> None:
    wrong = {
        tmp_path: "which is a folder; give --out a file in it",
        tmp_path / "absent" / "page.html": "give --out a file in a folder that exists",
        lake.root / "page.html": "which lies in the lake; give --out outside it",
        lake.root / "tables" / ".." / "page.html": "which lies in the lake",
    }
    for out, why in wrong.items():
        with pytest.raises(InputError, match=rf"cannot be written to .*{why}"):
            write_collection_report(lake, out, thumbnails=0, quiet=True)
