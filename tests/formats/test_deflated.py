"""Deflated DICOM: read as pydicom reads it, and within bounds that pydicom does not have."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from tests.formats.conftest import Series

from semgen_platform.formats import deflated
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

DEFLATED = "1.2.840.10008.1.2.1.99"


def grown(path: Path, count: int) -> None:
    """Puts a private element of `count` zeros behind the pixels of a deflated file."""
    data = path.read_bytes()
    start = deflated._end_of_meta(data)
    plain = zlib.decompress(data[start:], wbits=-15)
    element = b"\xfe\x7f\x01\x10OB\0\0" + count.to_bytes(4, "little") + bytes(count)
    deflater = zlib.compressobj(9, wbits=-15)
    path.write_bytes(data[:start] + deflater.compress(plain + element) + deflater.flush())


def test_a_deflated_series_that_grows_beyond_its_bounds_is_refused_and_one_within_them_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deflated, "FREE_BYTES", 1 << 20)  # the ratio of a bomb is a real one
    made = Series(syntax=DEFLATED)
    folder = made.write(tmp_path)
    (source,) = list_sources(folder)
    volume = read_source(source)
    assert isinstance(volume, Volume)
    assert np.array_equal(volume.voxels, made.hu_ZYX)
    grown(next(folder.glob("*_7")), 1 << 22)
    refusals = [source.refusal for source in list_sources(folder) if source.refusal]
    assert [refusal.reasons for refusal in refusals] == [("decompression_bomb",)]


def test_a_deflated_file_that_was_cut_is_truncated(tmp_path: Path) -> None:
    folder = Series(syntax=DEFLATED).write(tmp_path)
    victim = next(folder.glob("*_7"))
    victim.write_bytes(victim.read_bytes()[:-100])
    results = [read_source(source) for source in list_sources(folder)]
    assert sorted(result.reasons for result in results if isinstance(result, Refusal)) == [
        ("missing_slices",), ("truncated",),
    ]  # fmt: skip
