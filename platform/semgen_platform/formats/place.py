"""Where the bytes of one file lie: in a file of a folder, or in a member of an archive."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from semgen_platform.formats import archive
from semgen_platform.formats.refusing import refused

Validator = tuple[int, int]
"""(size in bytes, mtime_ns) of a file, or a member's own (archive.Member): what changes when the bytes do."""


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """path : absolute path of the file, or of the archive.  member : name in the archive, "" for the file itself."""

    path: str
    member: str = ""

    def __str__(self) -> str:
        """One path for people and for prefixes: a member lies below its archive."""
        return f"{self.path}/{self.member}" if self.member else self.path

    @property
    def name(self) -> str:
        """The last part of the name, for its extension."""
        return PurePosixPath(self.member or self.path).name

    def sibling(self, name: str) -> Place:
        """A relative name in the same folder."""
        if self.member:
            return replace(self, member=str(PurePosixPath(self.member).parent / name))
        return Place(str(Path(self.path).parent / name))

    def open(self) -> BinaryIO:
        """The bytes as a seekable stream. Raises OSError, Refused for a member that cannot be read."""
        return archive.open_member(self.path, self.member) if self.member else Path(self.path).open("rb")

    def exists(self) -> bool:
        """Whether there is such a file or member. Raises Refused for an archive that cannot be read, OSError."""
        return archive.find(self.path, self.member) is not None if self.member else Path(self.path).is_file()

    def validator(self) -> Validator:
        """Raises Refused for what is no regular file or no member, OSError."""
        if self.member:
            found = archive.find(self.path, self.member)
            if found is None:
                raise refused("unreadable", "the archive has no such member")
            return found.validator
        status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise refused("not_an_image", "this is no regular file but a pipe, socket or device")
        return status.st_size, status.st_mtime_ns

    def size(self) -> int:
        """Bytes, by the file system or by the archive's own list. Raises as `validator` does."""
        return self.validator()[0]
