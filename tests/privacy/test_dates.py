"""Dates: invalid and improbable ones are dropped, and intervals survive the shift."""

from __future__ import annotations

from datetime import date

import pytest

from semgen_platform import privacy

NEWEST = date(2026, 7, 1)


@pytest.mark.parametrize(("text", "found"), [("20190302", date(2019, 3, 2)), ("2019.03.02", date(2019, 3, 2))])
def test_both_notations_of_the_standard_are_read(text: str, found: date) -> None:
    assert privacy.parsed_date(text, NEWEST) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2019",
        "20190230",
        "20191301",
        "2019-03-02",
        "19190302T",
        "Doe",
        "\uff12\uff10\uff11\uff19\uff10\uff13\uff10\uff12",
        "00000000",
        "20190302 ",
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert privacy.parsed_date(text, NEWEST) is None


@pytest.mark.parametrize("text", ["19000101", "19700101", "19710930", "20260702", "20991231", "99991231"])
def test_a_place_holder_would_give_the_shift_away_and_is_dropped(text: str) -> None:
    assert privacy.parsed_date(text, NEWEST) is None


def test_the_first_and_the_last_possible_day_are_dates() -> None:
    assert privacy.parsed_date("19711001", NEWEST) == date(1971, 10, 1)
    assert privacy.parsed_date("20260701", NEWEST) == NEWEST


def test_all_dates_move_by_the_same_number_of_days() -> None:
    dates = {"study_date": date(2020, 3, 1), "acquisition_date": date(2020, 2, 28)}
    assert privacy.shifted_dates(dates, 60) == {"study_date": "2020-01-01", "acquisition_date": "2019-12-30"}


def test_codes_say_what_was_done_to_dates() -> None:
    assert privacy.method_codes(dates_shifted=False) == ["113100", "113105"]
    assert privacy.method_codes(dates_shifted=True) == ["113100", "113105", "113107"]
