"""Every DICOM series that is accepted lies, voxel for voxel, where dcm2niix and SimpleITK put it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.conftest import Series, ct_hu
from tests.formats.oracle import assert_same_scan, by_dcm2niix, by_simpleitk

from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "real"
Read = Callable[..., Volume | Refusal]

SHAPE_ZYX = (16, 33, 40)
NATIVE = "1.2.840.10008.1.2"
SYNTAXES = {
    "implicit": NATIVE,
    "explicit": NATIVE + ".1",
    "big endian": NATIVE + ".2",
    "deflated": NATIVE + ".1.99",
    "RLE": NATIVE + ".5",
    "JPEG 2000": NATIVE + ".4.90",
    "JPEG-LS": NATIVE + ".4.80",
}
ORIENTATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "axial, from the feet": ((1, 0, 0), (0, 1, 0)),
    "prone": ((-1, 0, 0), (0, -1, 0)),
    "axial, towards the feet": ((-1, 0, 0), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "oblique in plane": ((0.96, 0.28, 0), (-0.28, 0.96, 0)),
    "oblique through plane": ((1, 0, 0), (0, 0.8, 0.6)),
    "oblique twice": ((0.8, 0.48, 0.36), (-0.6, 0.64, 0.48)),
}


def even_hu() -> Any:
    return ct_hu(SHAPE_ZYX) // 2 * 2  # which a slope of 2 can hold


def signed(n: int, dataset: Any) -> None:
    hu = np.frombuffer(dataset.PixelData, "<u2").astype(int) - 1024
    dataset.PixelRepresentation, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = hu.astype("<i2").tobytes()


def reversed_numbers(n: int, dataset: Any) -> None:
    dataset.InstanceNumber = n + 1  # Series numbers its slices from the last on


def tagged(**tags: Any) -> Callable[[int, Any], None]:
    def edit(n: int, dataset: Any) -> None:
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)

    return edit


CASES: dict[str, dict[str, Any]] = {
    **{name: {"syntax": uid} for name, uid in SYNTAXES.items()},
    **{name: {"row": row, "column": column} for name, (row, column) in ORIENTATIONS.items()},
    "numbered upwards": {"edit": reversed_numbers},
    "a slope for each slice": {"hu_ZYX": even_hu(), "slopes": (1.0, 2.0, 0.5, 0.25)},
    "one fractional slope": {"slopes": (0.3,)},
    "signed": {"edit": signed},
    "MONOCHROME1": {"edit": tagged(PhotometricInterpretation="MONOCHROME1")},
    "12 bits": {"edit": tagged(BitsStored=12, HighBit=11)},
    "thin slices": {"spacing_zyx_mm": (0.4, 0.8, 0.7)},
    "far from the origin": {"origin_xyz_mm": (-250.125, -512.375, -1801.5)},
}
CANNOT = {  # (reader, series): why the other reader alone speaks
    ("dcm2niix", "deflated"): "it does not inflate",
    ("SimpleITK", "MONOCHROME1"): "it turns stored values round, as for a display",
}
ROUNDED = {("dcm2niix", "one fractional slope"): 1e-3}
"""HU by which a reader differs: NIfTI keeps a slope in float32."""


@pytest.mark.parametrize("name", CASES)
def test_a_series_lies_where_independent_readers_put_it(name: str, read_one: Read, tmp_path: Path) -> None:
    folder = Series(**{"hu_ZYX": ct_hu(SHAPE_ZYX), **CASES[name]}).write(tmp_path / "series")
    volume = read_one(folder)
    assert isinstance(volume, Volume), volume
    assert ("oblique" in volume.flags) == ("oblique" in name)
    readers = {"dcm2niix": lambda: by_dcm2niix(folder, tmp_path / "out"), "SimpleITK": lambda: by_simpleitk(folder)}
    able = [reader for reader in readers if (reader, name) not in CANNOT]
    assert able
    for reader in able:
        assert_same_scan(volume, readers[reader](), within_hu=ROUNDED.get((reader, name), 0.0))


@pytest.mark.skipif(not REAL.is_dir(), reason="the real files (../shared/data/real) are not here")
@pytest.mark.parametrize("name", ["dcmqa_philips_j2k", "slicer_cthead_dicom", "torchio_mr_tagged_ct"])
def test_a_real_series_lies_where_dcm2niix_puts_it(name: str, tmp_path: Path) -> None:
    from semgen_platform.formats.reader import read_source

    (source,) = (source for source in list_sources(REAL / name) if source.kind == "dicom")
    volume = read_source(source)
    assert isinstance(volume, Volume), volume
    assert_same_scan(volume, by_dcm2niix(REAL / name, tmp_path / "out"))


@pytest.mark.parametrize("fault", ["a voxel", "a mirrored axis", "half a voxel"])
def test_the_comparison_itself_notices_a_fault(fault: str, read_one: Read, tmp_path: Path) -> None:
    from dataclasses import replace

    folder = Series(hu_ZYX=ct_hu(SHAPE_ZYX)).write(tmp_path / "series")
    volume = read_one(folder)
    assert isinstance(volume, Volume)
    voxels, affine = volume.voxels.copy(), volume.ijk_to_lps_mm.copy()
    if fault == "a voxel":
        voxels[3, 4, 5] += 1
    elif fault == "a mirrored axis":
        voxels = voxels[:, :, ::-1]
    else:
        affine[0, 3] += affine[0, 0] / 2
    with pytest.raises(AssertionError):
        assert_same_scan(replace(volume, voxels=voxels, ijk_to_lps_mm=affine), by_simpleitk(folder))
