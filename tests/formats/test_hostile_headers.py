"""Header values that no writer writes: they neither end a listing nor take long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.formats.broken_volumes import DIRECTIONS, itk
from tests.formats.conftest import Series, ct_hu

from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

Read = Callable[..., Volume | Refusal]


def replaced(keyword: str, representation: str, value: Any) -> Callable[[int, Any], None]:
    """Writes an element under another value representation than its own."""

    def edit(n: int, dataset: Any) -> None:
        from pydicom.datadict import tag_for_keyword

        dataset.pop(keyword, None)
        dataset.add_new(tag_for_keyword(keyword), representation, value)

    return edit


@pytest.mark.parametrize("representation", ["US", "FD", "SQ", "OB", "PN"])
@pytest.mark.parametrize("keyword", ["ImageType", "ConvolutionKernel", "PatientID", "PixelSpacing", "Rows"])
def test_a_value_under_another_representation_does_not_end_the_listing(
    keyword: str, representation: str, tmp_path: Path
) -> None:
    from pydicom.dataset import Dataset

    values = {"US": 5, "FD": 0.5, "SQ": [Dataset()], "OB": b"\xff\xfe", "PN": "A^B"}
    edit = replaced(keyword, representation, values[representation])
    folder = Series(hu_ZYX=ct_hu((16, 24, 30))[:1], edit=edit).write(tmp_path)
    assert len(list(list_sources(folder))) == 1


def test_a_hundred_thousand_brackets_are_read_at_once(read_one: Read, tmp_path: Path) -> None:
    itk(".nrrd", (DIRECTIONS, f"space directions: {'(' * 100_000}"))(tmp_path)
    began = time.process_time()
    found = read_one(tmp_path / "in")
    assert time.process_time() - began < 1.0  # it was 10 s where each bracket was a search to the end
    assert isinstance(found, Refusal)
    assert found.reasons == ("missing_geometry",)
