"""Lake versions: immutable files that name a version of every table, so that a reader sees all tables at one moment.

versions/<number>.json is made by a conditional create, so exactly one of several writers makes a number. What the
versions of tables hold belongs to lake.py. Source: DESIGN.md section 4.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from semgen_platform.errors import Damage, NotFound
from semgen_platform.storage import Storage

PREFIX = "versions"


@dataclass(frozen=True)
class LakeVersion:
    """One moment of a lake.

    tables : Delta version of every table.  rows : their row counts.
    selection : digest of (scan_id, patient_id, split_group) of every scan.
    """

    number: int
    parent: int | None
    created_at: str
    command: str
    run_id: str
    tables: dict[str, int]
    rows: dict[str, int]
    selection: str

    def document(self) -> dict[str, Any]:
        """The version as it is stored."""
        return asdict(self)


def read_version(storage: Storage, number: int) -> LakeVersion:
    """A version by its number. Raises NotFound if there is none, Damage if its file cannot be read."""
    data = storage.get(_key(number))
    if data is None:
        newest = newest_number(storage)
        raise NotFound(f"lake {storage.uri} has no version {number}; its versions end at {newest}")
    try:
        return LakeVersion(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise Damage(f"version {number} of lake {storage.uri} cannot be read: {error}") from None


def create_version(storage: Storage, version: LakeVersion) -> bool:
    """Store a version unless its number is taken; exactly one of several writers gets True."""
    return storage.create(_key(version.number), json.dumps(version.document(), indent=1).encode())


def version_numbers(storage: Storage) -> list[int]:
    """All version numbers, ascending."""
    names = [key.rpartition("/")[2].removesuffix(".json") for key in storage.keys(PREFIX)]
    return sorted(int(name) for name in names if name.isdecimal())


def newest_number(storage: Storage) -> int:
    """The newest version's number. Raises Damage if a lake has none."""
    numbers = version_numbers(storage)
    if not numbers:
        raise Damage(f"lake {storage.uri} has no version file; its folder versions/ is empty")
    return numbers[-1]


def _key(number: int) -> str:
    return f"{PREFIX}/{number}.json"
