"""The corpus of broken series and files: each is refused for its reasons, and its near miss is read exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.formats.broken import Case
from tests.formats.broken_corpus import CASES
from tests.formats.oracle import assert_same_scan, scan_of

from semgen_platform.formats import archive
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import REASONS, Refusal, Volume

GIVEN_BY_PIPELINES = {"timed_out"}
"""No reader measures time; tests/pipelines/test_ingest.py has the source that takes too long, and its near miss."""

OF_ONE_FORMAT = {
    # only DICOM has objects, series of slices and transfer syntaxes
    "localizer", "secondary_capture", "dose_report", "structured_report", "presentation_state", "segmentation",
    "rt_object", "not_ct_modality", "unsupported_transfer_syntax", "decoder_failed", "missing_slices",
    "uneven_spacing", "duplicate_position", "gantry_tilt", "inconsistent_orientation", "inconsistent_shape",
    "ambiguous_split",
    # only zip can be encrypted
    "encrypted",
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.format}: {case.name}")


def results_of(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Volume | Refusal]:
    """What all sources below `in` come to."""
    for name, value in case.limits.items():
        monkeypatch.setattr(archive, name, value)
    return [read_source(source) for source in list_sources(folder / "in")]


@every_case
def test_what_is_broken_is_refused_for_its_reasons(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case.broken(tmp_path)
    results = results_of(case, tmp_path, monkeypatch)
    assert [result.reasons for result in results if isinstance(result, Refusal)] == [case.reasons]
    assert len(results) == 1
    assert str(tmp_path) not in repr(results)


@every_case
def test_its_near_miss_is_a_scan_that_lies_where_another_reader_puts_it(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.near_miss(tmp_path)
    results = results_of(case, tmp_path, monkeypatch)
    (volume,) = (result for result in results if isinstance(result, Volume))
    assert all(result.reasons == ("not_an_image",) for result in results if isinstance(result, Refusal))
    assert np.isfinite(volume.voxels).all()
    plain = tmp_path / "plain"
    assert_same_scan(volume, scan_of(plain if plain.exists() else tmp_path / "in"), within_mm=case.within_mm)


def test_the_corpus_has_every_reason_in_two_formats_where_two_can_have_it() -> None:
    formats = {reason: {case.format for case in CASES if reason in case.reasons} for reason in REASONS}
    lacking = {reason for reason, found in formats.items() if len(found) < 2}
    assert lacking == OF_ONE_FORMAT | GIVEN_BY_PIPELINES
    assert {reason for reason, found in formats.items() if not found} == GIVEN_BY_PIPELINES


def test_the_corpus_has_at_least_sixty_broken_things_of_different_names() -> None:
    assert len({(case.format, case.name) for case in CASES}) == len(CASES) >= 60
