"""A thumbnail shows the patient as radiologists look: its letters are true, its proportions are those in mm."""

from __future__ import annotations

import io
import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial.transform import Rotation

from semgen_platform import geometry
from semgen_platform.errors import NotFound
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.thumbnails import SOFT_TISSUE_HU, thumbnail, thumbnail_key, window_of
from semgen_platform.storage import Storage
from semgen_platform.volume import Volume

Store = Callable[[Volume], tuple[Path, Scan]]

SIDE, GAP = 170, 5  # pixels of a plane's square and between two
SHAPE_ZYX, SPACING_ZYX_MM = (60, 120, 140), (3.0, 1.2, 1.2)
RADIUS_MM, AWAY_MM = 30.0, 22.0
LPS = {"R": (-1, 0, 0), "L": (1, 0, 0), "A": (0, -1, 0), "P": (0, 1, 0), "I": (0, 0, -1), "S": (0, 0, 1)}
# (top, bottom, left, right) of the axial, coronal and sagittal view, as in any radiology department
EDGES = ("APRL", "SIRL", "SIAP")


def ball(offset_lps_mm: Sequence[float] = (0, 0, 0), rotation: NDArray[np.float64] | None = None) -> Volume:
    """Water with a ball of 1000 HU whose centre lies off the volume's centre."""
    affine = geometry.affine_from(SPACING_ZYX_MM[::-1], (-90, 40, 700), rotation)
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE_ZYX[::-1]), indexing="ij"), axis=-1)  # x, y, z
    lps = index @ affine[:3, :3].T + affine[:3, 3]
    centre = affine[:3, :3] @ ((np.array(SHAPE_ZYX[::-1]) - 1) / 2) + affine[:3, 3]
    inside = np.linalg.norm(lps - centre - np.array(offset_lps_mm), axis=-1) <= RADIUS_MM
    return Volume(np.ascontiguousarray(np.where(inside, 1000, 0).T.astype(np.int16)), affine, "CT")


def planes(data: bytes) -> list[NDArray[Any]]:
    """The three squares of a thumbnail's pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (SIDE, 3 * SIDE + 2 * GAP)
    return [pixels[:, n * (SIDE + GAP) : n * (SIDE + GAP) + SIDE] for n in range(3)]


def made(store: Store, volume: Volume) -> list[NDArray[Any]]:
    root, scan = store(volume)
    return planes(thumbnail(Storage(str(root)), CropReader(root, [scan]), scan, SOFT_TISSUE_HU))


def bright(plane: NDArray[Any]) -> NDArray[np.bool_]:
    """The largest white object, which no letter is."""
    labels, count = ndimage.label(plane > 250)
    sizes = ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
    found: NDArray[np.bool_] = labels == 1 + int(np.argmax(sizes))
    return found


def pixel_mm(volume: Volume) -> float:
    """One scale for all planes: the longest edge of the patient's box around the voxels fills the square."""
    ends = itertools.product(*((-0.5, n - 0.5) for n in volume.voxels.shape[::-1]))
    corners = np.array(list(ends)) @ volume.ijk_to_lps_mm[:3, :3].T
    return float(np.ptp(corners, axis=0).max() / SIDE)


@pytest.mark.parametrize("letter", "RLAPIS")
def test_a_ball_lies_towards_the_edge_whose_letter_says_so(letter: str, store: Store) -> None:
    volume = ball([AWAY_MM * part for part in LPS[letter]])
    step = AWAY_MM / pixel_mm(volume)
    for plane, edges in zip(made(store, volume), EDGES, strict=True):
        expected = {edges[0]: (-step, 0), edges[1]: (step, 0), edges[2]: (0, -step), edges[3]: (0, step)}
        found = np.array(ndimage.center_of_mass(bright(plane))) - (SIDE - 1) / 2
        np.testing.assert_allclose(found, expected.get(letter, (0, 0)), atol=1.0)


@pytest.mark.parametrize("turn", [(20, 0, 0), (0, -15, 0), (0, 0, 30), (12, -9, 25)])
def test_planes_are_the_patients_own_however_the_voxels_lie(turn: tuple[float, ...], store: Store) -> None:
    volume = ball((12.0, -9.0, 15.0), Rotation.from_euler("xyz", turn, degrees=True).as_matrix())
    mm = pixel_mm(volume)
    expected = [(-9 / mm, 12 / mm), (-15 / mm, 12 / mm), (-15 / mm, -9 / mm)]  # (row, column): y x, -z x, -z y
    for plane, where in zip(made(store, volume), expected, strict=True):
        np.testing.assert_allclose(np.array(ndimage.center_of_mass(bright(plane))) - (SIDE - 1) / 2, where, atol=1.0)


def test_a_ball_is_round_although_slices_are_thick(store: Store) -> None:
    volume = ball()
    diameter = 2 * RADIUS_MM / pixel_mm(volume)
    for plane in made(store, volume):
        rows, columns = np.nonzero(bright(plane))
        assert np.ptp(rows) + 1 == pytest.approx(diameter, abs=3)  # half a slice is 1.4 pixels
        assert np.ptp(columns) + 1 == pytest.approx(diameter, abs=3)


def test_each_edge_carries_its_letter(store: Store) -> None:
    cube = Volume(np.full((64, 64, 64), -1000, np.int16), geometry.affine_from((2, 2, 2), (0, 0, 0)), "CT")
    glyphs: dict[str, list[bytes]] = {}
    for plane, edges in zip(made(store, cube), EDGES, strict=True):
        parts = [plane[:25, 70:100], plane[-25:, 70:100], plane[70:100, :25], plane[70:100, -25:]]
        for letter, part in zip(edges, parts, strict=True):
            rows, columns = np.nonzero(part > 100)
            glyph = part[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] > 100
            glyphs.setdefault(letter, []).append(bytes(glyph.shape) + glyph.tobytes())
    assert all(len(set(drawn)) == 1 for drawn in glyphs.values()), "one letter looks the same everywhere"
    assert len({drawn[0] for drawn in glyphs.values()}) == 6


def test_what_lies_outside_the_scan_is_not_black(store: Store) -> None:
    flat = Volume(np.full((20, 64, 64), -1000, np.int16), geometry.affine_from((2, 2, 2), (0, 0, 0)), "CT")
    axial, coronal, _ = made(store, flat)
    assert axial[30, 30] == 0
    assert coronal[30, 30] not in (0, 255)
    assert coronal[SIDE // 2, 40] == 0


def test_a_thumbnail_in_the_lake_is_taken_as_it_is(store: Store, folder_of: Callable[[Path, Scan], Path]) -> None:
    root, scan = store(ball())
    storage = Storage(str(root))
    first = thumbnail(storage, CropReader(root, [scan]), scan, SOFT_TISSUE_HU)
    kept = root / "thumbnails" / scan.scan_id[1:3] / f"{scan.scan_id}.png"
    assert kept.read_bytes() == first
    shutil.rmtree(folder_of(root, scan))
    assert thumbnail(storage, CropReader(root, [scan]), scan, SOFT_TISSUE_HU) == first
    with pytest.raises(NotFound):  # another window is another picture
        thumbnail(storage, CropReader(root, [scan]), scan, (0.0, 500.0))


@pytest.mark.parametrize("junk", [b"", b"no picture", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_what_is_no_thumbnail_is_made_anew(junk: bytes, store: Store) -> None:
    root, scan = store(ball())
    storage = Storage(str(root))
    first = thumbnail(storage, CropReader(root, [scan]), scan, SOFT_TISSUE_HU)
    storage.put(thumbnail_key(scan.scan_id), junk)
    assert thumbnail(storage, CropReader(root, [scan]), scan, SOFT_TISSUE_HU) == first
    assert storage.get(thumbnail_key(scan.scan_id)) == first


def test_values_that_are_not_in_hu_have_a_window_of_their_own() -> None:
    assert window_of(["thick_slices"], -1000.0, 900.0) == (-160.0, 240.0)
    assert window_of(["not_ct", "oblique"], 12.0, 900.0) == (12.0, 900.0)
    assert window_of(["not_hu_like"], 5.0, 5.0) == (5.0, 6.0)
