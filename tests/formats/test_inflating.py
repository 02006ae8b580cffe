"""Compressed streams: whole ones against the standard library, damaged ones by their reasons, and never too much."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pytest

from semgen_platform.formats import inflating
from semgen_platform.formats.inflating import TRAILING_LIMIT, inflate_into
from semgen_platform.formats.refusing import Refused

SIZES = (1, 1000, inflating.OUTPUT_BYTES - 1, inflating.OUTPUT_BYTES, 3 * inflating.OUTPUT_BYTES + 17)


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes of a third of their size when compressed, so that input and output end at different places."""
    return np.random.default_rng(seed).integers(0, 6, size).astype(np.uint8).tobytes()


def inflated(data: bytes, size: int) -> bytes:
    out = np.zeros(size, np.uint8)
    return out[: inflate_into(out, io.BytesIO(data))].tobytes()


def reason(data: bytes, size: int) -> str:
    with pytest.raises(Refused) as caught:
        inflated(data, size)
    return caught.value.refusal.reasons[0]


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("input_bytes", [7000, inflating.INPUT_BYTES])
def test_what_was_compressed_comes_back_whatever_the_pieces(
    compress: Callable[[bytes], bytes], size: int, input_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflating, "INPUT_BYTES", input_bytes)
    data = noise(size)
    assert inflated(compress(data), size) == data
    less = max(1, size - 5000)
    assert inflated(compress(data), less) == data[:less]


def test_gzip_members_are_one_stream_even_where_there_are_thousands() -> None:
    data = noise(200_000)
    members = b"".join(gzip.compress(data[n : n + 100]) for n in range(0, len(data), 100))
    assert inflated(members, len(data)) == data


def test_one_byte_repeated_inflates_though_its_input_is_read_at_once() -> None:
    data = bytes(20 * inflating.OUTPUT_BYTES)
    assert inflated(gzip.compress(data), len(data)) == data


def test_a_short_stream_gives_what_it_has() -> None:
    data = noise(5000)
    assert inflated(gzip.compress(data), 6000) == data
    assert inflated(b"", 10) == b""


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
@pytest.mark.parametrize("missing", [1, 4, 8, 500])
def test_a_stream_that_breaks_off_is_truncated(compress: Callable[[bytes], bytes], missing: int) -> None:
    data = noise(100_000)
    assert reason(compress(data)[:-missing], len(data)) == "truncated"


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_checksum_that_differs_is_corrupt(compress: Callable[[bytes], bytes]) -> None:
    data = noise(100_000)
    whole = bytearray(compress(data))
    whole[-5 if compress is gzip.compress else -1] ^= 1
    assert reason(bytes(whole), len(data)) == "corrupt"


def test_what_is_no_stream_is_corrupt() -> None:
    assert reason(b"\x1f\x8b" + bytes(100), 50) == "corrupt"
    assert reason(bytes(100), 50) == "corrupt"
    assert reason(gzip.compress(noise(100)) + b"garbage", 200) == "corrupt"


def test_bytes_behind_the_end_are_inflated_to_the_checksum_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    data = noise(1000)
    assert inflated(gzip.compress(data + bytes(TRAILING_LIMIT - 1)), len(data)) == data
    bomb = io.BytesIO(gzip.compress(data + bytes(300 * TRAILING_LIMIT)))
    monkeypatch.setattr(inflating, "INPUT_BYTES", 1000)
    with pytest.raises(Refused, match="do not end"):
        inflate_into(np.zeros(len(data), np.uint8), bomb)
    assert bomb.tell() < 20_000  # a megabyte of zeros is about 1000 bytes of gzip


def test_flipped_bits_never_give_other_bytes() -> None:
    data = noise(20_000)
    whole, rng = gzip.compress(data, mtime=0), np.random.default_rng(5)
    for _ in range(300):
        packed = bytearray(whole)
        packed[rng.integers(10, len(packed))] ^= 1 << rng.integers(8)  # the header's time and name say nothing
        with suppress(Refused):
            assert inflated(bytes(packed), len(data)) == data
