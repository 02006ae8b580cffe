"""Phantom scans as DICOM: a CT series as a scanner sends it, with a localizer and a dose report beside it if asked.

Slices lie in files whose names say nothing of their order. Written with pydicom alone (PS3.3 A.3 CT Image IOD).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.ids import uniform_stream
from semgen_platform.phantom.identity import Identity, uid
from semgen_platform.volume import Volume

Syntax = Literal["plain", "rle", "jpeg2000"]

SERIES, SCOUT, DOSE = "series", "scout", "dose"
"""Folders of a study."""

CT_IMAGE, DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.67"
EXPLICIT, RLE, JPEG2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
INTERCEPTS = (-1024, -2048)
"""Rescale intercepts of even and odd slices where a series rescales each slice by itself."""
PER_SLICE_SHARE = 0.3
"""Share of series that do."""


@dataclass(frozen=True)
class Study:
    """One patient's visit: whose it is, and the key that its UIDs are made from."""

    identity: Identity
    seed: int
    number: int

    def uid(self, *part: int | str) -> str:
        """The UID of a part of this study."""
        return uid(self.seed, self.number, *part)

    def tags(self) -> dict[str, Any]:
        """Attributes that every object of the study carries."""
        who = self.identity
        return {
            "SpecificCharacterSet": "ISO_IR 192",
            "PatientName": who.name,
            "PatientID": who.patient_id,
            "IssuerOfPatientID": "PHANTOM REGISTRY",
            "PatientBirthDate": who.birth_date.strftime("%Y%m%d"),
            "PatientSex": who.sex,
            "PatientAge": f"{(who.study_date - who.birth_date).days // 365:03d}Y",
            "PatientAddress": who.address,
            "InstitutionName": who.institution,
            "ReferringPhysicianName": who.physician,
            "OperatorsName": who.physician,
            "AccessionNumber": who.accession,
            "StudyID": str(1000 + self.number),
            "StudyDate": who.study_date.strftime("%Y%m%d"),
            "StudyTime": "083000",
            "StudyDescription": f"CT of {who.name.split('^')[0]}",
            "StudyInstanceUID": self.uid("study"),
            "FrameOfReferenceUID": self.uid("frame"),
            "PositionReferenceIndicator": "",
            "Manufacturer": who.maker,
            "ManufacturerModelName": who.model,
            "StationName": who.station,
        }


def write_study(folder: Path, volume: Volume, study: Study, *, kernel: str, syntax: Syntax, extras: bool) -> None:
    """Write the CT series of a study, and with `extras` a localizer and a dose report beside it.

    volume : int16 HU; slices are written as they lie along its z index axis.
    """
    _write_series(folder / SERIES, volume, study, kernel, syntax)
    if extras:
        _write_localizer(folder / SCOUT, volume, study)
        _write_dose(folder / DOSE, study)


def _write_series(folder: Path, volume: Volume, study: Study, kernel: str, syntax: Syntax) -> None:
    folder.mkdir(parents=True)
    rng = uniform_stream(study.seed, "files", study.number)
    names = rng.choice(1_000_000, size=volume.shape_zyx[0], replace=False)
    per_slice = rng.random() < PER_SLICE_SHARE
    tags = {**study.tags(), **_series_tags(volume, study, kernel)}
    start = datetime.combine(study.identity.study_date, time(8, 30))
    for k, picture in enumerate(volume.voxels):
        dataset = _dataset(CT_IMAGE, study.uid("slice", k), tags)
        dataset.InstanceNumber = str(k + 1)
        moment = start + timedelta(seconds=0.05 * k)
        dataset.AcquisitionDate = dataset.ContentDate = moment.strftime("%Y%m%d")
        dataset.AcquisitionTime = dataset.ContentTime = moment.strftime("%H%M%S.%f")
        position = geometry.apply_affine(volume.ijk_to_lps_mm, (0, 0, k))
        dataset.ImagePositionPatient = _decimals(position)
        dataset.SliceLocation = f"{position[2]:.4f}"
        _add_private(dataset, study.identity)
        _add_pixels(dataset, picture, INTERCEPTS[k % 2 if per_slice else 0], volume.padding_hu)
        if syntax != "plain":
            dataset.compress(RLE if syntax == "rle" else JPEG2000, generate_instance_uid=False)
        dataset.save_as(folder / f"{names[k]:06d}", enforce_file_format=True)


def _series_tags(volume: Volume, study: Study, kernel: str) -> dict[str, Any]:
    directions = geometry.direction_cosines(volume.ijk_to_lps_mm)
    thickness, row, column = volume.spacing_zyx_mm
    return {
        "Modality": "CT",
        "SeriesInstanceUID": study.uid("series"),
        "SeriesNumber": "2",
        "SeriesDescription": f"Body {thickness:.1f} {kernel}",
        "ProtocolName": "ThoraxAbdomen",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientPosition": "HFS",
        "ConvolutionKernel": kernel.upper(),
        "KVP": "120",
        "XRayTubeCurrent": "200",
        "ImageOrientationPatient": _decimals((*directions[:, 0], *directions[:, 1])),
        "PixelSpacing": _decimals((row, column)),
        "SliceThickness": f"{thickness:.4f}",
    }


def _decimals(values: Iterable[float]) -> list[str]:
    """Decimal strings of at most 16 characters (PS3.5 6.2, DS); 10 decimals, fewer for large numbers."""
    return [f"{v:.10f}"[:16] for v in values]


def _dataset(sop_class: str, sop_uid: str, tags: dict[str, Any]) -> Any:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = UID(sop_class), UID(sop_uid)
    meta.TransferSyntaxUID, meta.ImplementationClassUID = UID(EXPLICIT), UID(uid("semgen phantom"))
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def _add_private(dataset: Any, who: Identity) -> None:
    """A vendor block that repeats the name, as real ones do."""
    block = dataset.private_block(0x0029, "PHANTOMWORKS HEADER", create=True)
    block.add_new(0x10, "LO", f"{who.name} {who.accession}")
    block.add_new(0x11, "OB", b"raw calibration\0")


def _add_pixels(dataset: Any, picture_hu: NDArray[np.int16], intercept: int, padding_hu: float | None) -> None:
    stored = (picture_hu.astype(np.int32) - intercept).astype("<u2")
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = "1", str(intercept), "HU"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    if padding_hu is not None:
        dataset.PixelPaddingValue = int(padding_hu) - intercept
    dataset.PixelData = stored.tobytes()


def _write_localizer(folder: Path, volume: Volume, study: Study) -> None:
    """One projection from the front with the head up, as the scout is taken before the scan."""
    folder.mkdir(parents=True)
    directions = geometry.direction_cosines(volume.ijk_to_lps_mm)
    top = volume.shape_zyx[0] - 1
    tags = {
        **study.tags(),
        "Modality": "CT",
        "SeriesInstanceUID": study.uid("scout series"),
        "SeriesNumber": "1",
        "SeriesDescription": "Topogram",
        "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        "InstanceNumber": "1",
        "KVP": "120",
        "ImageOrientationPatient": _decimals((*directions[:, 0], *-directions[:, 2])),
        "ImagePositionPatient": _decimals(geometry.apply_affine(volume.ijk_to_lps_mm, (0, 0, top))),
        "PixelSpacing": _decimals((volume.spacing_zyx_mm[0], volume.spacing_zyx_mm[2])),
    }
    dataset = _dataset(CT_IMAGE, study.uid("scout"), tags)
    projection = volume.voxels[::-1].mean(axis=1, dtype=np.float32)
    _add_pixels(dataset, np.rint(projection).astype(np.int16), INTERCEPTS[0], None)
    dataset.save_as(folder / "000001", enforce_file_format=True)


def _write_dose(folder: Path, study: Study) -> None:
    """A radiation dose structured report with one number in it."""
    from pydicom.dataset import Dataset

    folder.mkdir(parents=True)
    tags = {**study.tags(), "Modality": "SR", "SeriesInstanceUID": study.uid("dose series")}
    dataset = _dataset(DOSE_REPORT, study.uid("dose"), {**tags, "SeriesNumber": "501", "InstanceNumber": "1"})
    title, unit, value = Dataset(), Dataset(), Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = "113701", "DCM", "X-Ray Radiation Dose Report"
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mGy.cm", "UCUM", "mGy.cm"
    value.NumericValue, value.MeasurementUnitsCodeSequence = "412", [unit]
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence, dataset.MeasuredValueSequence = [title], [value]
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.save_as(folder / "000001", enforce_file_format=True)
