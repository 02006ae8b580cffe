"""Scans and their truth: world positions, labels against HU, noise and kernels, ranges, what can be switched off."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.ndimage import map_coordinates

from semgen_platform import geometry
from semgen_platform.phantom.anatomy import LABELS, vertebra_xyz_mm
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.cohort import CohortConfig
from semgen_platform.phantom.detector import KERNELS, PADDING_HU, measured, outside_circle
from semgen_platform.phantom.labels import labels_like
from semgen_platform.phantom.patient import Patient, draw_patient
from semgen_platform.phantom.sampling import Points, sample
from semgen_platform.phantom.scanner import PhantomScan, Protocol, body_lattice, draw_protocol, lattice_shape
from semgen_platform.phantom.shapes import world_points

Posed = tuple[Patient, Protocol, PhantomScan]


def body_at(scan: PhantomScan, world_xyz_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Body coordinates of (N, 3) LPS points, interpolated by scipy from the lattice."""
    to_index = np.asarray(np.linalg.inv(scan.lattice_zyx_to_lps_mm), np.float64)
    index = geometry.apply_affine(to_index, world_xyz_mm)
    return np.stack([map_coordinates(scan.body_xyz_mm[..., a], index.T, order=1) for a in range(3)], axis=1)


def world_of_label(scan: PhantomScan, name: str) -> NDArray[np.float64]:
    """LPS places of a label's voxels."""
    zyx = np.argwhere(scan.labels_ZYX == LABELS[name])
    return geometry.apply_affine(scan.volume.ijk_to_lps_mm, zyx[:, ::-1])


@pytest.mark.parametrize("name", ["T4", "T9", "L1", "L4"])
def test_the_lattice_leads_a_vertebra_back_to_its_canonical_place(posed: Posed, name: str) -> None:
    body = body_at(posed[2], world_of_label(posed[2], name))
    x, y, z = vertebra_xyz_mm(name)
    core = body[np.abs(body[:, 1] - y) < 8]  # the vertebral body without its processes
    np.testing.assert_allclose(core.mean(axis=0), (x, y, z), atol=3)


def test_the_lattice_interpolates_the_patients_map_to_a_fraction_of_a_millimetre(posed: Posed) -> None:
    patient, _, scan = posed
    corners = geometry.apply_affine(
        scan.volume.ijk_to_lps_mm,
        np.random.default_rng(0).uniform(0, np.array(scan.labels_ZYX.shape[::-1]) - 1, (400, 3)),
    )
    gap = np.linalg.norm(body_at(scan, corners) - patient.to_body(corners), axis=1)
    assert np.median(gap) < 0.15
    assert gap.max() < 1.0  # where breathing fades out


def test_labels_and_hu_of_a_scan_agree_in_place(posed: Posed) -> None:
    _, _, scan = posed
    hu = {
        name: scan.volume.voxels[scan.labels_ZYX == LABELS[name]] for name in ("lung_lower_right", "liver_right_back")
    }
    hu["bone"] = scan.volume.voxels[np.isin(scan.labels_ZYX, labels_like(r"T\d+|L\d"))]
    hu["air"] = scan.volume.voxels[scan.labels_ZYX == LABELS["air"]]
    assert np.median(hu["lung_lower_right"]) < -700
    assert 30 < np.median(hu["liver_right_back"]) < 180
    assert np.median(hu["bone"]) > 120
    assert np.median(hu["air"]) < -950


def test_a_grid_shifted_by_one_voxel_would_be_noticed(posed: Posed) -> None:
    """The border between skin and air is where labels and HU must meet: half a voxel is the most they may differ."""
    _, _, scan = posed
    outside = np.isin(scan.labels_ZYX, [LABELS["air"], LABELS["table"]])
    air = scan.volume.voxels < -500
    middle = (slice(None), slice(None), slice(8, -8))

    def disagreement(shift: int, axis: int) -> float:
        lungs = np.isin(scan.labels_ZYX, labels_like("lung.*|trachea|bronchus.*|stomach.*|colon|bowel.*|oesophagus"))
        return float((np.roll(air, shift, axis) != outside)[middle][~lungs[middle]].mean())

    for axis in range(3):
        assert disagreement(0, axis) < min(disagreement(1, axis), disagreement(-1, axis))


def test_the_pose_is_undone_exactly() -> None:
    patient = draw_patient(CohortConfig(deformation_mm=0, breathing_mm=0), 5, 2)
    points = np.random.default_rng(1).uniform(-200, 400, (50, 3))
    np.testing.assert_allclose(patient.to_body(patient.pose_to_world(points)), points, atol=1e-9)
    head, back = patient.pose_to_world([(0, 0, 400), (0, 100, 250)]) - patient.pose_to_world((0, 0, 250))
    assert head[2] > 0.85 * 150 * 0.98  # still head up, back down, whatever the pose
    assert back[1] > 0.85 * 100 * 0.98


def test_a_voxel_is_the_mean_of_the_body_over_its_extent_and_has_the_label_of_its_centre() -> None:
    canvas = Canvas.empty((-40, -40, -40), (40, 40, 40), 1.5)
    box = canvas.whole()
    canvas.hu[...] = 2 * box.x + 3 * box.y + 5 * box.z
    canvas.labels[...] = np.where(box.x + 0 * box.y + 0 * box.z > 0, 2, 1)
    spacing, shape = (4.0, 3.0, 1.0), (8, 10, 40)
    affine = geometry.affine_from(spacing[::-1], (-19.5, -13.5, -14.0))
    lattice = world_points(lattice_shape(shape, spacing), geometry.reverse_index_axes(body_lattice(affine)))
    deep = np.full(lattice.shape[:3], -50.0, np.float32)
    points = Points(lattice.astype(np.float32), deep, lattice.astype(np.float32), 8.0)
    hu, labels = sample(canvas, points, shape, spacing, table_y_mm=500.0)
    places = world_points(shape, affine)
    np.testing.assert_allclose(hu, places @ [2.0, 3.0, 5.0], atol=0.02)
    np.testing.assert_array_equal(labels, np.where(places[..., 0] > 0, 2, 1))


def test_pose_variation_off_makes_world_and_body_the_same() -> None:
    config = CohortConfig(pose_variation=False, deformation_mm=0, breathing_mm=0)
    patient = draw_patient(config, 5, 0)
    points = np.random.default_rng(1).uniform(-200, 400, (50, 3))
    np.testing.assert_allclose(patient.to_body(points), points, atol=1e-9)


def test_pose_variation_off_keeps_shape_and_leaves_the_same_patient_otherwise() -> None:
    on, off = (draw_patient(CohortConfig(pose_variation=flag), 5, 3) for flag in (True, False))
    assert not np.allclose(on.size_xyz, 1)
    np.testing.assert_array_equal(off.size_xyz, 1)
    np.testing.assert_array_equal(off.shift_xyz_mm, 0)
    np.testing.assert_array_equal(off.rotation, np.eye(3))
    np.testing.assert_array_equal(on.waves, off.waves)
    assert (on.sex, on.fat_mm, on.contrast_hu, on.nodules) == (off.sex, off.fat_mm, off.contrast_hu, off.nodules)


def test_patients_differ_within_the_ranges_of_the_configuration() -> None:
    config = CohortConfig()
    patients = [draw_patient(config, 1, n) for n in range(200)]
    sizes = np.array([p.size_xyz for p in patients])
    shifts = np.array([p.shift_xyz_mm for p in patients])
    angles = [np.degrees(np.arccos(np.clip((np.trace(p.rotation) - 1) / 2, -1, 1))) for p in patients]
    assert sizes.min() > 0.85
    assert sizes.max() < 1.15
    assert np.ptp(sizes, axis=0).min() > 0.25
    assert np.abs(shifts).max() < 40
    assert np.ptp(shifts, axis=0).min() > 70
    assert 8 < max(angles) < 10 + 1e-6


def test_a_matrix_of_512_gives_the_pixels_of_a_clinical_scan() -> None:
    config = CohortConfig(matrix=512)
    protocols = [draw_protocol(config, draw_patient(config, 2, n), 2, exact=False) for n in range(100)]
    spacing = np.array([p.spacing_zyx_mm for p in protocols])
    assert spacing[:, 1:].min() > 0.59
    assert spacing[:, 1:].max() < 0.91
    assert 1 <= spacing[:, 0].min() < 1.2
    assert 2.8 < spacing[:, 0].max() <= 3
    assert {p.coverage for p in protocols} == {"chest", "chest_abdomen", "abdomen"}
    assert {p.kernel for p in protocols} == {"soft", "standard", "sharp"}


def test_coverage_says_which_levels_are_in_the_scan() -> None:
    for coverage, inside, outside in (("chest", "T6", "L3"), ("abdomen", "L3", "T4")):
        config = CohortConfig(coverage=(coverage,), oblique_share=0)
        patient = draw_patient(config, 4, 1)
        protocol = draw_protocol(config, patient, 4, exact=False)
        first, last = (
            protocol.ijk_to_lps_mm[2, 3] + n * protocol.ijk_to_lps_mm[2, 2] for n in (0, protocol.shape_zyx[0])
        )
        levels = {name: patient.pose_to_world(vertebra_xyz_mm(name))[2] for name in (inside, outside)}
        assert first < levels[inside] < last
        assert not first < levels[outside] < last


def test_the_lattice_covers_the_grid_in_8_mm_steps() -> None:
    affine = geometry.affine_from((0.7, 0.7, 2.5), (-100, 50, 300))
    lattice = body_lattice(affine)
    assert geometry.spacing_zyx_mm(geometry.reverse_index_axes(lattice)) == pytest.approx((8, 8, 8))
    shape = lattice_shape((40, 100, 100), (2.5, 0.7, 0.7))
    low, high = geometry.apply_affine(lattice, np.array([(0, 0, 0), np.array(shape) - 1]))
    corners = world_points((40, 100, 100), affine)
    assert (low <= corners[0, 0, 0] - 7.9).all()
    assert (high >= corners[-1, -1, -1]).all()


def disc(hu: float = 0.0) -> NDArray[np.float32]:
    """A cylinder of water, 250 mm across, in air; 20 slices of 128 pixels of 2.5 mm."""
    away = np.hypot(*np.meshgrid(np.arange(128) - 63.5, np.arange(128) - 63.5)) * 2.5
    return np.repeat(np.where(away < 125, hu, -1000.0)[None], 20, axis=0).astype(np.float32)


def noise_of(kernel: str, pixel_mm: float) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    hu = measured(disc(), pixel_mm=pixel_mm, kernel=kernel, noise_hu=20, round_view=False, rng=rng)  # type: ignore[arg-type]
    return hu[:, 44:84, 44:84].astype(np.float32)


@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_has_the_strength_that_was_asked_for(kernel: str) -> None:
    # a 250 mm cylinder is thinner than the middle trunk of 270 mm: exp(-20 * 0.0045) = 0.91
    assert noise_of(kernel, 2.5).std() == pytest.approx(20 * 0.91, rel=0.1)


def test_a_soft_kernel_correlates_neighbouring_pixels_and_a_sharp_one_does_not() -> None:
    def neighbours(kernel: str) -> float:
        noise = noise_of(kernel, 0.7)
        return float(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1])

    assert neighbours("soft") > 0.8 > neighbours("standard") > neighbours("sharp") + 0.2


def test_a_sharp_kernel_raises_edges_and_a_soft_one_blurs_them() -> None:
    def profile(kernel: str) -> NDArray[np.float32]:
        rng = np.random.default_rng(0)
        hu = measured(disc(), pixel_mm=0.7, kernel=kernel, noise_hu=0, round_view=False, rng=rng)  # type: ignore[arg-type]
        return hu[10, 64].astype(np.float32)

    assert profile("sharp").max() > 30
    assert profile("soft").max() <= 0
    assert np.abs(np.diff(profile("soft"))).max() < 0.7 * np.abs(np.diff(profile("sharp"))).max()


def test_outside_the_round_view_every_voxel_is_padding() -> None:
    rng = np.random.default_rng(0)
    voxels = measured(disc(), pixel_mm=2.5, kernel="standard", noise_hu=10, round_view=True, rng=rng)
    assert voxels.dtype == np.int16
    assert (voxels[:, outside_circle(128)] == PADDING_HU).all()
    assert outside_circle(128).mean() == pytest.approx(1 - np.pi / 4, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"orientations": ("LRS",)}, "one letter each"),
        ({"slice_mm": (3, 1)}, "smaller first"),
        ({"coverage": ()}, "at least 1"),
        ({"coverage": ("head",)}, "chest_abdomen"),
        ({"matrx": 128}, "Extra inputs"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        CohortConfig.model_validate(settings)
    assert next(iter(settings)) in str(caught.value)
