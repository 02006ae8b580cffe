"""Keys, pseudonyms and the allow-list; pseudonyms against Python's own hmac."""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from semgen_platform import privacy
from semgen_platform.errors import KeyMissing
from semgen_platform.privacy import Pseudonyms

KEY = bytes(range(32))


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config"


def test_a_local_lake_gets_a_key_of_32_bytes_that_only_its_owner_reads(
    configuration: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        key = privacy.load_key(None, lake_is_local=True)
        assert privacy.load_key(None, lake_is_local=True) == key
    path = configuration / "semgen-platform" / "lake.key"
    assert path.read_bytes() == key
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [str(path) in record.message for record in caplog.records] == [True]  # its place is said once
    assert os.listdir(path.parent) == ["lake.key"]


def test_processes_that_start_together_agree_on_one_key(configuration: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        keys = list(pool.map(_load, [str(configuration)] * 6))
    assert len(set(keys)) == 1


def _load(configuration: str) -> bytes:
    os.environ["XDG_CONFIG_HOME"] = configuration
    return privacy.load_key(None, lake_is_local=True)


def test_a_remote_lake_needs_a_key_file(configuration: Path) -> None:
    with pytest.raises(KeyMissing, match="--key-file"):
        privacy.load_key(None, lake_is_local=False)
    assert not configuration.exists()


def test_a_given_key_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert privacy.load_key(tmp_path / "key", lake_is_local=False) == KEY + b"\n"


@pytest.mark.parametrize("content", [None, b"", b"x" * 31])
def test_a_missing_or_short_key_file_is_refused_in_one_sentence(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    with pytest.raises(KeyMissing, match="random bytes") as caught:
        privacy.load_key(tmp_path / "key", lake_is_local=True)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


def test_a_folder_that_cannot_hold_a_key_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(KeyMissing, match="--key-file"):
        privacy.load_key(None, lake_is_local=True)


def test_a_pseudonym_is_the_hmac_of_its_length_prefixed_parts() -> None:
    message = b"".join(len(p).to_bytes(4, "big") + p for p in (b"study", b"1.2.3"))
    digest = hmac.new(KEY, message, hashlib.sha256).digest()
    assert Pseudonyms(KEY).study("1.2.3") == base64.b32encode(digest).decode().lower()[:24]


def test_pseudonyms_differ_by_key_kind_and_parts() -> None:
    names = Pseudonyms(KEY)
    made = [
        names.study("1.2"), names.series("1.2"), Pseudonyms(bytes(32)).study("1.2"),
        names.source("a", ("path", "b/c")), names.source("a", ("path", "b", "c")), names.source("ab", ("path", "/c")),
        names.patient(("17", "A")), names.patient(("17", "B")), names.patient(("17", "")),
        names.unknown_patient("a", ("path", "b/c")),
    ]  # fmt: skip
    assert len(set(made)) == len(made)


def test_the_namespace_stands_in_for_an_empty_issuer_and_only_then() -> None:
    assert Pseudonyms(KEY, "north").patient(("17", "")) == Pseudonyms(KEY).patient(("17", "north"))
    assert Pseudonyms(KEY, "north").patient(("17", "A")) == Pseudonyms(KEY, "south").patient(("17", "A"))
    assert Pseudonyms(KEY, "north").patient(("17", "")) != Pseudonyms(KEY, "south").patient(("17", ""))


def test_the_fingerprint_tells_keys_apart_and_holds_nothing_of_them() -> None:
    assert privacy.key_fingerprint(KEY) != privacy.key_fingerprint(bytes(32))
    assert KEY.hex() not in privacy.key_fingerprint(KEY)


def test_the_shift_of_dates_is_1_to_3650_days_and_that_of_the_patient() -> None:
    names = Pseudonyms(KEY)
    days = [names.days_back((str(number), "A")) for number in range(2000)]
    assert min(days) >= 1
    assert max(days) <= 3650
    assert len(set(days)) > 1400  # 2,000 draws out of 3,650 days leave 1,540 different ones, give or take 25
    assert 1700 < sum(days) / len(days) < 1950  # 1825.5 +- 24
    assert names.days_back(("17", "A")) == names.days_back(("17", "A"))
    assert Pseudonyms(KEY, "A").days_back(("17", "")) == names.days_back(("17", "A"))
    others = [
        Pseudonyms(bytes(32)).days_back(("17", "A")), names.days_back(("17", "B")), names.days_back(("18", "A")),
        names.unknown_days_back("siteA", ("path", "a")), names.unknown_days_back("siteA", ("path", "b")),
    ]  # fmt: skip
    assert len({names.days_back(("17", "A")), *others}) == 6


def test_a_pseudonym_does_not_give_the_shift_away() -> None:
    names = Pseudonyms(KEY)
    pseudonym = names.patient(("17", "A"))
    digest = int.from_bytes(base64.b32decode(pseudonym.upper()), "big")
    assert digest % 3650 + 1 != names.days_back(("17", "A"))
