"""A cohort of phantoms on disk: scans, their truth apart, and a manifest.

    OUT/scans/       files in the chosen formats, as an archive would hold them
    OUT/truth/       one .npz a scan: label map and canonical-body coordinates
    OUT/manifest.csv path below OUT/scans, patient, truth file, and labels
    OUT/cohort.json  the configuration, by which a second run knows that it completes this cohort

Each patient depends on (seed, number) alone, so a cohort can be cut off and completed, and a larger one begins with the
smaller one's patients.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Setting

from semgen_platform.errors import InputError
from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.dicom import SERIES, Study, Syntax, write_study
from semgen_platform.phantom.files import PARTIAL, oriented, write_itk, write_nifti, write_truth
from semgen_platform.phantom.identity import made_up
from semgen_platform.phantom.patient import Patient, PatientConfig, draw_patient
from semgen_platform.phantom.scanner import Protocol, ScannerConfig, draw_protocol, scan_patient
from semgen_platform.progress import Progress
from semgen_platform.storage import explained
from semgen_platform.volume import Volume

REVISION = 1
"""Raised by hand whenever the same configuration gives other scans."""

Format = Literal["nifti", "dicom", "mixed"]
DICOM = ""
MIXED = (".nii.gz", DICOM, ".nrrd", ".nii.gz", ".mha", DICOM)
"""Endings that a mixed cohort goes through by patient number; a DICOM study is a folder."""
SYNTAXES: tuple[Syntax, ...] = ("plain", "rle", "jpeg2000")
"""Transfer syntaxes; each DICOM series draws one."""


class CohortConfig(PatientConfig, ScannerConfig):
    """A cohort: how many patients, and how they and their scans differ."""

    patients: int = Setting(8, ge=1)
    first_patient: int = Setting(0, ge=0)
    """Number of the first patient; another start gives a held-out cohort that shares nobody."""
    seed: int = 0
    format: Format = "nifti"
    extras: bool = False
    """A localizer and a dose report beside each DICOM series."""


@dataclass(frozen=True)
class Work:
    """One patient's scan: what to make, and the file or (for DICOM) folder below OUT/scans that holds it."""

    patient: Patient
    protocol: Protocol
    ending: str
    extras: bool

    @property
    def path(self) -> str:
        return self.patient.patient_id + self.ending

    @property
    def truth(self) -> str:
        return f"{self.patient.patient_id}.npz"

    def row(self) -> dict[str, Any]:
        """The manifest's line."""
        return {
            "path": f"{self.path}/{SERIES}" if self.ending == DICOM else self.path,
            "patient_id": self.patient.patient_id,
            "truth": self.truth,
            "coverage": self.protocol.coverage,
            "sex": self.patient.sex,
            "kernel": self.protocol.kernel,
            "contrast": "yes" if self.patient.contrast_hu else "no",
            "nodules": self.patient.nodules,
        }


Each = Callable[[Callable[[Work], None], Sequence[Work]], Iterable[None]]
"""Applies a function to every item, in any order and process, and yields once for each that is done."""


def write_cohort(out: Path, config: CohortConfig, progress: Progress, each: Each = map) -> dict[str, Any]:
    """Write what is missing of a cohort below `out`; returns counts, bytes and seconds.

    each : how the scans are spread; `map` makes them here, one after the other.
    Raises InputError if `out` holds anything but this cohort, StorageError where it cannot be written.
    """
    started = time.monotonic()
    with explained(str(out)):
        _claim(out, config)
    works = [_plan(config, number) for number in range(config.first_patient, config.first_patient + config.patients)]
    missing = [work for work in works if not (out / "scans" / work.path).exists()]
    progress.advance(len(works) - len(missing))
    for _ in each(partial(_write, out), missing):
        progress.advance()
    with explained(str(out)):
        _write_manifest(out, works)
    size = sum(p.stat().st_size for work in works for p in _files(out / "scans" / work.path))
    return {
        "out": str(out),
        "patients": config.patients,
        "written": len(missing),
        "already": len(works) - len(missing),
        "format": config.format,
        "bytes": size,
        "manifest": str(out / "manifest.csv"),
        "seconds": round(time.monotonic() - started, 1),
    }


def _claim(out: Path, config: CohortConfig) -> None:
    """Make the folders, or check that they hold this cohort (of any number of patients)."""
    marker = out / "cohort.json"
    settings = {"revision": REVISION, **config.model_dump(mode="json", exclude={"patients"})}
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) != settings:
            raise InputError(
                f"{out} holds a cohort of other settings or another version, see {marker.name}; give a new folder"
            )
    elif out.exists() and (not out.is_dir() or any(not p.name.startswith(PARTIAL) for p in out.iterdir())):
        raise InputError(f"{out} is not empty and no phantom cohort; give a new folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _replace(marker, json.dumps(settings, indent=1))
    for folder in (out / "scans", out / "truth"):
        folder.mkdir(exist_ok=True)


def _plan(config: CohortConfig, number: int) -> Work:
    patient = draw_patient(config, config.seed, number)
    protocol = draw_protocol(config, patient, config.seed, exact=not config.pose_variation)
    endings = {"nifti": (".nii.gz",), "dicom": (DICOM,), "mixed": MIXED}[config.format]
    return Work(patient, protocol, endings[number % len(endings)], config.extras)


def _write(out: Path, work: Work) -> None:
    """Truth first, then the scan under its final name: a scan that is there is whole and has its truth."""
    scan = scan_patient(work.patient, work.protocol)
    with explained(str(out)):
        write_truth(scan, out / "truth" / work.truth)
        target = out / "scans" / work.path
        partial = out / f"{PARTIAL}{target.name}"
        if work.ending == DICOM:
            _write_dicom(scan.volume, work, partial)
        elif work.ending == ".nii.gz":
            write_nifti(oriented(scan.volume, work.protocol.orientation), partial)
        else:
            write_itk(oriented(scan.volume, work.protocol.orientation), partial)
        os.replace(partial, target)


def _write_dicom(volume: Volume, work: Work, folder: Path) -> None:
    """Slices are axial on every scanner, so of the orientation only flips within and along the stack are kept."""
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left
    patient, code = work.patient, work.protocol.orientation
    write_study(
        folder,
        oriented(volume, code if code[2] in "SI" else "LPS"),
        Study(made_up(patient.seed, patient.number, patient.patient_id, patient.sex), patient.seed, patient.number),
        kernel=work.protocol.kernel,
        syntax=SYNTAXES[int(uniform_stream(patient.seed, "syntax", patient.number).integers(len(SYNTAXES)))],
        extras=work.extras,
    )


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


def _write_manifest(out: Path, works: list[Work]) -> None:
    rows = [work.row() for work in works]
    partial = out / f"{PARTIAL}manifest.csv"
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, out / "manifest.csv")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{PARTIAL}{path.name}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
