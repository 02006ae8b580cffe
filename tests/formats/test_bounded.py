"""Headers that ask for more than a header may: bounded bytes, elements and growth, with near misses that pass."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import pydicom
import pytest

from semgen_platform.formats import bounded
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.formats.source import Source
from semgen_platform.volume import Refusal, Volume

DEFLATED = "1.2.840.10008.1.2.1.99"


def only(root: Path) -> Source:
    (source,) = list_sources(root)
    return source


def reason(source: Source) -> str:
    return source.refusal.reasons[0] if source.refusal else ""


@pytest.mark.parametrize(("listed", "expected"), [(True, "too_large"), (False, "")])
def test_a_header_with_a_value_beyond_the_limit_is_refused_unless_it_is_skipped(
    listed: bool, expected: str, series: Any, make_ct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "HEADER_BYTES", 1_500_000)  # a scan of the first MiB comes before (dicom_scan.py)

    def large(n: int, dataset: Any) -> None:
        if listed:
            dataset.ConvolutionKernel = ["B30f"] * 400_000
        else:
            dataset.add_new((0x0029, 0x1010), "OB", bytes(2_000_000))

    implicit = "1.2.840.10008.1.2"  # in which any value may be long
    assert reason(only(series(hu_ZYX=make_ct()[:1], edit=large, syntax=implicit).write(tmp_path))) == expected


@pytest.mark.parametrize(("elements", "expected"), [(4_000, "too_large"), (400, "")])
def test_a_header_of_endlessly_many_elements_is_refused(
    elements: int, expected: str, series: Any, make_ct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "HEADER_READS", 4_000)

    def many(n: int, dataset: Any) -> None:
        for element in range(elements):
            dataset.add_new((0x0029, 0x1000 + element), "OB", b"")

    assert (
        reason(only(series(hu_ZYX=make_ct()[:1], edit=many, syntax="1.2.840.10008.1.2.2").write(tmp_path))) == expected
    )


def test_a_length_that_no_file_has_takes_no_memory(series: Any, make_ct: Any, tmp_path: Path) -> None:
    (file,) = series(hu_ZYX=make_ct()[:1]).write(tmp_path).iterdir()
    data = file.read_bytes()
    at = data.index(b"\x08\x00\x08\x00CS")  # ImageType: as OB of 4 GiB
    file.write_bytes(data[:at] + b"\x08\x00\x08\x00OB\0\0\xfe\xff\xff\xff" + data[at + 8 :])
    tracemalloc.start()
    try:
        assert only(tmp_path).kind == "dicom"
        assert tracemalloc.get_traced_memory()[1] < 2 * bounded.HEADER_BYTES
    finally:
        tracemalloc.stop()


def test_a_deflated_series_is_read_as_the_plain_one_is(series: Any, tmp_path: Path) -> None:
    results = []
    for syntax in (DEFLATED, "1.2.840.10008.1.2.1"):
        result = read_source(only(series(syntax=syntax).write(tmp_path / syntax)))
        assert isinstance(result, Volume)
        results.append(result)
    assert results[0].voxels.tobytes() == results[1].voxels.tobytes()
    assert results[0].ijk_to_lps_mm.tolist() == results[1].ijk_to_lps_mm.tolist()


def deflate_again(file: Path, grown: bytes) -> bytes:
    """The file's bytes with its data set deflated anew, with `grown` put before it."""
    data = file.read_bytes()
    meta = pydicom.filereader.read_file_meta_info(file)
    start = 128 + 4 + 12 + meta.FileMetaInformationGroupLength  # preamble, prefix, the length's own element
    body = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:])
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return data[:start] + packer.compress(grown + body) + packer.flush()


def first_element(size: int) -> bytes:
    return b"\x07\x00\x10\x10OB\0\0" + size.to_bytes(4, "little") + bytes(size)


@pytest.mark.parametrize(("grown", "expected"), [(1_500_000, "decompression_bomb"), (100_000, "")])
def test_a_deflated_data_set_that_grows_too_much_is_not_inflated(
    grown: int, expected: str, series: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "INFLATED_FREE", 300_000)
    for file in series(syntax=DEFLATED).write(tmp_path).iterdir():
        file.write_bytes(deflate_again(file, first_element(grown)))
    result = read_source(only(tmp_path))
    assert (result.reasons[0] if isinstance(result, Refusal) else "") == expected


def test_of_a_deflated_data_set_a_listing_inflates_no_more_than_a_header_may_have(
    series: Any, make_ct: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "HEADER_BYTES", 20_000)
    (file,) = series(hu_ZYX=make_ct()[:1], syntax=DEFLATED).write(tmp_path).iterdir()
    assert reason(only(tmp_path)) == ""
    file.write_bytes(deflate_again(file, first_element(10_000_000)))  # 10 KB in the file
    assert reason(only(tmp_path)) == "too_large"


def test_a_deflated_data_set_that_ends_early_is_truncated(series: Any, make_ct: Any, tmp_path: Path) -> None:
    (file,) = series(hu_ZYX=make_ct()[:1], syntax=DEFLATED).write(tmp_path).iterdir()
    file.write_bytes(file.read_bytes()[:-400])
    assert reason(only(tmp_path)) == "truncated"
