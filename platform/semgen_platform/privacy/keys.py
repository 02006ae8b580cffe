"""The lake's secret, and what is made with it: pseudonyms, and the number of days that a patient's dates move.

A pseudonym is an HMAC-SHA-256 under a secret of at least 32 bytes that the lake never holds, only its fingerprint;
without the secret nobody can test a guess (DESIGN.md section 4, Key).
"""

from __future__ import annotations

import base64
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from semgen_platform import ids
from semgen_platform.errors import KeyMissing

logger = logging.getLogger("semgen_platform.privacy")

KEY_BYTES = 32

MOST_DAYS_BACK = 3650
"""Ten years: far enough to hide a year, near enough to keep the generation of scanners."""


@dataclass(frozen=True)
class Pseudonyms:
    """Names under the lake's key: the same input gives the same name in every run, and says nothing without the key.

    namespace : whose patient numbers these are, where a file names no issuer; two hospitals both have a patient 17.
    """

    key: bytes
    namespace: str = ""

    def source(self, collection: str, name_parts: tuple[str, ...]) -> str:
        """Id of a source (DESIGN.md section 4) from the parts that formats gives."""
        return ids.keyed_id(self.key, "source", collection, *name_parts)

    def patient(self, patient: tuple[str, str]) -> str:
        """Pseudonym of (PatientID, IssuerOfPatientID); the namespace stands in for an empty issuer."""
        number, issuer = patient
        return ids.keyed_id(self.key, "patient", number, issuer or self.namespace)

    def unknown_patient(self, collection: str, parts: tuple[str, ...]) -> str:
        """Pseudonym where nothing names the patient: whoever the file or folder `parts` of the collection shows."""
        return ids.keyed_id(self.key, "unknown patient", collection, *parts)

    def study(self, uid: str) -> str:
        return ids.keyed_id(self.key, "study", uid)

    def series(self, uid: str) -> str:
        return ids.keyed_id(self.key, "series", uid)

    def days_back(self, patient: tuple[str, str]) -> int:
        """1 to MOST_DAYS_BACK, the same for all of a patient's files: how far their dates are moved."""
        number, issuer = patient
        return self._days("patient", number, issuer or self.namespace)

    def unknown_days_back(self, collection: str, parts: tuple[str, ...]) -> int:
        """The same where nothing names the patient."""
        return self._days("unknown patient", collection, *parts)

    def _days(self, *parts: str) -> int:
        digest = base64.b32decode(ids.keyed_id(self.key, "days back", *parts).upper())
        return int.from_bytes(digest, "big") % MOST_DAYS_BACK + 1


def key_fingerprint(key: bytes) -> str:
    """What the lake keeps of its key: enough to refuse another one."""
    return ids.keyed_id(key, "fingerprint")


def load_key(key_file: Path | None, *, lake_is_local: bool) -> bytes:
    """The secret in `key_file`, or for a local lake that of the user's configuration folder, made at first use.

    Raises KeyMissing if the file cannot be read or holds fewer than 32 bytes, and for a remote lake without a key file.
    """
    if key_file is not None:
        return _read_key(key_file)
    if not lake_is_local:
        raise KeyMissing(
            "a lake that others can reach needs a pseudonym key of its own; give --key-file or SEMGEN_LAKE_KEY_FILE"
        )
    path = default_key_file()
    if not path.exists():
        _make_key(path)
    return _read_key(path)


def default_key_file() -> Path:
    """Where the key of local lakes lies: $XDG_CONFIG_HOME (or ~/.config)/semgen-platform/lake.key."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "semgen-platform" / "lake.key"


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise KeyMissing(
            f"pseudonym key {path} cannot be read ({error.strerror}); give a file of {KEY_BYTES} random bytes"
        ) from None
    if len(key) < KEY_BYTES:
        raise KeyMissing(
            f"pseudonym key {path} holds {len(key)} bytes; give a file of at least {KEY_BYTES} random bytes"
        )
    return key


def _make_key(path: Path) -> None:
    """Write a new key whole or not at all; of several processes one wins, and the others read its key."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
        try:
            os.link(partial, path)
        except FileExistsError:
            return
        finally:
            partial.unlink()
    except OSError as error:
        raise KeyMissing(f"no pseudonym key can be made at {path} ({error.strerror}); give --key-file") from None
    logger.warning("made a pseudonym key at %s; keep it, since without it no scan can be matched with its source", path)
