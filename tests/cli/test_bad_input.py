"""What a user gets wrong ends with one clear sentence and the right exit code, and changes nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from semgen_cli.main import run

Fails = Callable[..., str]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a lake and its key, another key, and folders that hold no scans."""
    for name, byte in (("key", b"k"), ("other_key", b"o")):
        (tmp_path / name).write_bytes(byte * 32)
    (tmp_path / "short_key").write_bytes(b"short")
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no scan")
    assert run(["lake", "init", "--lake", str(tmp_path / "lake"), "--key-file", str(tmp_path / "key")]) == 0
    return tmp_path


@pytest.fixture
def fails(place: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Run a command that must fail with `code`; its last line on stderr. `@name` is a name below `place`."""

    def check(code: int, command: str) -> str:
        before = digest(place)
        capsys.readouterr()
        assert run([word.replace("@", str(place) + "/", 1) for word in command.split()]) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        assert digest(place) == before, "a refused command changed something"
        return captured.err.strip().splitlines()[-1]

    return check


def digest(folder: Path) -> str:
    """Names and bytes of all files below a folder."""
    parts = [f"{p.relative_to(folder)} {p.read_bytes()!r}" for p in sorted(folder.rglob("*")) if p.is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("ingest @empty --lake @lake --key-file @key", "holds no file"),
        ("ingest @missing --lake @lake --key-file @key", "does not exist"),
        ("ingest @texts --lake @lake --key-file @other_key", "the key is not the one"),
        ("ingest @texts --lake @lake --key-file @short_key", "holds 5 bytes; give a file of at least 32"),
        ("ingest @texts --lake @lake --key-file @no_key", "cannot be read"),
        ("ingest @texts --lake @texts --key-file @key", "is no lake"),
        ("lake ls --lake @nothing", "is no lake (it has no lake.json); make one with: semgen-platform lake init"),
        ("lake ls --lake @lake@9", "has no version 9"),
        ("lake init --lake @texts --key-file @key", "holds notes.txt; name a new or empty folder"),
        ("lake init --lake @lake --key-file @other_key", "key"),
        ("lake init --lake @key/lake --key-file @key", "key/lake cannot be read or written (Not a directory); mend"),
        ("lake report --lake @lake --out @empty", "empty, which is a folder; give --out a file in it"),
        ("lake report --lake @lake --out @lake/x.html", "lake/x.html, which lies in the lake; give --out outside it"),
        ("lake report --lake @lake --out @key/x.html", "give --out a file in a folder that exists"),
        ("runs report --lake @lake --out @empty", "empty, which is a folder; give --out a file in it"),
        ("runs report --lake @lake --out @lake/lake.json", "lake/lake.json, which lies in the lake"),
        ("phantom @key/ct --patients 1", "key/ct cannot be read or written (Not a directory); mend"),
        ("train-encoder --lake @lake", "no scan is selected"),
        ("embed --lake @lake", "no scan is selected"),
        ("discover --lake @lake", "no encoder latest"),
        ("pretrain --lake @lake", "no discovery"),
        ("publish latest --name x --lake @lake", "run"),
        ("evaluate probe --model x --truth @empty --lake @lake", "no scan is selected"),
        ("serve --model x --lake @lake", "no model x"),
    ],
)
def test_an_input_or_lake_that_cannot_be_used_ends_with_3(fails: Fails, command: str, sentence: str) -> None:
    assert sentence in fails(3, command)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (
            "pretrain --lake @lake --recipe tiny --set training.seeds=1",
            "unknown configuration key training.seeds; did you mean",
        ),
        ("pretrain --lake @lake --recipe tinny", "did you mean tiny?"),
        ("pretrain --lake @lake --set training.batch_size=none", "training.batch_size"),
        ("train-encoder --lake @lake --set sede=1", "unknown configuration key sede; did you mean seed?"),
        ("lake ls --lake @lake --where nonsense", "no column"),
        ("lake ls --lake @lake --colection x", "No such option"),
        ("ingest @texts --lake @lake --key-file @key --min-slices none", "none"),
        ("ingest @texts --lake @lake@0 --key-file @key", "is a version, to which nothing can be added"),
    ],
)
def test_wrong_use_ends_with_2(fails: Fails, command: str, sentence: str) -> None:
    assert sentence in fails(2, command)


def test_a_lake_of_a_newer_format_is_refused_with_both_numbers(fails: Fails, place: Path) -> None:
    path = place / "lake" / "lake.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "format": document["format"] + 1}))
    sentence = fails(3, "lake ls --lake @lake")
    assert f"format {document['format'] + 1}" in sentence
    assert f"up to {document['format']}" in sentence
