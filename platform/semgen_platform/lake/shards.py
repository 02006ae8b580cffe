"""One pyramid level as a sharded Zarr v3 array: written chunk by chunk, read by box.

The bytes are those of the Zarr v3 `sharding_indexed` codec, so zarr-python, tensorstore and zarrs read them as they
are: inner chunks of 32x32x32, each Blosc LZ4 with shuffle and then crc32c; then the index of (offset, length) pairs as
little-endian u64 in C order with its own crc32c. Chunks of nothing but the fill value are left out. A level is one
shard, split along z where it would exceed 1 GiB. Written and parsed by hand because a crop then costs little more than
the decoding of its chunks (DESIGN.md section 8). What the levels of a volume are belongs to volumes.py.
Source: Zarr v3 specification, codecs sharding-indexed v1.0, blosc v1.0 and crc32c v1.0.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semgen_platform.errors import Damage, LakeError
from semgen_platform.lake.pyramid import Shape
from semgen_platform.lake.shard_bytes import ShardBytes
from semgen_platform.storage import write_durably

CHUNK = 32
FILL_HU = -1024
LARGEST_SHARD_BYTES = 2**30  # uncompressed
ABSENT = 2**64 - 1  # offset and length of a chunk that is all fill, by the sharding codec
CRC_BYTES = 4
CHUNKS_AT_ONCE = 256  # fetched before they are decoded: at most some 32 MiB of stored bytes
COMPRESSOR, COMPRESSION_LEVEL, SHUFFLE = "lz4", 5, "shuffle"
METADATA = "zarr.json"
WRITE_BYTES = 2**20

Voxels = NDArray[Any]


@dataclass(frozen=True)
class Shard:
    """Digest (BLAKE3, hexadecimal) and size of one shard file."""

    digest: str
    bytes: int


def write_level(folder: Path, voxels_ZYX: Voxels) -> list[Shard]:
    """Write an int16 or float32 level into a new folder; its shards in the order of z."""
    depth = _shard_depth(voxels_ZYX.shape, voxels_ZYX.dtype.itemsize)
    shards = []
    for number, z in enumerate(range(0, voxels_ZYX.shape[0], depth)):
        path = _shard_path(folder, number)
        path.parent.mkdir(parents=True)
        shards.append(_write_shard(path, voxels_ZYX[z : z + depth], depth))
    write_durably(folder / METADATA, json.dumps(_metadata(voxels_ZYX, depth), indent=1).encode())
    return shards


class StoredLevel:
    """A level open for reading: the indexes of its shards parsed and checked.

    metadata : the level's zarr.json, or None where there is none.  open_shard : the bytes of a shard by its number.
    name : how errors call it, such as "scan s... level 1".
    Raises Damage where a shard is absent, short or unlike its checksum; decoded chunks are checked as they are read.
    """

    def __init__(self, metadata: bytes | None, open_shard: Callable[[int], ShardBytes], name: str) -> None:
        self.name = name
        described = _parsed(metadata, name)
        self.shape_zyx: Shape = tuple(described["shape"])
        self.dtype = np.dtype(described["data_type"]).newbyteorder("<")
        self.fill = self.dtype.type(described["fill_value"])
        self._depth = int(described["chunk_grid"]["configuration"]["chunk_shape"][0])
        self._chunk: Shape = tuple(_sharding(described)["chunk_shape"])
        self._counts = tuple(-(-n // c) for n, c in zip(self.shape_zyx, self._chunk, strict=True))
        shards = -(-self.shape_zyx[0] // self._depth)
        self._shards = [self._indexed(open_shard, number) for number in range(shards)]
        self._decompress = _blosc().decompress

    def read(self, start_zyx: Shape, stop_zyx: Shape) -> Voxels:
        """Voxels of a box inside the level, in its dtype. Raises Damage for a chunk unlike its checksum."""
        out = np.empty([b - a for a, b in zip(start_zyx, stop_zyx, strict=True)], self.dtype)
        chunk = np.empty(self._chunk, self.dtype)
        for position, stored in self._stored_chunks(start_zyx, stop_zyx):
            corner = [p * c for p, c in zip(position, self._chunk, strict=True)]
            low = [max(a, c) for a, c in zip(start_zyx, corner, strict=True)]
            high = [min(b, c + n) for b, c, n in zip(stop_zyx, corner, self._chunk, strict=True)]
            into = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start_zyx, strict=True))
            if stored is None:
                out[into] = self.fill
                continue
            self._decode(position, stored, chunk)
            out[into] = chunk[tuple(slice(a - c, b - c) for a, b, c in zip(low, high, corner, strict=True))]
        return out

    def whole(self) -> Voxels:
        """All voxels of the level."""
        return self.read((0, 0, 0), self.shape_zyx)

    def _stored_chunks(self, start: Shape, stop: Shape) -> Iterator[tuple[tuple[int, ...], memoryview | None]]:
        """(position, stored bytes) of the chunks of a box, fetched CHUNKS_AT_ONCE; None: left out as all fill."""
        per_shard = self._depth // self._chunk[0]
        for number, of_shard in itertools.groupby(
            _chunks_between(start, stop, self._chunk), lambda position: position[0] // per_shard
        ):
            shard, index = self._shards[number]
            while positions := list(itertools.islice(of_shard, CHUNKS_AT_ONCE)):
                rows = [((z % per_shard) * self._counts[1] + y) * self._counts[2] + x for z, y, x in positions]
                spans = index[rows].tolist()
                stored = iter(shard.ranges([(offset, length) for offset, length in spans if offset != ABSENT]))
                for position, (offset, _) in zip(positions, spans, strict=True):
                    yield position, None if offset == ABSENT else next(stored)

    def _decode(self, position: tuple[int, ...], stored: memoryview, into: Voxels) -> None:
        if len(stored) <= CRC_BYTES or _crc32c(stored[:-CRC_BYTES]) != stored[-CRC_BYTES:]:
            raise Damage(f"{self.name}: chunk {position} differs from its checksum; run lake verify")
        self._decompress(stored[:-CRC_BYTES], into)

    def _indexed(self, open_shard: Callable[[int], ShardBytes], number: int) -> tuple[ShardBytes, NDArray[np.uint64]]:
        count = (self._depth // self._chunk[0]) * self._counts[1] * self._counts[2]
        size = count * 16
        try:
            shard = open_shard(number)
        except (OSError, ValueError) as error:
            raise Damage(f"{self.name}: its shard cannot be read ({error}); run lake verify") from None
        tail = shard.tail(size + CRC_BYTES)
        if len(tail) != size + CRC_BYTES or _crc32c(tail[:size]) != tail[size:]:
            raise Damage(f"{self.name}: the index of its shard is cut or differs from its checksum; run lake verify")
        return shard, np.frombuffer(tail[:size], dtype="<u8").reshape(count, 2)


def _write_shard(path: Path, voxels_ZYX: Voxels, depth: int) -> Shard:
    compress = _compressor()
    counts = (depth // CHUNK, *(-(-n // CHUNK) for n in voxels_ZYX.shape[1:]))
    index = np.full((int(np.prod(counts)), 2), ABSENT, dtype="<u8")
    with path.open("wb", buffering=0) as file:
        out = _Digested(file)
        for number, chunk in _full_chunks(voxels_ZYX, counts):
            compressed = compress(chunk)
            index[number] = out.size, len(compressed) + CRC_BYTES
            out.put(compressed)
            out.put(_crc32c(compressed))
        out.put(index.tobytes())
        out.put(_crc32c(index.tobytes()))
        out.flush()
        os.fsync(file.fileno())  # the row that makes it exist must not outlive it in a power cut
    return Shard(out.digest(), out.size)


class _Digested:
    """A file that is written and digested in pieces of one size: small ones cost calls, fresh memory costs more."""

    def __init__(self, file: io.RawIOBase) -> None:
        from blake3 import blake3

        self.size = 0
        self._file, self._hasher = file, blake3()
        self._buffer, self._filled = memoryview(bytearray(WRITE_BYTES)), 0

    def put(self, data: bytes) -> None:
        for start in range(0, len(data), WRITE_BYTES):
            piece = data[start : start + WRITE_BYTES]
            if self._filled + len(piece) > WRITE_BYTES:
                self.flush()
            self._buffer[self._filled : self._filled + len(piece)] = piece
            self._filled += len(piece)
        self.size += len(data)

    def flush(self) -> None:
        piece = self._buffer[: self._filled]
        self._hasher.update(piece)
        while piece:
            piece = piece[self._file.write(piece) :]  # a full disk takes a part
        self._filled = 0

    def digest(self) -> str:
        return str(self._hasher.hexdigest())


def _full_chunks(voxels_ZYX: Voxels, counts: tuple[int, ...]) -> Iterator[tuple[int, Voxels]]:
    """(number in the index, contiguous chunk) of every chunk with a voxel that is not fill; edges filled up.

    Chunks of one row along x are cut at once, since what is next to each other is read together.
    """
    fill = voxels_ZYX.dtype.type(FILL_HU)
    row = np.empty((counts[2], CHUNK, CHUNK, CHUNK), voxels_ZYX.dtype.newbyteorder("<"))
    for first, (z, y) in enumerate(itertools.product(*(range(0, n * CHUNK, CHUNK) for n in counts[:2]))):
        _cut(voxels_ZYX[z : z + CHUNK, y : y + CHUNK], row, fill)
        for x, chunk in enumerate(row):
            if chunk[0, 0, 0] != fill or (chunk != fill).any():
                yield first * counts[2] + x, chunk


def _cut(strip_ZYX: Voxels, row: Voxels, fill: Any) -> None:
    """Fill `row` (chunks, z, y, x) with the chunks of a strip that is one chunk high and deep.

    A line of a chunk is moved as one item, which takes half the time of moving its voxels.
    """
    depth, height, width = strip_ZYX.shape
    whole, line = width // CHUNK, f"V{CHUNK * row.itemsize}"
    if (depth, height, whole) != (CHUNK, CHUNK, len(row)):
        row[...] = fill
    if whole:
        lines = strip_ZYX[..., : whole * CHUNK].view(line)
        row[:whole, :depth, :height].view(line)[..., 0] = lines.transpose(2, 0, 1)
    if whole < len(row):
        row[whole, :depth, :height, : width - whole * CHUNK] = strip_ZYX[..., whole * CHUNK :]


def _chunks_between(start: Shape, stop: Shape, chunk: Shape) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(range(a // c, -(-b // c)) for a, b, c in zip(start, stop, chunk, strict=True)))


def _shard_depth(shape_zyx: tuple[int, ...], itemsize: int) -> int:
    """Slices per shard: all of them, rounded up to whole chunks, or as many as stay within the largest shard."""
    z, y, x = (-(-n // CHUNK) * CHUNK for n in shape_zyx)
    fitting = LARGEST_SHARD_BYTES // (y * x * itemsize) // CHUNK * CHUNK
    return max(CHUNK, min(z, fitting))


def shard_key(number: int) -> str:
    """Where a shard lies below its level."""
    return f"c/{number}/0/0"


def _shard_path(folder: Path, number: int) -> Path:
    return folder / shard_key(number)


def _metadata(voxels_ZYX: Voxels, depth: int) -> dict[str, Any]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "name": "blosc",
        "configuration": {
            "typesize": voxels_ZYX.dtype.itemsize,
            "cname": COMPRESSOR,
            "clevel": COMPRESSION_LEVEL,
            "shuffle": SHUFFLE,
            "blocksize": 0,
        },
    }
    sharding = {
        "chunk_shape": [CHUNK, CHUNK, CHUNK],
        "codecs": [little, blosc, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    shard_shape = [depth, *(-(-n // CHUNK) * CHUNK for n in voxels_ZYX.shape[1:])]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(voxels_ZYX.shape),
        "data_type": voxels_ZYX.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard_shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": FILL_HU,
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["z", "y", "x"],
        "attributes": {},
    }


def _parsed(metadata: bytes | None, name: str) -> dict[str, Any]:
    if metadata is None:
        raise Damage(f"{name} has no {METADATA}; run lake verify")
    try:
        described: dict[str, Any] = json.loads(metadata)
        codecs = [codec["name"] for codec in _sharding(described)["codecs"]]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Damage(f"{name}: its {METADATA} cannot be read ({error}); run lake verify") from None
    if codecs != ["bytes", "blosc", "crc32c"] or _sharding(described)["index_location"] != "end":
        raise LakeError(
            f"{name} is stored with codecs {', '.join(codecs)}, which this version does not read; upgrade it"
        )
    return described


def _sharding(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata["codecs"][0]["configuration"]


def _crc32c(data: Any) -> bytes:
    import crc32c

    return crc32c.crc32c(data).to_bytes(CRC_BYTES, "little")


def _blosc() -> Any:
    """numcodecs.blosc in its one-thread mode: chunks are small, workers many, and its threads hang after a fork."""
    import numcodecs.blosc

    numcodecs.blosc.use_threads = False
    return numcodecs.blosc


def _compressor() -> Callable[[Voxels], bytes]:
    blosc = _blosc()
    return lambda chunk: blosc.compress(chunk, COMPRESSOR.encode(), COMPRESSION_LEVEL, blosc.SHUFFLE, 0)
