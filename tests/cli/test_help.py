"""Every command explains itself: a help text with an example that parses, and `--json` (DESIGN.md section 5).

The commands are found by walking the application, so a new one is held to this without a new test.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import typer.main

from semgen_cli.main import COMMAND_MODULES, app, run

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path, command) of every command below a group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = list(commands())
each_command = pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[" ".join(p) for p, _ in COMMANDS])


def examples(help_text: str) -> list[str]:
    """Command lines that a help text shows: from `semgen-platform` to the end of the line."""
    return [line.rstrip(".") for line in re.findall(r"semgen-platform [^\n]+", help_text)]


def help_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run([*arguments, "--help"]) == 0
    return capsys.readouterr().out


@each_command
def test_a_command_has_an_example_whose_options_exist(path: tuple[str, ...], command: Any) -> None:
    lines = [shlex.split(line)[1:] for line in examples(command.help or "")]
    own = [words[len(path) :] for words in lines if tuple(words[: len(path)]) == path]
    assert own, f"the help of {' '.join(path)} shows no example of it"
    for arguments in own:
        command.make_context(path[-1], arguments)  # raises for an unknown option or a missing argument


@each_command
def test_a_command_speaks_json(path: tuple[str, ...], command: Any) -> None:
    options = {flag for parameter in command.params for flag in parameter.opts}
    assert "--json" in options
    assert {"--verbose", "-v"} <= options, "more log is asked for in the same way everywhere"
    assert {"--quiet", "-q"} <= options


@each_command
def test_every_option_is_explained(path: tuple[str, ...], command: Any) -> None:
    assert [p.name for p in command.params if not getattr(p, "help", None) and p.param_type_name == "option"] == []


def test_the_help_lists_every_command_and_only_what_is_built(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(capsys)
    for name in ROOT.commands:
        assert re.search(rf"^\s+{re.escape(name)}\s", text, re.MULTILINE), name
    assert len(COMMAND_MODULES) <= len(ROOT.commands)


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) in (0, 2)
    captured = capsys.readouterr()
    assert "Usage" in captured.out + captured.err


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"]])
def test_wrong_use_ends_with_2_and_a_sentence(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert arguments[0] in captured.err
