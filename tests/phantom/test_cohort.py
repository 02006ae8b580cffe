"""Cohorts on disk, read back by nibabel, SimpleITK and pydicom."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.errors import InputError, StorageError
from semgen_platform.phantom.cohort import CohortConfig, write_cohort
from semgen_platform.phantom.dicom import Study, write_study
from semgen_platform.phantom.files import oriented, write_itk, write_nifti
from semgen_platform.phantom.identity import made_up
from semgen_platform.phantom.labels import LABELS, labels_like
from semgen_platform.phantom.patient import draw_patient
from semgen_platform.phantom.scanner import draw_protocol, scan_patient
from semgen_platform.phantom.shapes import left_handed_affine, oblique_affine, ramp, water_sphere
from semgen_platform.progress import Progress
from semgen_platform.volume import Volume

CODES = ["LPS", "RAS", "LAS", "LPI", "ASL", "SPR"]


def ramp_hu(volume: Volume) -> Volume:
    """The ramp in whole HU, as formats without fractions need it."""
    return Volume(np.rint(volume.voxels).astype(np.int16), volume.ijk_to_lps_mm, padding_hu=None)


def read_nifti(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and LPS places (N, 3), by nibabel alone."""
    import nibabel

    image: Any = nibabel.load(path)
    values = np.asarray(image.dataobj, dtype=np.float64)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    ras = nibabel.affines.apply_affine(image.affine, index)
    return values.reshape(-1), ras * [-1, -1, 1]


def read_itk(image: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and LPS places of every voxel, by SimpleITK's own transform of three corners."""
    import SimpleITK

    values = SimpleITK.GetArrayFromImage(image).astype(np.float64)
    zero = np.array(image.TransformIndexToPhysicalPoint((0, 0, 0)))
    steps = [np.array(image.TransformIndexToPhysicalPoint(s)) - zero for s in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    z, y, x = np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij")
    index = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    return values.reshape(-1), zero + index @ np.array(steps)


def read_series(folder: Path) -> Any:
    """A DICOM series as SimpleITK puts it together."""
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


def assert_ramp(values: NDArray[np.float64], places: NDArray[np.float64], slack_hu: float) -> None:
    np.testing.assert_allclose(values, places @ [1.0, 3.0, 5.0], atol=slack_hu)


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_on_disk_keeps_world_positions_in_nifti(code: str, tmp_path: Path) -> None:
    turned = oriented(ramp(oblique_affine()), code)
    assert geometry.orientation_code(turned.ijk_to_lps_mm) == code
    write_nifti(turned, tmp_path / "ramp.nii.gz")
    assert_ramp(*read_nifti(tmp_path / "ramp.nii.gz"), slack_hu=1e-3)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("code", CODES)
def test_every_orientation_on_disk_keeps_world_positions_in_nrrd_and_metaimage(
    code: str, ending: str, tmp_path: Path
) -> None:
    import SimpleITK

    write_itk(oriented(ramp(oblique_affine()), code), tmp_path / f"ramp{ending}")
    image = SimpleITK.ReadImage(str(tmp_path / f"ramp{ending}"))
    assert_ramp(*read_itk(image), slack_hu=2e-3)


@pytest.mark.parametrize("syntax", ["plain", "rle", "jpeg2000"])
@pytest.mark.parametrize("code", ["LPS", "RAS", "LPI"])
def test_a_dicom_series_has_its_hu_at_their_world_positions(code: str, syntax: str, tmp_path: Path) -> None:
    study = Study(made_up(0, 1, "PHANTOM-0001", "female"), 0, 1)
    volume = oriented(ramp_hu(ramp(oblique_affine(), shape_zyx=(12, 36, 40))), code)
    write_study(tmp_path / "study", volume, study, kernel="soft", syntax=syntax, extras=False)  # type: ignore[arg-type]
    assert_ramp(*read_itk(read_series(tmp_path / "study" / "series")), slack_hu=0.51)  # rounded to whole HU


def test_a_series_may_rescale_each_slice_by_itself(tmp_path: Path) -> None:
    import pydicom

    seen = set()
    for number in range(12):
        study = Study(made_up(0, number, "P", "male"), 0, number)
        folder = tmp_path / str(number)
        write_study(folder, ramp_hu(ramp(left_handed_affine())), study, kernel="soft", syntax="plain", extras=False)
        slices = [pydicom.dcmread(p) for p in (folder / "series").iterdir()]
        seen.add(len({s.RescaleIntercept for s in slices}))
    assert seen == {1, 2}


def test_the_manifest_names_every_scan_with_patient_truth_and_labels(cohort: Path) -> None:
    with (cohort / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [r["patient_id"] for r in rows] == [f"PHANTOM-{n:04d}" for n in range(6)]
    for row in rows:
        assert (cohort / "scans" / row["path"]).exists()
        assert (cohort / "truth" / row["truth"]).is_file()
        assert row["coverage"] in ("chest", "chest_abdomen", "abdomen")
        assert row["sex"] in ("female", "male")
    assert [Path(r["path"]).name.partition(".")[2] or "dicom" for r in rows] == [
        "nii.gz", "dicom", "nrrd", "nii.gz", "mha", "dicom",
    ]  # fmt: skip
    held = {p.relative_to(cohort / "scans").parts[0] for p in (cohort / "scans").rglob("*") if p.is_file()}
    assert held == {Path(r["path"]).parts[0] for r in rows}


@pytest.mark.parametrize("number", range(6))
def test_a_file_and_its_truth_agree_in_world_space(cohort: Path, number: int) -> None:
    import SimpleITK

    path = next(p for p in (cohort / "scans").iterdir() if p.name.startswith(f"PHANTOM-{number:04d}"))
    if path.is_dir():
        values, places = read_itk(read_series(path / "series"))
    elif path.name.endswith(".nii.gz"):
        values, places = read_nifti(path)
    else:
        values, places = read_itk(SimpleITK.ReadImage(str(path)))
    truth = np.load(cohort / "truth" / f"PHANTOM-{number:04d}.npz")
    index = geometry.apply_affine(np.linalg.inv(truth["zyx_to_lps_mm"]), places)
    np.testing.assert_allclose(index, np.rint(index), atol=2e-3)
    labels = truth["labels_ZYX"][tuple(np.rint(index).astype(int).T)]
    bone = np.isin(labels, labels_like(r"T\d+|L\d|rib.*"))
    lungs = np.isin(labels, labels_like("lung_(upper|lower)_.*"))
    assert bone.any()
    assert np.median(values[bone]) > 120
    assert not lungs.any() or np.median(values[lungs]) < -650
    assert np.median(values[labels == LABELS["air"]]) < -950


def test_truth_holds_what_other_rooms_read(cohort: Path) -> None:
    truth = np.load(cohort / "truth" / "PHANTOM-0000.npz")
    assert truth["labels_ZYX"].dtype == np.uint8
    assert truth["body_xyz_mm"].dtype == np.float32
    assert truth["body_xyz_mm"].shape[-1] == 3
    assert float(truth["lattice_mm"]) == 8.0
    assert truth["zyx_to_lps_mm"].shape == truth["lattice_zyx_to_lps_mm"].shape == (4, 4)


def test_a_patient_is_the_same_alone_and_in_a_cohort(cohort: Path, cohort_config: CohortConfig) -> None:
    patient = draw_patient(cohort_config, cohort_config.seed, 3)
    protocol = draw_protocol(cohort_config, patient, cohort_config.seed, exact=False)
    scan = scan_patient(patient, protocol)
    truth = np.load(cohort / "truth" / "PHANTOM-0003.npz")
    np.testing.assert_array_equal(scan.labels_ZYX, truth["labels_ZYX"])
    values, _ = read_nifti(cohort / "scans" / "PHANTOM-0003.nii.gz")
    expected = oriented(scan.volume, protocol.orientation).voxels.transpose(2, 1, 0)
    np.testing.assert_array_equal(values.reshape(expected.shape), expected)


def test_a_cohort_is_completed_and_finished_scans_are_left_alone(
    cohort: Path, cohort_config: CohortConfig, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(cohort, out)
    lost, kept = out / "scans" / "PHANTOM-0002.nrrd", out / "scans" / "PHANTOM-0000.nii.gz"
    before, stamp = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    (out / ".partial-PHANTOM-0002.nrrd").write_bytes(b"torn")
    with Progress("phantom", quiet=True) as progress:
        summary = write_cohort(out, cohort_config, progress)
    assert (summary["written"], summary["already"]) == (1, 5)
    assert lost.read_bytes() == before
    assert kept.stat().st_mtime_ns == stamp
    assert not list(out.rglob(".partial*"))


def test_a_folder_with_anything_else_is_left_alone(cohort: Path, cohort_config: CohortConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with Progress("phantom", quiet=True) as progress:
        with pytest.raises(InputError, match="not empty"):
            write_cohort(tmp_path, cohort_config, progress)
        with pytest.raises(InputError, match="other settings"):
            write_cohort(cohort, cohort_config.model_copy(update={"seed": 99}), progress)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_cannot_be_made_is_named(cohort_config: CohortConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        Progress("phantom", quiet=True) as progress,
        pytest.raises(StorageError, match=rf"^{tmp_path}/file/ct cannot be read or written \(Not a directory\); mend"),
    ):
        write_cohort(tmp_path / "file" / "ct", cohort_config, progress)


def test_a_manifest_and_a_scan_that_cannot_be_written_name_the_cohort(
    cohort_config: CohortConfig, tmp_path: Path
) -> None:
    one = cohort_config.model_copy(update={"patients": 1, "first_patient": 0})
    out = tmp_path / "ct"
    with Progress("phantom", quiet=True) as progress:
        write_cohort(out, one, progress)
        (out / "manifest.csv").unlink()
        (out / "manifest.csv").mkdir()
        with pytest.raises(StorageError, match=rf"^{out} cannot be read or written \(Is a directory\); mend"):
            write_cohort(out, one, progress)
        (truth,) = (out / "truth").iterdir()
        truth.unlink()
        truth.mkdir()
        shutil.rmtree(out / "scans")
        with pytest.raises(StorageError, match=rf"^{out} cannot be read or written \(Is a directory\); mend"):
            write_cohort(out, one, progress)


def test_dicom_headers_carry_a_made_up_person_and_the_extras_lie_beside_the_series(cohort: Path) -> None:
    import pydicom

    study = cohort / "scans" / "PHANTOM-0001"
    series = [pydicom.dcmread(p, stop_before_pixels=True) for p in (study / "series").iterdir()]
    first = series[0]
    assert first.PatientID == "PHANTOM-0001"
    for keyword in ("PatientName", "PatientBirthDate", "InstitutionName", "ReferringPhysicianName", "AccessionNumber"):
        assert str(first[keyword].value)
    assert any(element.tag.is_private for element in first)
    assert len({s.SOPInstanceUID for s in series}) == len(series)
    assert len({(s.SeriesInstanceUID, s.StudyInstanceUID, s.FrameOfReferenceUID) for s in series}) == 1
    names = [int(p.name) for p in sorted((study / "series").iterdir())]
    order = [int(pydicom.dcmread(study / "series" / f"{n:06d}", stop_before_pixels=True).InstanceNumber) for n in names]
    assert order != sorted(order)
    scout = pydicom.dcmread(study / "scout" / "000001")
    dose = pydicom.dcmread(study / "dose" / "000001")
    assert "LOCALIZER" in scout.ImageType
    assert dose.Modality == "SR"
    assert {scout.StudyInstanceUID, dose.StudyInstanceUID} == {first.StudyInstanceUID}


def test_identities_depend_on_seed_and_number_alone() -> None:
    assert made_up(3, 5, "P", "male") == made_up(3, 5, "P", "male")
    assert len({made_up(3, n, "P", "male").accession for n in range(50)}) == 50


def test_the_tiny_shapes_are_exact() -> None:
    sphere = water_sphere(radius_mm=20)
    # 33.5 ml by the formula; voxels of 2 ul at the surface leave 2 %
    assert (sphere.voxels == 0).sum() * 2e-3 == pytest.approx(33.5, rel=0.02)
    assert np.linalg.det(left_handed_affine()[:3, :3]) < 0
    assert geometry.obliquity_deg(oblique_affine(12)) == pytest.approx(12)


def test_the_command_makes_a_cohort_and_says_so_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from semgen_cli.main import run

    small = ["--matrix", "32", "--set", "slice_mm=[10,10]", "--set", "coverage=[chest]"]
    assert run(["phantom", str(tmp_path / "ct"), "--patients", "1", "--json", "-q", *small]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["patients"], summary["written"]) == (1, 1)
    assert Path(summary["manifest"]).is_file()
    assert run(["phantom", str(tmp_path / "ct"), "--patients", "1", "--seed", "4", "-q", *small]) == 3
    assert run(["phantom", str(tmp_path / "new"), "--format", "jpeg"]) == 2
    assert "jpeg" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
