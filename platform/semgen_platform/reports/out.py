"""Where a command may put the page that a user asked for."""

from __future__ import annotations

from pathlib import Path

from semgen_platform.errors import InputError
from semgen_platform.lake.lake import Lake
from semgen_platform.storage import explained


def check_out(lake: Lake, out: Path) -> None:
    """Raises InputError unless `out` names a file outside the lake, in a folder that exists, and StorageError."""
    root = lake.storage.local_root
    with explained(str(out)):
        if out.is_dir():
            raise InputError(f"the report cannot be written to {out}, which is a folder; give --out a file in it")
        if root is not None and root.resolve() in out.resolve().parents:
            raise InputError(f"the report cannot be written to {out}, which lies in the lake; give --out outside it")
        if not out.absolute().parent.is_dir():
            raise InputError(f"the report cannot be written to {out}; give --out a file in a folder that exists")
