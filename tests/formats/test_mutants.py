"""Fuzzing: whatever is changed in a file, it becomes a scan or a reason, and nothing crashes, hangs or escapes.

A failure names the number of its mutant; `mutations.mutant(seeds(folder), number)` makes it again.
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tests.formats.broken import CT_AFFINE, nifti_bytes
from tests.formats.broken_volumes import image_of, itk
from tests.formats.conftest import Series, ct_hu
from tests.formats.mutations import STAGES, Outcome, Seed, attempt, mutant

from semgen_pipelines.isolation import Crashed, Isolated, TimedOut

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 10.0  # of a mutant, which takes some milliseconds
MEMORY_BYTES = 2 << 30  # of the process that reads it; no seed has more than some ten thousand bytes
HU = np.ascontiguousarray(ct_hu((8, 40, 48))[2:6, 2:34, 4:37])

NATIVE = "1.2.840.10008.1.2"
PIXEL_TAGS = {"<": b"\xe0\x7f\x10\x00", ">": b"\x7f\xe0\x00\x10"}


def described(n: int, dataset: Any) -> None:
    """What real headers have besides: a character set, nested sequences, private elements."""
    from pydicom.dataset import Dataset

    inner, outer = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "T-D1100", "Head"
    outer.PurposeOfReferenceCodeSequence = [inner]
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ReferencedImageSequence = [outer]
    dataset["ReferencedImageSequence"].is_undefined_length = True
    dataset.add_new((0x0009, 0x0010), "LO", "PRIVATE")
    dataset.add_new((0x0009, 0x1001), "OB", bytes(10))


def dicom_seed(folder: Path, syntax: str, packing: str = "") -> Seed:
    """The second slice of a series, among the others."""
    series = Series(hu_ZYX=HU, syntax=NATIVE + syntax, edit=described).write(folder / f"dicom{syntax}{packing}")
    files = [(path.name, path.read_bytes()) for path in series.iterdir()]
    (name, data), *others = sorted(files, key=lambda file: not file[0].endswith("_1"))
    packed_at = 0
    if packing == "deflated":
        packed_at = 144 + struct.unpack("<I", data[140:144])[0]  # behind the meta elements, by their group length
        data = data[:packed_at] + zlib.decompress(data[packed_at:], wbits=-15)
    order = ">" if syntax == ".2" else "<"
    pixels_at = data.rindex(PIXEL_TAGS[order]) + 12
    return Seed("dicom", name, data, pixels_at, tuple(others), packing, order, implicit=not syntax, packed_at=packed_at)


def nifti_seed(packing: str = "") -> Seed:
    return Seed("nifti", "a.nii", nifti_bytes(HU.T), 352, packing=packing)


def nifti_2_seed() -> Seed:
    data = nibabel.Nifti2Image(HU.T, CT_AFFINE).to_bytes()
    return Seed("nifti", "a.nii", data, 544)


def pair_seed() -> Seed:
    data = bytearray(nifti_bytes(HU.T, vox_offset=0, magic=b"ni1"))
    return Seed("nifti", "a.hdr", bytes(data[:348]), 348, (("a.img", bytes(data[352:])),))


def itk_seed(folder: Path, suffix: str, end: bytes, *, compressed: bool = False, packing: str = "") -> Seed:
    """A file by SimpleITK; `end` is the last text of its header, "" where the voxels lie elsewhere."""
    folder = folder / f"itk{suffix}{compressed}{packing}"
    folder.mkdir()
    itk(suffix, data=image_of(HU), compressed=compressed)(folder)
    others = tuple((path.name, path.read_bytes()) for path in (folder / "in").iterdir() if path.suffix != suffix)
    data = (folder / "in" / f"a{suffix}").read_bytes()
    pixels_at = data.index(end) + len(end) if end else len(data)
    return Seed(suffix[1:], f"a{suffix}", data, pixels_at, others, packing)


def all_seeds(folder: Path) -> list[Seed]:
    return [
        *[dicom_seed(folder, syntax) for syntax in ("", ".1", ".2", ".5", ".4.90", ".4.80")],
        dicom_seed(folder, ".1.99", "deflated"),
        *[dicom_seed(folder, ".1", packing) for packing in ("zip", "tar", "tar.gz")],
        *[nifti_seed(packing) for packing in ("", "gzip", "zip", "tar", "tar.gz")],
        nifti_2_seed(),
        pair_seed(),
        *[itk_seed(folder, ".nrrd", b"\n\n", compressed=compressed) for compressed in (False, True)],
        *[itk_seed(folder, ".mha", b"LOCAL\n", compressed=compressed) for compressed in (False, True)],
        itk_seed(folder, ".nhdr", b""),
        itk_seed(folder, ".mhd", b"", packing="zip"),
    ]


def outcomes_of(seeds: Sequence[Seed], numbers: range, scratch: Path) -> list[Outcome]:
    """Each mutant in a child process that lasts until it crashes or hangs."""
    isolated: Isolated[int, Outcome] = Isolated(partial(attempt, seeds, scratch), TIME_LIMIT_S, MEMORY_BYTES)
    found = []
    for number in numbers:
        try:
            found.append(isolated(number))
        except (Crashed, TimedOut) as error:
            made = mutant(seeds, number)
            found.append(Outcome(made.seed.kind, STAGES[0], made.said, repr(error)))
    isolated.close()
    return found


def table(outcomes: Sequence[Outcome]) -> str:
    counts = Counter((outcome.kind, outcome.stage) for outcome in outcomes)
    totals = Counter(outcome.stage for outcome in outcomes)
    lines = [["mutants of", *STAGES]]
    lines += [[kind, *(str(counts[kind, stage]) for stage in STAGES)] for kind in sorted({kind for kind, _ in counts})]
    lines += [["all", *(str(totals[stage]) for stage in STAGES)]]
    return "\n".join(f"{name:16}" + "".join(f"{text:>8}" for text in texts) for name, *texts in lines)


@pytest.mark.parametrize(
    "numbers", [range(200), pytest.param(range(200, 5000), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_mutant_becomes_a_scan_or_a_reason(
    numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "scratch" / "tmp").mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch" / "tmp"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
    outcomes = outcomes_of(all_seeds(tmp_path), numbers, tmp_path / "scratch")
    with capsys.disabled():
        print(f"\n{table(outcomes)}")
    problems = [
        f"mutant {number}, {found.said}: {found.problem}"
        for number, found in zip(numbers, outcomes, strict=True)
        if found.problem
    ]
    assert not problems, "\n".join(problems[:20])
    assert sum(found.stage in STAGES[2:] for found in outcomes) >= len(outcomes) / 2
    assert [path.name for path in (tmp_path / "scratch").rglob("*")] == ["tmp"]


def test_a_mutant_is_made_again_from_its_number(tmp_path: Path) -> None:
    seeds = all_seeds(tmp_path)
    assert mutant(seeds, 17) == mutant(seeds, 17)
    assert len({mutant(seeds, n).said for n in range(500)}) > 400
    assert np.mean([mutant(seeds, n).files != mutant(seeds, n + len(seeds)).files for n in range(50)]) > 0.9
