"""Names, hints of captured screens and dates in DICOM headers, from files that pydicom wrote."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from semgen_platform.formats.dicom_privacy import dates_of, names_in, shows_capture
from semgen_platform.formats.place import Place
from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]
TODAY = date(2026, 7, 1)


def read(series: Any, read_one: Read, folder: Path, **tags: Any) -> Volume:
    """The volume of a series with these tags in every slice."""

    def edit(n: int, dataset: Any) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    found = read_one(series(edit=edit).write(folder))
    assert isinstance(found, Volume), found
    return found


@pytest.mark.parametrize(
    "tags",
    [
        {"BurnedInAnnotation": "YES"},
        {"RecognizableVisualFeatures": "YES"},
        {"ConversionType": "WSD"},
        {"ConversionType": "SI"},
        {"SecondaryCaptureDeviceManufacturer": "Some workstation"},
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER"]},
        {"ImageType": ["DERIVED", "PRIMARY", "SCREEN CAPTURE"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "SNAPSHOT"]},
    ],
    ids=str,
)
def test_hints_of_a_captured_screen_flag_the_scan_and_do_not_refuse_it(
    tags: dict[str, Any], series: Any, read_one: Read, tmp_path: Path
) -> None:
    assert "burned_in_hint" in read(series, read_one, tmp_path, **tags).flags


@pytest.mark.parametrize(
    "tags",
    [
        {"BurnedInAnnotation": "NO", "RecognizableVisualFeatures": "NO", "ConversionType": ""},
        {"ConversionType": "SYN"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"ImageType": ""},
    ],
    ids=str,
)
def test_reconstructions_are_not_flagged(tags: dict[str, Any], series: Any, read_one: Read, tmp_path: Path) -> None:
    assert "burned_in_hint" not in read(series, read_one, tmp_path, **tags).flags


@pytest.mark.parametrize("group", [0x6000, 0x601E])
def test_an_overlay_in_one_slice_flags_the_scan(group: int, series: Any, read_one: Read, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        if n == 7:
            dataset.add_new((group, 0x0010), "US", dataset.Rows)
            dataset.add_new((group, 0x0011), "US", dataset.Columns)
            dataset.add_new((group, 0x3000), "OW", bytes(dataset.Rows * dataset.Columns // 8))

    volume = read_one(series(edit=edit).write(tmp_path))
    assert isinstance(volume, Volume)
    assert "burned_in_hint" in volume.flags


def test_a_kernel_or_model_with_a_name_of_the_same_header_is_dropped(
    series: Any, read_one: Read, tmp_path: Path
) -> None:
    plain = {"ConvolutionKernel": "SHARP", "ManufacturerModelName": "Brilliance 64", "BodyPartExamined": "CHEST"}
    kept = read(series, read_one, tmp_path / "kept", **plain).attributes
    assert (kept["kernel"], kept["model"], kept["body_part"]) == ("SHARP", "Brilliance 64", "CHEST")
    named_by: list[dict[str, Any]] = [{"OperatorsName": "Sharp^Becky"}, {"OtherPatientIDs": ["x1", "SHARP"]}]
    for number, named in enumerate(named_by):
        found = read(series, read_one, tmp_path / str(number), **plain, **named).attributes
        assert "kernel" not in found
        assert found["model"] == "Brilliance 64"
    where = read(series, read_one, tmp_path / "where", **plain, InstitutionName="Brilliance Hospital").attributes
    assert (where["kernel"], "model" in where) == ("SHARP", False)


@pytest.mark.parametrize("keyword", ["ConvolutionKernel", "ManufacturerModelName", "Manufacturer", "BodyPartExamined"])
def test_a_name_typed_into_a_technical_field_stays_in_the_file(
    keyword: str, series: Any, read_one: Read, tmp_path: Path
) -> None:
    volume = read(series, read_one, tmp_path, **{keyword: "JANE DOE"})
    assert "DOE" not in repr(volume.attributes)


def test_kernels_that_may_not_leave_the_file_still_part_a_series(series: Any, read_one: Read, tmp_path: Path) -> None:
    def edit(n: int, dataset: Any) -> None:
        dataset.ConvolutionKernel = "of Doe" if n == 3 else "of Roe"

    found = read_one(series(edit=edit).write(tmp_path))
    assert isinstance(found, Refusal)
    assert found.reasons[0] == "ambiguous_split"
    assert "Doe" not in f"{found.sentence}{found.evidence}"


def dates(series: Any, folder: Path, **tags: Any) -> dict[str, date]:
    def edit(n: int, dataset: Any) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    path = next(series(edit=edit).write(folder).iterdir())
    return dates_of(Place(str(path)), TODAY)


def test_the_dates_of_study_and_acquisition_are_read(series: Any, tmp_path: Path) -> None:
    found = dates(series, tmp_path / "a", StudyDate="20190302", AcquisitionDate="20190303", PatientBirthDate="19500101")
    assert found == {"study_date": date(2019, 3, 2), "acquisition_date": date(2019, 3, 3)}
    found = dates(series, tmp_path / "b", AcquisitionDateTime="20190303101500.250000+0100")
    assert found == {"acquisition_date": date(2019, 3, 3)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", ["", "19000101", "20990101", "20190231", "unknown!"])
def test_invalid_dates_are_dropped_and_raise_nothing(text: str, series: Any, tmp_path: Path) -> None:
    assert dates(series, tmp_path, StudyDate=text) == {}


def test_dates_of_a_file_that_is_none_are_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no DICOM")
    assert dates_of(Place(str(tmp_path / "a")), TODAY) == dates_of(Place(str(tmp_path / "absent")), TODAY) == {}


def test_the_headers_of_frames_are_read_as_those_of_files() -> None:
    """Frames of a multi-frame object come as keyword and value."""
    assert {"sharp", "becky", "x77"} <= names_in({"PatientName": "Sharp^Becky", "OtherPatientIDs": ["x77", "y88"]})
    assert names_in({}) == frozenset()
    assert shows_capture({"OverlayRows": 512})
    assert shows_capture({"ImageType": ["DERIVED", "SECONDARY"]})
    assert not shows_capture({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"]})
