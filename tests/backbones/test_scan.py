"""A scan's vector is the mean over a lattice of crops in its body, the same from a lake and from memory."""

from dataclasses import replace

import numpy as np
import pytest

from semgen_platform import geometry
from semgen_platform.backbones.contract import Preprocessing
from semgen_platform.backbones.registry import Draft, load_backbone, publish_draft
from semgen_platform.backbones.scan import crop_request, embed_scan, embed_volume, lattice_centres
from semgen_platform.discovery.body_frame import Frame
from semgen_platform.discovery.resampling import Grid
from semgen_platform.lake.crops import CropReader
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.volume import Volume

ORIGIN_XYZ_MM = (-90.0, 40.0, 500.0)


@pytest.fixture
def volume() -> Volume:
    """A noisy ellipsoid of water with two holes of lung, in air, off centre."""
    shape = (40, 60, 80)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where((z / 2) ** 2 + y**2 + x**2 < 0.7, 40.0, -1000.0)
    hu[(abs(abs(x) - 0.35) < 0.2) & (abs(y) < 0.4)] = -850
    hu += np.random.default_rng(3).normal(0, 15, shape)
    return Volume(np.rint(hu).astype(np.int16), geometry.affine_from((2.5, 2.5, 3.0), ORIGIN_XYZ_MM), modality="CT")


def _frame(body_zyx: tuple[slice, slice, slice] | None) -> Frame:
    grid = Grid((100.0, 200.0, -300.0), 4.0, (30, 40, 50))
    body = np.zeros(grid.shape_zyx, bool)
    box = None
    if body_zyx is not None:
        body[body_zyx] = True
        box = grid.to_mm([s.start - 0.5 for s in body_zyx]), grid.to_mm([s.stop - 0.5 for s in body_zyx])
    return Frame(grid, np.zeros(grid.shape_zyx, np.float32), ~np.zeros_like(body), body, box, None, None)


def test_a_block_of_body_is_tiled_by_crops_round_its_middle() -> None:
    frame = _frame((slice(5, 20), slice(10, 25), slice(0, 15)))  # 60 mm each; centre by hand below
    centres = lattice_centres(frame, (20.0, 30.0, 60.0))
    middle_zyx_mm = np.array([100 + 4 * 12, 200 + 4 * 17, -300 + 4 * 7])
    offsets = centres - middle_zyx_mm
    assert sorted(map(tuple, offsets.tolist())) == [(z, y, 0.0) for z in (-20.0, 0.0, 20.0) for y in (-30.0, 0.0, 30.0)]


def test_crops_that_are_less_than_half_body_do_not_count() -> None:
    frame = _frame((slice(5, 20), slice(10, 25), slice(0, 15)))
    assert len(lattice_centres(frame, (44.0, 44.0, 44.0))) == 1, "the outer crops hold 8 of 44 mm along some axis"


def test_a_scan_with_little_or_no_body_still_has_a_centre() -> None:
    tiny = lattice_centres(_frame((slice(5, 7), slice(10, 12), slice(20, 22))), (80.0, 80.0, 80.0))
    assert tiny.tolist() == [[100 + 4 * 5.5, 200 + 4 * 10.5, -300 + 4 * 20.5]]
    empty = lattice_centres(_frame(None), (80.0, 80.0, 80.0))
    assert empty.tolist() == [[100 + 4 * 14.5, 200 + 4 * 19.5, -300 + 4 * 24.5]]


def test_a_crop_lies_along_the_patient_axes_with_its_middle_at_the_centre(preprocessing: Preprocessing) -> None:
    request = crop_request("s", (10.0, 20.0, 30.0), preprocessing)
    middle = request.zyx_to_lps_mm @ [3.5, 7.5, 7.5, 1]
    assert middle.tolist() == pytest.approx([30, 20, 10, 1])
    step = request.zyx_to_lps_mm @ [1, 0, 0, 0]
    assert step.tolist() == pytest.approx([0, 0, 3.0, 0]), "the first axis goes up the patient"


def test_a_volume_in_memory_has_the_vector_of_the_scan_in_the_lake(lake: Lake, draft: Draft, volume: Volume) -> None:
    publish_draft(lake, "small", draft)
    row = write_volume(lake.root, volume, "r")
    source = {
        "source_id": "a",
        "state": "b",
        "scan_id": row["scan_id"],
        "patient_id": "p",
        "collection": "c",
        "flags": [],
    }
    lake.insert("sources", [source])
    lake.insert("scans", [row])
    lake.commit("test", "r")
    backbone, scans = load_backbone("small", lake=lake.refresh()), lake.refresh().select_scans(profile="all")
    from_lake = embed_scan(backbone, CropReader(lake.root, scans), scans[0])
    assert from_lake.shape == (64,)
    np.testing.assert_array_equal(embed_volume(backbone, volume), from_lake)


def test_the_vector_does_not_move_with_the_scanner_but_changes_with_the_body(
    lake: Lake, draft: Draft, volume: Volume
) -> None:
    publish_draft(lake, "small", draft)
    backbone = load_backbone("small", lake=lake.refresh())
    vector = embed_volume(backbone, volume)
    moved = replace(volume, ijk_to_lps_mm=geometry.affine_from((2.5, 2.5, 3.0), (10.0, 20.0, 30.0)))
    np.testing.assert_allclose(embed_volume(backbone, moved), vector, rtol=0.02, atol=1e-3)
    solid = replace(volume, voxels=np.where(volume.voxels > -1000, 40, volume.voxels).astype(np.int16))
    assert np.abs(embed_volume(backbone, solid) - vector).max() > 0.02
