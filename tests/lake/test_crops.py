"""Crops against what SimpleITK resamples and against ramps whose values are known."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from semgen_platform import geometry
from semgen_platform.errors import Damage, InputError, NotFound
from semgen_platform.lake import crops
from semgen_platform.lake.crops import AIR_HU, CropReader, CropRequest
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.shards import StoredLevel
from semgen_platform.lake.volumes import open_level
from semgen_platform.volume import Volume

Noise = Callable[..., Volume]
Store = Callable[[Volume], tuple[Path, Scan]]
FolderOf = Callable[[Path, Scan], Path]

TURNED = Rotation.from_euler("xyz", (6, -9, 12), degrees=True).as_matrix()
TWICE_TURNED = TURNED @ Rotation.from_euler("zyx", (25, -10, 5), degrees=True).as_matrix()
TOLERANCE_HU = 0.05  # float32 positions are good to 1e-4 voxels, and neighbours differ by some 1000 HU


def _grid(spacing_zyx_mm: Any, first_xyz_mm: Any, turn: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """`zyx_to_lps_mm` of a crop from its spacing, its first voxel's place and its direction."""
    return geometry.reverse_index_axes(geometry.affine_from(spacing_zyx_mm[::-1], first_xyz_mm, turn))


def _by_itk(volume: Volume, zyx_to_lps_mm: NDArray[np.float64], shape_zyx: Any) -> NDArray[Any]:
    image = sitk.GetImageFromArray(volume.voxels)
    image.SetSpacing(volume.spacing_zyx_mm[::-1])
    image.SetOrigin(volume.ijk_to_lps_mm[:3, 3].tolist())
    image.SetDirection(geometry.direction_cosines(volume.ijk_to_lps_mm).ravel().tolist())
    crop = geometry.reverse_index_axes(zyx_to_lps_mm)
    resample = sitk.ResampleImageFilter()
    resample.SetSize([int(n) for n in shape_zyx[::-1]])
    resample.SetOutputSpacing(geometry.spacing_zyx_mm(crop)[::-1])
    resample.SetOutputOrigin(crop[:3, 3].tolist())
    resample.SetOutputDirection(geometry.direction_cosines(crop).ravel().tolist())
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetDefaultPixelValue(AIR_HU)
    resample.SetOutputPixelType(sitk.sitkFloat32)
    return sitk.GetArrayFromImage(resample.Execute(image))


@pytest.mark.parametrize("scan_turn", [None, TURNED], ids=["upright scan", "oblique scan"])
@pytest.mark.parametrize("crop_turn", [None, TURNED, TWICE_TURNED], ids=["upright crop", "turned crop", "tilted crop"])
@pytest.mark.parametrize("spacing_zyx_mm", [(2.0, 0.7, 0.8), (1.3, 0.5, 0.6)], ids=["own spacing", "finer"])
@pytest.mark.parametrize("first_xyz", [(0, 0, 0), (-9.3, -17.1, -3.4), (21.2, 15.4, 12.1)], ids=["corner", "out", "in"])
def test_crops_equal_what_itk_resamples_inside_and_outside(
    noise: Noise, store: Store, scan_turn: Any, crop_turn: Any, spacing_zyx_mm: Any, first_xyz: Any
) -> None:
    volume = noise((40, 50, 60), (2.0, 0.7, 0.8), scan_turn)
    root, scan = store(volume)
    first_xyz_mm = geometry.apply_affine(volume.ijk_to_lps_mm, first_xyz)
    grid, shape = _grid(spacing_zyx_mm, first_xyz_mm, crop_turn), (20, 33, 40)
    crop = CropReader(root, [scan]).read([CropRequest(scan.scan_id, grid, shape)])[0]
    expected = _by_itk(volume, grid, shape)
    # On the very border of the scan rounding decides between the outer voxel and air.
    assert np.mean(np.abs(crop - expected) > TOLERANCE_HU) < 1e-3
    assert np.mean(expected != AIR_HU) > 0.01, "the crop does not miss the scan"


@pytest.mark.parametrize("crop_turn", [None, TWICE_TURNED], ids=["upright", "tilted"])
def test_a_ramp_in_millimetres_is_read_at_its_places(store: Store, crop_turn: Any) -> None:
    """A value that is linear in space is met exactly by linear interpolation, so a shift of half a voxel would show."""
    affine = geometry.affine_from((0.8, 0.7, 2.0), (-30, 22, 3), TURNED)
    gradient = np.array([3.0, -2.0, 1.5])  # HU per mm along L, P, S
    places = geometry.apply_affine(geometry.reverse_index_axes(affine), np.moveaxis(np.indices((40, 50, 60)), 0, -1))
    root, scan = store(Volume((places @ gradient).astype(np.float32), affine, "CT"))
    centre = geometry.apply_affine(affine, (30, 25, 20))
    grid = _grid((1.1, 0.9, 0.85), centre - 4.0, TURNED if crop_turn is None else crop_turn)
    crop = CropReader(root, [scan]).read([CropRequest(scan.scan_id, grid, (8, 10, 12))])[0]
    expected = geometry.apply_affine(grid, np.moveaxis(np.indices((8, 10, 12)), 0, -1)) @ gradient
    np.testing.assert_allclose(crop, expected, atol=0.01)


def test_a_crop_on_the_scans_own_voxels_is_their_copy(noise: Noise, store: Store) -> None:
    volume = noise((40, 50, 60), (2.0, 0.7, 0.8), TURNED)
    root, scan = store(volume)
    grid = scan.zyx_to_lps_mm.copy()
    grid[:3, 3] = geometry.apply_affine(scan.zyx_to_lps_mm, (3, 4, 5))
    crop = CropReader(root, [scan]).read([CropRequest(scan.scan_id, grid, (37, 46, 55))])[0]
    np.testing.assert_array_equal(crop, volume.voxels[3:, 4:, 5:].astype(np.float32))


def test_a_voxel_reaches_half_its_spacing_and_beyond_it_is_air(store: Store) -> None:
    volume = Volume(np.full((4, 4, 4), 50, np.int16), np.eye(4), "CT")
    root, scan = store(volume)
    request = CropRequest(scan.scan_id, _grid((1.0, 1.0, 0.2), (-1.0, 1, 1)), (1, 1, 30))
    row = CropReader(root, [scan]).read([request])[0, 0, 0]
    x_mm = -1.0 + 0.2 * np.arange(30)
    inside = (x_mm > -0.5) & (x_mm < 3.5)
    border = np.isclose(x_mm, 3.5) | np.isclose(x_mm, -0.5)
    assert (row[inside & ~border] == 50).all()
    assert (row[~inside & ~border] == AIR_HU).all()


def test_a_crop_beside_the_scan_is_all_air(noise: Noise, store: Store) -> None:
    root, scan = store(noise((20, 20, 20)))
    far = [CropRequest(scan.scan_id, _grid((1, 1, 1), (500, 0, 0), turn), (4, 5, 6)) for turn in (None, TURNED)]
    assert (CropReader(root, [scan]).read(far) == AIR_HU).all()


def test_a_mirrored_crop_reads_backwards(noise: Noise, store: Store) -> None:
    volume = noise((10, 11, 12))
    root, scan = store(volume)
    grid = scan.zyx_to_lps_mm @ np.diag([-1.0, 1, 1, 1])
    grid[:3, 3] = geometry.apply_affine(scan.zyx_to_lps_mm, (9, 0, 0))
    crop = CropReader(root, [scan]).read([CropRequest(scan.scan_id, grid, (10, 11, 12))])[0]
    np.testing.assert_array_equal(crop, volume.voxels[::-1])


def test_one_slice_scans_are_read_too(noise: Noise, store: Store) -> None:
    volume = noise((1, 20, 20), (5, 1, 1))
    root, scan = store(volume)
    for turn in (None, TURNED):
        request = CropRequest(scan.scan_id, _grid((1.0, 1, 1), (-25, 25, 3), turn), (4, 6, 6))
        crop = CropReader(root, [scan]).read([request])[0]
        np.testing.assert_allclose(crop, _by_itk(volume, request.zyx_to_lps_mm, request.shape_zyx), atol=TOLERANCE_HU)


@pytest.mark.parametrize(
    ("spacing_zyx_mm", "level"),
    [((2, 1, 1), 0), ((2, 1.9, 2), 0), ((2, 2, 2), 1), ((3, 3, 3), 1), ((4, 4, 4), 2), ((9, 9, 9), 2), ((1, 1, 1), 0)],
)
def test_the_coarsest_level_that_is_fine_enough_is_read(
    noise: Noise, store: Store, spacing_zyx_mm: Any, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, scan = store(noise((40, 130, 130), (2.0, 1.0, 1.0), TURNED))
    assert [at.factor_zyx for at in scan.levels] == [(1, 1, 1), (1, 2, 2), (2, 4, 4)]
    opened: list[int] = []

    def noted(root: Path, scan_id: str, attempt: str, number: int) -> StoredLevel:
        opened.append(number)
        return open_level(root, scan_id, attempt, number)

    monkeypatch.setattr(crops, "open_level", noted)
    for turn in (TURNED, TURNED @ Rotation.from_euler("z", 20, degrees=True).as_matrix()):
        request = CropRequest(scan.scan_id, _grid(spacing_zyx_mm, (-10, 30, 20), turn), (4, 4, 4))
        CropReader(root, [scan]).read([request])
    assert opened == [level, level]


def test_a_coarse_crop_is_the_mean_of_its_blocks(noise: Noise, store: Store) -> None:
    volume = noise((20, 80, 80))
    root, scan = store(volume)
    first = geometry.apply_affine(scan.zyx_to_lps_mm, (0.5, 0.5, 0.5))
    crop = CropReader(root, [scan]).read([CropRequest(scan.scan_id, _grid((2, 2, 2), first), (10, 40, 40))])[0]
    blocks = volume.voxels.reshape(10, 2, 40, 2, 40, 2).mean((1, 3, 5))
    np.testing.assert_array_equal(crop, np.rint(blocks))


def test_a_whole_level_comes_with_its_place(noise: Noise, store: Store) -> None:
    volume = noise((40, 130, 130), (2.0, 1.0, 1.0))
    root, scan = store(volume)
    reader = CropReader(root, [scan])
    assert [reader.level(scan.scan_id, mm).level for mm in (0.5, 2.0, 3.9, 4.0, 100.0)] == [0, 1, 1, 2, 2]
    coarse = reader.level(scan.scan_id, 2.0)
    assert coarse.voxels_ZYX.dtype == np.int16
    assert coarse.voxels_ZYX.shape == (40, 65, 65)
    expected = geometry.apply_affine(scan.zyx_to_lps_mm, (3, 2.5, 4.5))
    np.testing.assert_allclose(geometry.apply_affine(coarse.zyx_to_lps_mm, (3, 1, 2)), expected)


def test_crops_come_in_the_order_of_their_requests(noise: Noise, store: Store) -> None:
    stored = [store(noise((20, 20, 20), seed=seed)) for seed in (1, 2)]
    root, scans = stored[0][0], [scan for _, scan in stored]
    order = [scans[n] for n in (1, 0, 0, 1)]
    crops_NZYX = CropReader(root, scans).read([CropRequest(s.scan_id, s.zyx_to_lps_mm, (20, 20, 20)) for s in order])
    whole = {scan.scan_id: CropReader(root, scans).level(scan.scan_id, 1.0).voxels_ZYX for scan in scans}
    for crop, scan in zip(crops_NZYX, order, strict=True):
        np.testing.assert_array_equal(crop, whole[scan.scan_id])


def test_more_levels_than_may_be_open_are_read_in_turn(
    noise: Noise, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crops, "OPEN_LEVELS", 2)
    stored = [store(noise((8, 8, 8), seed=seed)) for seed in range(5)]
    reader = CropReader(stored[0][0], [scan for _, scan in stored])
    for _ in range(2):
        for seed, (_, scan) in enumerate(stored):
            np.testing.assert_array_equal(
                reader.level(scan.scan_id, 1.0).voxels_ZYX, noise((8, 8, 8), seed=seed).voxels
            )
    held = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert sum(place.startswith(str(stored[0][0])) for place in held) <= 2


def test_damage_names_scan_and_level(noise: Noise, store: Store, folder_of: FolderOf) -> None:
    root, scan = store(noise((20, 20, 20)))
    path = folder_of(root, scan) / "0" / "c" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    request = CropRequest(scan.scan_id, scan.zyx_to_lps_mm, (4, 4, 4))
    with pytest.raises(Damage, match=f"scan {scan.scan_id} level 0: chunk"):
        CropReader(root, [scan]).read([request])
    path.unlink()
    with pytest.raises(Damage, match=f"scan {scan.scan_id} level 0"):
        CropReader(root, [scan]).read([request])


def test_a_scan_that_the_reader_was_not_given_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="scan s9 is not among the 0 scans"):
        CropReader(tmp_path, []).read([CropRequest("s9", np.eye(4), (1, 1, 1))])


READ_IN_ANOTHER_PROCESS = """
import pickle, sys
from pathlib import Path

reader, request = pickle.loads(Path(sys.argv[1]).read_bytes())
print(float(reader.read([request]).sum(dtype="float64")))
"""


def test_a_reader_that_has_read_works_in_a_spawned_process(
    noise: Noise, store: Store, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    root, scan = store(noise((20, 20, 20)))
    reader, request = CropReader(root, [scan]), CropRequest(scan.scan_id, scan.zyx_to_lps_mm, (20, 20, 20))
    here = float(reader.read([request]).sum(dtype=np.float64))
    (tmp_path / "pickle").write_bytes(pickle.dumps((reader, request)))
    out, errors = start(READ_IN_ANOTHER_PROCESS, tmp_path / "pickle").communicate(timeout=60)
    assert float(out) == here, errors


def test_a_forked_process_is_refused_with_a_sentence(noise: Noise, store: Store) -> None:
    root, scan = store(noise((20, 20, 20)))
    reader = CropReader(root, [scan])
    reader.level(scan.scan_id, 1.0)
    child = os.fork()
    if child == 0:  # nothing of pytest may run in here
        try:
            reader.level(scan.scan_id, 1.0)
        except InputError as error:
            os._exit(7 if "spawn" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
