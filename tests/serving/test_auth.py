"""Loopback is open; anything else needs a token that is worth the name."""

from pathlib import Path

import pytest

from semgen_platform.errors import InputError
from semgen_platform.serving.auth import is_allowed, is_loopback, read_token, token_for


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.org", False), ("localhost.evil.org", False),
        ("", False),
    ],
)  # fmt: skip
def test_only_loopback_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_server_that_others_can_reach_does_not_start_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--token-file"):
        token_for("0.0.0.0", None)
    assert token_for("127.0.0.1", None) is None
    (tmp_path / "token").write_text("0123456789abcdef\n")
    assert token_for("0.0.0.0", tmp_path / "token") == "0123456789abcdef"
    assert token_for("127.0.0.1", tmp_path / "token") == "0123456789abcdef", "a token that is given is asked for"


@pytest.mark.parametrize(
    "content", [b"", b"short", b"two words of some length", b"line one 123456\nline two", "\u00e9".encode() * 20]
)
def test_a_token_file_that_holds_no_token_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(InputError, match="token file"):
        read_token(tmp_path / "token")


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "absent")


def test_the_scheme_is_bearer_in_any_case_and_the_token_is_exact() -> None:
    token = "0123456789abcdef"
    assert is_allowed(f"Bearer {token}", token)
    assert is_allowed(f"bearer {token}", token)
    assert not is_allowed(f"Bearer {token}0", token)
    assert not is_allowed("Bearer \u00e9", token)
    assert not is_allowed(None, token)
    assert is_allowed(None, None)
