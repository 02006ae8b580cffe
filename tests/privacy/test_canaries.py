"""The search for canaries: every spelling is found, and nothing is found where nothing is."""

from __future__ import annotations

import base64
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from semgen_platform.privacy import canaries
from semgen_platform.privacy.canaries import BINARY, VOXELS, Canaries

NAME = "Brannoch^Corisande"


def lines_in(data: bytes, *lines: str) -> set[int]:
    return {hit.line for hit in Canaries(lines).find(data)}


@pytest.mark.parametrize(
    "text",
    [
        NAME, "brannoch^corisande", "BRANNOCH^CORISANDE", "Corisande Brannoch", "Brannoch, Corisande",
        "Brannoch Corisande", "brannoch_corisande", "Corisande-Brannoch", "CorisandeBrannoch", "brannoch/corisande",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be"])
def test_a_name_is_found_in_any_case_order_and_width(text: str, encoding: str) -> None:
    assert lines_in(f"prefix {text} suffix".encode(encoding), "Elstrand^Dorian", NAME) == {2}


@pytest.mark.parametrize("before", ["", "x", "xy", "xyz"])
def test_base64_is_found_at_each_alignment(before: str) -> None:
    code = base64.b64encode(f"{before}{NAME} and more".encode())
    assert lines_in(code, NAME) == {1}
    assert lines_in(base64.urlsafe_b64encode(f"{before}>>{NAME}".encode()), NAME) == {1}


def test_hexadecimal_is_found() -> None:
    assert lines_in(f"0x{NAME.encode().hex()}".encode(), NAME) == {1}
    assert lines_in(NAME.encode().hex().upper().encode(), NAME) == {1}


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "cp1252", "utf-16-le"])
@pytest.mark.parametrize("text", ["Müller^Jürgen", "MÜLLER^JÜRGEN", "Jürgen Müller", "Muller^Jurgen"])
def test_accents_are_found_in_other_character_sets_and_without_them(text: str, encoding: str) -> None:
    assert lines_in(text.encode(encoding), "Müller^Jürgen") == {1}


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("山田太郎花子", "iso2022_jp"), ("ヤマダタロウ", "shift_jis"), ("김희중희중", "euc_kr"),
        ("Люксембург", "iso8859-5"), ("王小东小明", "gb18030"),
    ],
)  # fmt: skip
def test_names_in_the_character_sets_of_dicom_are_found(text: str, encoding: str) -> None:
    assert lines_in(b"before " + text.encode(encoding), text) == {1}


@pytest.mark.parametrize(
    "text", ["1970-01-31", "19700131", "31.01.1970", "01/31/1970", "19700131083000.5", "1970/01/31"]
)
def test_a_date_is_found_in_other_notations(text: str) -> None:
    assert lines_in(f"born {text}".encode(), "19700131") == {1}
    assert lines_in(f"born {text}".encode(), "1970-01-31") == {1}


def test_digits_alone_are_found_and_only_between_other_characters() -> None:
    assert lines_in(b"id 4711815 end", "MRN-471-18-15") == {1}
    assert lines_in(b"size 147118150 end", "MRN-471-18-15") == set()
    assert lines_in(b"0.4711815", "MRN-471-18-15") == set()
    assert lines_in(b"19700131", "1970-01-30") == set()


@pytest.mark.parametrize("text", ["Brannoch", "Corisande", "Elstrand^Corisande", "Corisand Brannoch", ""])
def test_a_part_of_a_name_is_not_the_name(text: str) -> None:
    assert lines_in(text.encode(), NAME) == set()


def test_what_lies_across_the_edge_of_a_block_is_found_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "BLOCK_BYTES", 64)
    for place in range(150):
        assert lines_in(b"." * place + NAME.encode() + b"." * 100, NAME) == {1}, place


def test_thousands_of_canaries_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("abcdefgh0123456789"), 12)) for _ in range(1000)]
    planted = sorted(rng.choice(1000, 40, replace=False).tolist())
    text = " ".join(lines[n] for n in planted).encode()
    assert lines_in(text, *lines) == {n + 1 for n in planted}


def test_noise_and_tissue_hold_no_canary() -> None:
    rng = np.random.default_rng(1)
    search = Canaries([f"Name{n:04d}^Given{n:04d}" for n in range(500)] + ["abcdefgh", "19700131"])
    assert search.find(rng.bytes(1 << 20), BINARY) == set()
    tissue = rng.normal(90, 15, 1 << 19).astype("<i2")  # HU that read as letters in UTF-16
    assert search.find(tissue.tobytes(), VOXELS) == set()


def test_a_name_written_into_voxels_is_found() -> None:
    voxels = np.random.default_rng(2).normal(0, 400, 4096).astype("<i2").tobytes()
    planted = voxels[:1001] + NAME.encode() + voxels[1001 + len(NAME) :]
    assert {hit.line for hit in Canaries([NAME]).find(planted, VOXELS)} == {1}


def test_an_escaped_url_is_undone_before_the_search_and_not_by_it() -> None:
    assert lines_in(quote("Müller^Jürgen").encode(), "Müller^Jürgen") == set()


def test_no_file_of_this_test_holds_a_canary_by_chance() -> None:
    source = Path(canaries.__file__).read_bytes()
    assert lines_in(source, "Glenhurst^Damaris", "20120331", "ACC12345678") == set()
