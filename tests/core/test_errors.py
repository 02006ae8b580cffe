"""Errors say which exit code they end a command with (DESIGN.md section 5)."""

from __future__ import annotations

import inspect

import pytest

from semgen_platform import errors

ALL = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.SemgenError)]


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.SemgenError, 1),
        (errors.ConfigError, 2),
        (errors.InputError, 3),
        (errors.GeometryError, 3),
        (errors.NotALake, 3),
        (errors.NewerFormat, 3),
        (errors.WrongKey, 3),
        (errors.KeyMissing, 3),
        (errors.NotFound, 3),
        (errors.StorageError, 3),
        (errors.Unreachable, 3),
        (errors.Busy, 3),
        (errors.Incomplete, 4),
        (errors.Damage, 5),
        (errors.Preempted, 75),
        (errors.Interrupted, 130),
    ],
)
def test_an_error_has_the_exit_code_of_the_design(kind: type[errors.SemgenError], code: int) -> None:
    assert kind.exit_code == code


def test_the_tree_in_the_docstring_names_every_error() -> None:
    missing = [c.__name__ for c in ALL if c.__name__ not in (errors.__doc__ or "")]
    assert missing == []


def test_a_builtin_handler_catches_what_it_would_expect() -> None:
    with pytest.raises(ValueError, match="seed"):
        raise errors.ConfigError("seed is -1")
    with pytest.raises(LookupError):
        raise errors.NotFound("no scan s123")
