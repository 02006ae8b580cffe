"""The quick look at headers: what it says is what pydicom says, and what it does not understand it leaves alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from semgen_platform.formats.dicom import HEADER_TAGS
from semgen_platform.formats.dicom_header import read_dataset
from semgen_platform.formats.dicom_object import LISTING_TAGS
from semgen_platform.formats.dicom_scan import ScannedHeader, scan_header
from semgen_platform.formats.pixels import PixelReader, encoded
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused

REAL = Path(__file__).parents[3] / "shared" / "data" / "real"
TAGS = tuple(dict.fromkeys([*HEADER_TAGS, *LISTING_TAGS]))
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"

pytestmark = pytest.mark.filterwarnings("ignore")


def scanned(data: bytes) -> ScannedHeader | None:
    return scan_header(io.BytesIO(data), TAGS)


def value(header: Any, keyword: str) -> str:
    try:
        return repr(header.get(keyword))
    except Exception as error:
        return type(error).__name__


def differing(header: ScannedHeader, data: bytes) -> list[str]:
    """Keywords of which pydicom says something else, and whatever else it sees in another way."""
    dataset = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(TAGS), force=True)
    wrong = [keyword for keyword in TAGS if value(header, keyword) != value(dataset, keyword)]
    wrong += [keyword for keyword in TAGS if (keyword in header) != (keyword in dataset)]
    wrong += [name for name in header.file_meta if header.file_meta[name] != dataset.file_meta.get(name)]
    return wrong + ["encoding"] * (header.original_encoding != dataset.original_encoding)


def crowded(n: int, dataset: Any) -> None:
    """Nested sequences of every kind of length, private blocks, a second character set, odd and empty values."""
    inner = Dataset()
    inner.ReferencedSOPInstanceUID = "1.2.3"
    inner.PurposeOfReferenceCodeSequence = Sequence([Dataset()])
    inner.PurposeOfReferenceCodeSequence[0].CodeValue = "121311"
    outer = Dataset()
    outer.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    outer.ReferencedImageSequence = Sequence([inner])
    for keyword, undefined in (("ReferencedImageSequence", True), ("SourceImageSequence", False)):
        setattr(dataset, keyword, Sequence([outer, inner]))
        dataset[keyword].is_undefined_length = undefined
        dataset[keyword].value[0].is_undefined_length_sequence_item = undefined
    dataset.RequestAttributesSequence = Sequence([])
    dataset.private_block(0x0019, "MAKER", create=True).add_new(0x01, "SQ", Sequence([inner]))
    dataset.private_block(0x0029, "MAKER", create=True).add_new(0x10, "OB", bytes(20_001))
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName, dataset.ConvolutionKernel = "Müller^Żaneta", ["B30f", "3"]
    dataset.ContrastBolusAgent, dataset.KVP, dataset.PixelPaddingValue = "", None, 63536


def files(series: Any, folder: Path) -> Iterator[tuple[str, bytes]]:
    """One slice in each encoding that is scanned, with a plain and with a crowded header."""
    for syntax in (IMPLICIT, EXPLICIT, RLE):
        for edit in (lambda n, dataset: None, crowded):
            place = folder / f"{syntax}{edit is crowded}"
            series(hu_ZYX=np.zeros((1, 16, 16), np.int16), syntax=syntax, edit=edit).write(place)
            yield place.name, next(place.iterdir()).read_bytes()


def test_every_value_is_the_one_that_pydicom_gives(series: Any, tmp_path: Path) -> None:
    for name, data in files(series, tmp_path):
        header = scanned(data)
        assert header is not None, name
        assert differing(header, data) == [], name
        _, offset, length = header.pixel_data
        if not name.startswith(RLE):
            assert data[offset : offset + length] == pydicom.dcmread(io.BytesIO(data)).PixelData


def test_damaged_headers_are_seen_as_pydicom_sees_them_or_left_to_it(series: Any, tmp_path: Path) -> None:
    rng, seen = np.random.default_rng(7), 0
    for name, data in files(series, tmp_path):
        _, end, _ = scanned(data).pixel_data  # type: ignore[union-attr]
        for _ in range(150):
            mutant = bytearray(data)
            for _ in range(rng.integers(1, 4)):
                place, size = int(rng.integers(132, min(end, 2500))), int(rng.integers(1, 3))
                shifted = rng.random() < 0.1  # else the rest stays where its lengths say
                mutant[place : place + size] = rng.bytes(int(rng.integers(0, 4)) if shifted else size)
            header = scanned(bytes(mutant))
            if header is not None:
                seen += 1
                assert differing(header, bytes(mutant)) == [], name
    assert seen > 300  # of 900: else this would say little


def edited(data: bytes, tag: bytes, new: bytes) -> bytes:
    at = data.index(tag)
    return data[:at] + new + data[at + len(new) :]


def test_the_unusual_is_left_to_pydicom(series: Any, tmp_path: Path) -> None:
    found = dict(files(series, tmp_path))
    explicit, implicit = found[f"{EXPLICIT}False"], found[f"{IMPLICIT}False"]
    assert scanned(b"") is None
    assert scanned(explicit[132:]) is None, "no preamble"
    assert scanned(explicit[:600]) is None, "no pixel data"
    assert scanned(edited(explicit, b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00ZZ")) is None, "an unknown VR"
    assert scanned(edited(explicit, b"\x28\x00\x10\x00US", b"\xfe\xff\x0d\xe0\0\0")) is None, "a stray delimiter"
    assert scanned(explicit.replace(EXPLICIT.encode() + b"\0", BIG.encode() + b"\0")) is None
    assert scanned(implicit.replace(IMPLICIT.encode() + b"\0", EXPLICIT.encode()[:18])) is None, "it is implicit"
    for syntax in (BIG, DEFLATED):
        place = tmp_path / syntax
        series(hu_ZYX=np.zeros((1, 16, 16), np.int16), syntax=syntax).write(place)
        assert scanned(next(place.iterdir()).read_bytes()) is None


def test_a_sequence_that_is_asked_for_is_left_to_pydicom(series: Any, tmp_path: Path) -> None:
    def table(n: int, dataset: Any) -> None:
        dataset.ModalityLUTSequence = Sequence([Dataset()])

    series(hu_ZYX=np.zeros((1, 16, 16), np.int16), edit=table).write(tmp_path)
    assert scanned(next(tmp_path.iterdir()).read_bytes()) is None


def test_endless_nesting_is_no_crash() -> None:
    meta = b"\x02\x00\x10\x00UI\x14\x00" + EXPLICIT.encode() + b"\0"
    nested = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    with pytest.raises(RecursionError):  # which read_dataset refuses as a corrupt header, as it does pydicom's own
        scanned(bytes(128) + b"DICM" + meta + nested * 50_000)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real test images are not here")
def test_real_files_are_seen_as_pydicom_sees_them() -> None:
    seen = 0
    for path in sorted(path for path in REAL.rglob("*") if path.is_file()):
        data = path.read_bytes()
        header = scanned(data)
        if header is not None:
            seen += 1
            assert differing(header, data) == [], path.name
    assert seen > 50


def stored_pixels(path: Path) -> Any:
    place = Place(str(path))
    item = encoded(place, read_dataset(place, tags=HEADER_TAGS), None)
    return item, PixelReader().stored(item)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("bits", [16, 12, 1])
def test_plain_pixels_are_those_of_pydicom_whatever_the_unused_bits_hold(
    syntax: str, signed: int, bits: int, series: Any, tmp_path: Path
) -> None:
    rng = np.random.default_rng(8)

    def filled(n: int, dataset: Any) -> None:
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = signed, bits, bits - 1
        dataset.PixelData = rng.bytes(16 * 16 * 2)

    series(hu_ZYX=np.zeros((1, 16, 16), np.int16), syntax=syntax, edit=filled).write(tmp_path)
    path = next(tmp_path.iterdir())
    item, pixels = stored_pixels(path)
    expected = pydicom.dcmread(path).pixel_array
    assert item.plain is not None
    assert pixels.dtype == expected.dtype
    assert np.array_equal(pixels, expected)


def odd_length(n: int, dataset: Any) -> None:
    dataset.PixelData += bytes(100)


def followed(n: int, dataset: Any) -> None:
    dataset.DataSetTrailingPadding = bytes(50)


def bytes_only(n: int, dataset: Any) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = dataset.PixelData[::2]


@pytest.mark.parametrize(("edit", "plain"), [(odd_length, True), (followed, False), (bytes_only, False)])
def test_other_layouts_are_read_too_and_only_plain_ones_without_pydicom(
    edit: Any, plain: bool, series: Any, tmp_path: Path
) -> None:
    series(hu_ZYX=np.full((1, 16, 16), 40, np.int16), edit=edit).write(tmp_path)
    path = next(tmp_path.iterdir())
    item, pixels = stored_pixels(path)
    assert (item.plain is not None) == plain
    assert np.array_equal(pixels, pydicom.dcmread(path).pixel_array)


@pytest.mark.parametrize(
    ("keyword", "wrong"),
    [("SamplesPerPixel", None), ("PhotometricInterpretation", "GREY"), ("BitsStored", 17), ("PixelRepresentation", 2)],
)
def test_a_layout_that_pydicom_refuses_is_refused(keyword: str, wrong: Any, series: Any, tmp_path: Path) -> None:
    def broken(n: int, dataset: Any) -> None:
        setattr(dataset, keyword, wrong)

    series(hu_ZYX=np.zeros((1, 16, 16), np.int16), edit=broken).write(tmp_path)
    with pytest.raises(Refused) as caught:
        stored_pixels(next(tmp_path.iterdir()))
    assert caught.value.refusal.reasons == ("decoder_failed",)


def test_a_file_that_was_cut_after_its_header_was_read_is_truncated(series: Any, tmp_path: Path) -> None:
    series(hu_ZYX=np.zeros((1, 16, 16), np.int16)).write(tmp_path)
    path = next(tmp_path.iterdir())
    item, _ = stored_pixels(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Refused, match="end early"):
        PixelReader().stored(item)
