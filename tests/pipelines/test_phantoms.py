"""A cohort made by several workers: the files that one process makes."""

import filecmp
from pathlib import Path

import pytest

from semgen_pipelines.phantoms import write_cohort_with
from semgen_platform.phantom.cohort import CohortConfig, write_cohort
from semgen_platform.progress import Progress


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_and_only_what_is_missing(tmp_path: Path) -> None:
    config = CohortConfig(patients=3, seed=5, matrix=32, slice_mm=(8, 8), format="mixed")
    with Progress("phantom", quiet=True) as progress:
        write_cohort(tmp_path / "one", config, progress)
        write_cohort_with(2, tmp_path / "two", config, progress)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) > 2 * config.patients
    assert sorted(p.relative_to(tmp_path / "two") for p in (tmp_path / "two").rglob("*") if p.is_file()) == files
    _, different, unreadable = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", files, shallow=False)
    assert not different
    assert not unreadable

    lost, kept = Path("scans/PHANTOM-0002.nrrd"), tmp_path / "two" / "scans" / "PHANTOM-0000.nii.gz"
    (tmp_path / "two" / lost).unlink()
    stamp = kept.stat().st_mtime_ns
    with Progress("phantom", quiet=True) as progress:
        summary = write_cohort_with(2, tmp_path / "two", config, progress)
    assert (summary["written"], summary["already"]) == (1, 2)
    assert kept.stat().st_mtime_ns == stamp
    assert filecmp.cmp(tmp_path / "one" / lost, tmp_path / "two" / lost, shallow=False)
