"""What may leave a source: an allow-list of attributes, and keyed pseudonyms for everything that names somebody.

A pseudonym is an HMAC-SHA-256 under a secret of at least 32 bytes that the lake never holds, only its fingerprint;
without the secret nobody can test a guess (DESIGN.md section 4, Key). Reading headers is formats' work.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semgen_platform import ids
from semgen_platform.errors import KeyMissing

logger = logging.getLogger(__name__)

KEY_BYTES = 32

ALLOWED_ATTRIBUTES: Mapping[str, type] = {
    "kernel": str,
    "manufacturer": str,
    "model": str,
    "body_part": str,
    "contrast": bool,
    "slice_thickness_mm": float,
    "kvp": float,
    "tube_current_ma": float,
    "exposure_mas": float,
    "orientation": str,  # three letters, as found
    "source_ijk_to_lps_mm": list,  # 16 numbers, as found
    "verdict": str,  # ok or repaired
    "steps_mm": list,  # smallest, median and largest between slices, as found
    "repair": str,  # what was done
}
"""Every attribute of a source that the lake keeps, with its type: technical values, no description, date or name."""

PLAIN_TEXT = re.compile(r"[A-Za-z0-9 _./+\\-]{1,64}")
LONG_NUMBER = re.compile(r"\d{5,}")
"""Five digits in a row are no kernel or model but a serial number, date or patient number."""


def allowed(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes on the list that have the listed type; texts only if short, plain and without a long number."""
    return {name: value for name, value in attributes.items() if _is_allowed(ALLOWED_ATTRIBUTES.get(name), value)}


def _is_allowed(kind: type | None, value: Any) -> bool:
    if kind is None or not isinstance(value, kind):
        return False
    return not isinstance(value, str) or bool(PLAIN_TEXT.fullmatch(value) and not LONG_NUMBER.search(value))


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
