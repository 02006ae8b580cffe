"""Where the bytes of one file lie: in a file of a folder, in an object of a bucket, or in a member of an archive."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import BinaryIO

from semgen_platform.formats import archive, files
from semgen_platform.formats.refusing import refused

Validator = tuple[int, int]
"""(size in bytes, mtime_ns) of a file, (size, digest of its etag) of an object, or a member's own (archive.Member):
what changes when the bytes do."""


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """path : absolute path of the file, or of the archive, or its s3:// address.  member : name in the archive, "" for
    the file itself."""

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
        return Place(f"{files.parent(self.path).rstrip('/')}/{posixpath.normpath(name)}")

    def open(self) -> BinaryIO:
        """The bytes as a seekable stream. Raises OSError, Refused for a member that cannot be read."""
        return archive.open_member(self.path, self.member) if self.member else files.open_file(self.path)

    def exists(self) -> bool:
        """Whether there is such a file or member. Raises Refused for an archive that cannot be read, OSError."""
        return archive.find(self.path, self.member) is not None if self.member else files.is_file(self.path)

    def validator(self) -> Validator:
        """Raises Refused for what is no regular file or no member, OSError."""
        if self.member:
            found = archive.find(self.path, self.member)
            if found is None:
                raise refused("unreadable", "the archive has no such member")
            return found.validator
        return files.validator(self.path)

    def size(self) -> int:
        """Bytes, by the file system or by the archive's own list. Raises as `validator` does."""
        return self.validator()[0]
