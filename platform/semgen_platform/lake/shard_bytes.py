"""Where the bytes of one shard lie: in a file, which is mapped, or in an object, of which only ranges are asked for.

What they mean belongs to shards.py, which reads both through the same two questions.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from semgen_platform.storage import Storage


class ShardBytes(Protocol):
    """The bytes of a shard."""

    def tail(self, size: int) -> bytes:
        """The last `size` bytes, or fewer where there are not as many."""
        ...

    def ranges(self, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        """The bytes at spans (offset, length), in their order."""
        ...


class MappedShard:
    """A shard in a local file. Raises OSError or ValueError where it is absent or empty."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._bytes = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def tail(self, size: int) -> bytes:
        return bytes(self._bytes[-size:])

    def ranges(self, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        return [self._bytes[offset : offset + length] for offset, length in spans]


class RangedShard:
    """A shard in an object store: one request for its end, then one for each run of neighbouring chunks."""

    def __init__(self, storage: Storage, key: str) -> None:
        self._storage, self._key = storage, key

    def tail(self, size: int) -> bytes:
        return self._storage.tail(self._key, size) or b""

    def ranges(self, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        return self._storage.ranges(self._key, spans)
