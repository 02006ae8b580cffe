"""Who may ask: anyone on the loopback interface, elsewhere whoever shows the token. Source: USERS.md 36.

The token is one line in a file; it is never logged, and compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
from pathlib import Path

from semgen_platform.errors import InputError

LEAST_CHARACTERS = 16
SCHEME = "bearer"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`; of names, localhost alone is trusted to be."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token(path: Path) -> str:
    """The token in a file. Raises InputError if it cannot be read, is short, or holds white space inside."""
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"token file {path} cannot be read ({type(error).__name__}); write one line of ASCII into it"
        ) from error
    if len(token) < LEAST_CHARACTERS or len(token.split()) != 1:
        raise InputError(
            f"token file {path} must hold one line of at least {LEAST_CHARACTERS} characters without spaces; "
            f"make one with: openssl rand -hex 32 > {path}"
        )
    return token


def token_for(host: str, token_file: Path | None) -> str | None:
    """The token that a server on `host` asks for; None on loopback without a file.

    Raises InputError where a token is needed and there is none, and for a bad file.
    """
    if token_file is not None:
        return read_token(token_file)
    if not is_loopback(host):
        raise InputError(
            f"a server on {host} can be reached from outside and needs a token; give --token-file, or --host 127.0.0.1"
        )
    return None


def is_allowed(authorization: str | None, token: str | None) -> bool:
    """Whether a request with this Authorization header may pass; `token` None lets everyone."""
    if token is None:
        return True
    scheme, _, shown = (authorization or "").partition(" ")
    return scheme.lower() == SCHEME and hmac.compare_digest(shown.strip().encode(), token.encode())
