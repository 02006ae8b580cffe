"""One canonical body and one small cohort for all tests of the phantoms; building them takes most of the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from semgen_platform.phantom.anatomy import canonical_body
from semgen_platform.phantom.canvas import Canvas
from semgen_platform.phantom.cohort import CohortConfig, write_cohort
from semgen_platform.phantom.patient import Patient, draw_patient
from semgen_platform.phantom.scanner import PhantomScan, Protocol, draw_protocol, scan_patient
from semgen_platform.progress import Progress

SEED = 11


@pytest.fixture(scope="session")
def body() -> Canvas:
    return canonical_body()


@pytest.fixture(scope="session")
def cohort_config() -> CohortConfig:
    """Six small scans in all formats: numbers 0 and 3 are NIfTI, 1 and 5 DICOM, 2 NRRD, 4 MetaImage."""
    return CohortConfig(patients=6, seed=SEED, format="mixed", extras=True, matrix=64, slice_mm=(7, 9), noise_hu=(5, 9))


@pytest.fixture(scope="session")
def cohort(cohort_config: CohortConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "cohort"
    with Progress("phantom", quiet=True) as progress:
        write_cohort(out, cohort_config, progress)
    return out


@pytest.fixture(scope="session")
def posed() -> tuple[Patient, Protocol, PhantomScan]:
    """A patient with every variation, scanned from chest to pelvis on an oblique grid."""
    config = CohortConfig(seed=SEED, matrix=96, slice_mm=(4, 4), coverage=("chest_abdomen",), oblique_share=1)
    patient = draw_patient(config, SEED, 20)
    protocol = draw_protocol(config, patient, SEED, exact=False)
    return patient, protocol, scan_patient(patient, protocol)
