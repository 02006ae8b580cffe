"""What the documents say exists: links, commands with their options, and a reason for every dependency."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main

from semgen_cli.main import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])
COMMANDS: Any = typer.main.get_command(app)


def shown_commands(page: Path) -> list[str]:
    """Command lines in code blocks and code spans that begin with semgen-platform and go on."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    lines = re.findall(r"^\s*(semgen-platform [^\n#|]+)", blocks, re.MULTILINE)
    return lines + re.findall(r"`(semgen-platform [^`|]+)`", text)


SHOWN = [(page, line) for page in PAGES for line in shown_commands(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{page.name}: {line[:50]}" for page, line in SHOWN])
def test_every_command_shown_takes_these_options(page: Path, line: str) -> None:
    command, words = COMMANDS, shlex.split(line)[1:]
    while hasattr(command, "commands"):
        assert words, f"{line} names a group"
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command = command.commands[words.pop(0)]
    command.make_context("shown", words)  # raises for an unknown option or a missing argument


def test_every_dependency_has_its_line() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in declared} - {project["name"]}
    rows = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE)
    explained = {name for row in rows for name in row.split(", ")} - {"package", "---"}
    assert explained == names
