"""The allow-list: what scanners write passes as it is, and what somebody may have typed does not."""

from __future__ import annotations

import pytest

from semgen_platform import privacy

REAL_VALUES = [
    ("kernel", "B30f"), ("kernel", "Br40d/3"), ("kernel", "STANDARD"), ("kernel", "BONE+"), ("kernel", "FC18-H"),
    ("kernel", "YB"), ("kernel", "I41s/2"), ("kernel", "BODY FILTER/STANDARD"), ("kernel", "SOFT"), ("kernel", "D33s"),
    ("model", "SOMATOM Definition AS+"), ("model", "LightSpeed VCT"), ("model", "Discovery CT750 HD"),
    ("model", "Aquilion ONE"), ("model", "Brilliance 64"), ("model", "iCT 256"), ("model", "Sensation 16"),
    ("model", "MX8000 IDT 16"), ("model", "HiSpeed CT/i"), ("model", "Ingenuity CT"), ("model", "uCT 760"),
    ("model", "NAEOTOM Alpha"), ("model", "Revolution CT"), ("model", "LightSpeed16"), ("model", "Biograph 64"),
    ("manufacturer", "SIEMENS"), ("manufacturer", "GE MEDICAL SYSTEMS"), ("manufacturer", "Philips"),
    ("manufacturer", "TOSHIBA"), ("manufacturer", "Canon Medical Systems"), ("manufacturer", "Siemens Healthineers"),
    ("body_part", "CHEST"), ("body_part", "ABDOMENPELVIS"), ("body_part", "HEAD"),
    ("orientation", "LPS"),
]  # fmt: skip

TYPED_VALUES = [
    "DOE^JANE", "Jane Doe", "Doe", "J O H N", "19700131", "1970-01-31", "31/01/1970", "31.01.70", "serial 123456",
    "MRN-4711", "a@b.c", "x" * 65, "Müller", "a\nb", "B30f Doe", "SIEMENS of Doe", "CHEST of Jane Doe",
    "SOMATOM Doe 64", "555-1234", "64", "", " ", "ZE8M30I", "Room 12, Dr. Smith",
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REAL_VALUES)
def test_what_scanners_write_passes_as_it_is(name: str, value: str) -> None:
    assert privacy.allowed({name: value}) == {name: value}


@pytest.mark.parametrize("name", ["kernel", "model", "manufacturer", "body_part", "orientation"])
@pytest.mark.parametrize("value", TYPED_VALUES)
def test_a_text_that_somebody_may_have_typed_does_not_pass(name: str, value: str) -> None:
    assert privacy.allowed({name: value}) == {}


def test_only_listed_attributes_of_the_listed_type_pass() -> None:
    found = privacy.allowed(
        {"kernel": "B30f", "kvp": 120.0, "contrast": True, "note": "x", "model": 3, "manufacturer": 1.0}
    )
    assert found == {"kernel": "B30f", "kvp": 120.0, "contrast": True}


@pytest.mark.parametrize("name", ["repair", "verdict", "study_date", "acquisition_date", "deidentification_codes"])
def test_what_only_we_write_is_taken_from_no_header(name: str) -> None:
    assert privacy.allowed({name: "ok"}) == privacy.allowed({name: ["ok"]}) == {}


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("kvp", 120.0, 19700131.0),
        ("tube_current_ma", 440.0, 4711815.0),
        ("exposure_mas", 90.5, 99999.0),
        ("slice_thickness_mm", 1.25, 0.0),
    ],
)
def test_a_number_that_cannot_be_what_it_is_called_does_not_pass(name: str, kept: float, dropped: float) -> None:
    assert privacy.allowed({name: kept}) == {name: kept}
    assert privacy.allowed({name: dropped}) == privacy.allowed({name: -kept}) == {}
    assert privacy.allowed({name: float("nan")}) == {}


@pytest.mark.parametrize(
    ("name", "value", "names"),
    [
        ("kernel", "SHARP", "Sharp^Becky"),
        ("kernel", "B30f", "B30F"),
        ("kernel", "WU/XU", "Wu^Xu"),
        ("kernel", "LI WU", "Li^Jing"),
        ("model", "Brilliance 64", "Brilliance Imaging Centre"),
        ("model", "Discovery CT750 HD", "CT750"),
        ("model", "LightSpeed16", "LIGHTSPEED"),
    ],
)
def test_a_listed_word_that_names_somebody_in_the_same_header_does_not_pass(name: str, value: str, names: str) -> None:
    assert privacy.allowed({name: value}) == {name: value}
    assert privacy.allowed({name: value}, privacy.words_in(names)) == {}


def test_short_words_of_names_do_not_take_kernels_away() -> None:
    names = privacy.words_in("Tan^Li^B") | privacy.words_in("64")
    kept = {"kernel": "STANDARD", "model": "Brilliance 64"}
    assert privacy.allowed(kept, names) == kept
