"""The canonical body against what anatomy and radiology books say: HU of tissues, sides, order, slopes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass
from scipy.ndimage import label as connected

from semgen_platform.phantom.anatomy import NAMES, vertebra_xyz_mm
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.labels import LUMBAR, SIDE_SIGNS, THORACIC, labels_like
from semgen_platform.phantom.patient import Patient
from semgen_platform.phantom.scanner import PhantomScan, Protocol
from semgen_platform.phantom.skeleton import rib_points

Places = dict[str, NDArray[np.float64]]

TISSUES_HU = {  # without contrast medium; ranges as in radiology text books
    r"lung_(upper|middle|lower)_.*": (-900, -750),
    r"trachea": (-1000, -850),
    r"fat_(chest|belly)_.*": (-120, -80),
    r"fat_mediastinal|fat_peritoneal|fat_perirenal_.*": (-120, -60),
    r"muscle_chest_.*|muscle_back_.*|psoas_.*|gluteus_.*": (20, 65),
    r"liver_(left|middle|right_front|right_back)": (50, 65),
    r"spleen": (40, 55),
    r"kidney_cortex_.*": (25, 45),
    r"gallbladder": (-5, 25),
    r"ventricle_left|ventricle_right|aorta_thoracic": (35, 50),
    r"T\d+|L\d": (100, 450),
    r"rib_\d+_.*": (250, 900),
    r"disc_lumbar": (60, 120),
}


@pytest.fixture(scope="module")
def place(body: Canvas) -> Places:
    """Mean (x, y, z) in mm of all grid points of every label that the canonical body has."""
    ones = np.broadcast_to(np.float32(1), body.labels.shape)
    present = np.unique(body.labels)
    centres = np.array(center_of_mass(ones, body.labels, present)) * body.step_mm + np.array(body.low_zyx_mm)
    return {NAMES[number]: zyx[::-1] for number, zyx in zip(present, centres, strict=True)}


@pytest.mark.parametrize("pattern", TISSUES_HU)
def test_tissues_have_the_hu_that_books_give_them(body: Canvas, pattern: str) -> None:
    low, high = TISSUES_HU[pattern]
    for number in labels_like(pattern):
        assert low <= np.median(body.hu[body.labels == number]) <= high, NAMES[number]


def test_every_label_occurs_in_a_scan_or_in_the_canonical_body(
    body: Canvas, posed: tuple[Patient, Protocol, PhantomScan]
) -> None:
    found = set(np.unique(body.labels).tolist()) | set(np.unique(posed[2].labels_ZYX).tolist())
    optional = {"nodule", "breast_left", "breast_right"}
    assert {NAMES[n] for n in range(len(NAMES))} - {NAMES[n] for n in found} <= optional


def test_vertebrae_come_in_order_a_hand_apart_and_lie_where_their_centres_say(place: Places) -> None:
    levels = [vertebra_xyz_mm(name)[2] for name in (*THORACIC, *LUMBAR)]
    steps = -np.diff(levels)
    assert steps.min() > 18  # mm from one vertebra to the next: about 20 at the top of the chest ...
    assert steps.max() < 40  # ... to 36 at the loins
    for name in ("T2", "T8", "L3"):
        x, y, z = place[name]
        expected = vertebra_xyz_mm(name)
        assert x == pytest.approx(0, abs=1)
        assert z == pytest.approx(expected[2], abs=6)  # processes hang below the body
        assert expected[1] < y < expected[1] + 20  # and behind it


@pytest.mark.parametrize("number", range(1, 13))
def test_ribs_slant_down_from_their_vertebra_and_mirror_each_other(number: int) -> None:
    left, right = (np.array(rib_points(number, side)) for side in ("left", "right"))
    np.testing.assert_allclose(left * [-1, 1, 1], right)
    joint = left[0]
    assert joint[2] == pytest.approx(vertebra_xyz_mm(f"T{number}")[2], abs=12)
    assert left[-1, 2] < joint[2] - 12
    assert (np.diff(left[2:, 2]) < 0).all()


def test_organs_lie_on_their_sides_and_in_their_order(place: Places) -> None:
    assert place["liver_right_front"][0] < -40
    assert place["spleen"][0] > 60
    assert place["stomach_content"][0] > 20
    assert place["ventricle_left"][0] > place["ventricle_right"][0]
    assert place["ventricle_right"][1] < place["atrium_left"][1]  # the right ventricle lies in front
    assert place["aorta_abdominal"][1] < place["L3"][1]
    assert place["oesophagus"][1] > place["trachea"][1]
    assert place["lung_upper_left"][2] > place["lung_lower_left"][2] > place["liver_right_back"][2]
    assert place["lung_upper_right"][2] > place["lung_middle_right"][2]
    assert place["kidney_cortex_left"][2] > place["kidney_cortex_right"][2]  # the liver pushes the right one down
    for side, sign in SIDE_SIGNS.items():
        for stem in ("lung_lower", "kidney_cortex", "scapula", "psoas", "hip", "rib_5", "fat_belly_front"):
            assert sign * place[f"{stem}_{side}"][0] > 20, stem


def test_lungs_have_the_volume_of_a_grown_persons_lungs(body: Canvas) -> None:
    points = np.isin(body.labels, labels_like("lung_.*")).sum()
    assert 3.5 < points * body.step_mm**3 / 1e6 < 7.0  # litres, at full inspiration


def test_lung_vessels_branch_out_into_many(body: Canvas) -> None:
    layer = round((320 - body.low_zyx_mm[0]) / body.step_mm)
    vessels = np.isin(body.labels[layer], labels_like("lung_vessels_.*"))
    lungs = np.isin(body.labels[layer], labels_like("lung_.*"))
    assert connected(vessels)[1] > 60
    assert 0.01 < vessels.sum() / lungs.sum() < 0.15
    # and all of them hang together: the largest piece in three dimensions holds nearly all
    pieces, _ = connected(
        np.isin(body.labels, labels_like("lung_vessels_right|pulmonary.*|atrium.*")), np.ones((3, 3, 3))
    )
    sizes = np.bincount(pieces.ravel())[1:]
    assert sizes.max() > 0.6 * sizes.sum()


def test_the_trunk_changes_along_its_height_like_a_person(body: Canvas) -> None:
    def width_mm(z: float) -> float:
        layer = body.labels[round((z - body.low_zyx_mm[0]) / body.step_mm)]
        muscle = ~np.isin(layer, labels_like("fat_(chest|belly)_.*"))
        return float(np.ptp(np.flatnonzero(muscle.any(axis=0)))) * body.step_mm

    neck, shoulders, chest, waist, hips = (width_mm(z) for z in (530, 445, 330, 80, -60))
    assert neck < waist < chest < shoulders
    assert waist < hips


def test_the_canonical_body_cannot_be_painted_on_by_accident(body: Canvas) -> None:
    with pytest.raises(ValueError, match="read-only"):
        body.hu[0, 0, 0] = 1
