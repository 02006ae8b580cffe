"""What one DICOM file is, by its header alone: an image of a CT series, or an object that is refused by name.

Pixels are never touched here. Sources: DICOM PS3.4 annex B.5 (storage SOP classes), PS3.3 C.7.6.1.1.2 and C.8.2.1.1.1
(Image Type).
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO

from semgen_platform.formats.dicom_header import number, numbers, read_dataset, text, texts
from semgen_platform.formats.multiframe import GROUP_TAGS, frames_of
from semgen_platform.formats.place import Place, Validator
from semgen_platform.formats.refusing import Refused, refusal
from semgen_platform.formats.splitting import Traits
from semgen_platform.volume import Refusal

LISTING_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "IssuerOfPatientID",
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "PixelSpacing",
    "ImageOrientationPatient", "ImagePositionPatient", "ConvolutionKernel", "AcquisitionNumber",
    "TemporalPositionIdentifier", *GROUP_TAGS,
]  # fmt: skip

STORAGE = "1.2.840.10008.5.1.4.1.1."
CT_CLASSES = (STORAGE + "2", STORAGE + "2.1", STORAGE + "2.2")  # CT, Enhanced CT, Legacy Converted Enhanced CT
MULTIFRAME_CT_CLASSES = CT_CLASSES[1:]
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"

REASON_BY_CLASS = {  # a class and everything below it; the longest match speaks
    DICOMDIR_CLASS: "not_an_image",
    STORAGE + "7": "secondary_capture",
    STORAGE + "9": "not_an_image",  # waveforms
    STORAGE + "11": "presentation_state",
    STORAGE + "66": "not_an_image",  # raw data, registrations
    STORAGE + "66.4": "segmentation",
    STORAGE + "66.5": "segmentation",
    STORAGE + "66.7": "segmentation",
    STORAGE + "88": "structured_report",
    STORAGE + "88.67": "dose_report",
    STORAGE + "88.68": "dose_report",
    STORAGE + "88.73": "dose_report",
    STORAGE + "88.74": "dose_report",
    STORAGE + "104": "not_an_image",  # encapsulated documents and meshes
    STORAGE + "104.1": "pdf",
    STORAGE + "481": "rt_object",
}
REASON_BY_MODALITY = {
    "SEG": "segmentation", "SR": "structured_report", "KO": "structured_report", "PR": "presentation_state",
    "DOC": "not_an_image", "RTSTRUCT": "rt_object", "RTPLAN": "rt_object", "RTDOSE": "rt_object",
    "RTIMAGE": "rt_object", "RTRECORD": "rt_object",
}  # fmt: skip
IMAGE_MODALITIES = frozenset({
    "AR", "BI", "BMD", "CR", "CT", "DG", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "LS", "MA", "MG", "MR", "NM", "OCT",
    "OP", "OPT", "OT", "PT", "PX", "RF", "RG", "SM", "TG", "US", "XA", "XC",
})  # fmt: skip
"""Defined terms of (0008,0060) that may be named in evidence; anything else could be free text."""

SENTENCES = {
    "localizer": "the image is a localizer (scout), a projection and no slice",
    "not_an_image": "the DICOM object holds no image",
    "secondary_capture": "the object is a screen capture or another secondary capture, not a reconstructed slice",
    "presentation_state": "the object is a presentation state",
    "segmentation": "the object is a segmentation",
    "structured_report": "the object is a structured report",
    "dose_report": "the object is a radiation dose report",
    "pdf": "the object wraps a PDF document",
    "rt_object": "the object belongs to radiotherapy (structure set, plan, dose or image)",
}


@dataclass(frozen=True, slots=True)
class DicomObject:
    """One DICOM file as a listing needs it; a small record, since an archive has millions."""

    place: Place
    relative: tuple[str, ...]
    """Path below the root, and the member of an archive; nothing for what its series names."""
    validator: Validator
    series_uid: str
    study_uid: str
    patient: tuple[str, str] | None
    refusal: Refusal | None
    frames: tuple[Traits, ...]
    """One for an image of a single slice, and for what is refused."""

    @property
    def series(self) -> tuple[str, ...]:
        """What is read, or refused, together: (series UID, "" for CT images or the reason of a refusal), or the file
        alone where no series is named."""
        part = "" if self.refusal is None else self.refusal.reasons[0]
        return (self.series_uid, part) if self.series_uid else ("", str(self.place))


def read_object(place: Place, relative: tuple[str, ...], validator: Validator, stream: BinaryIO) -> DicomObject:
    """The listing's record of one open DICOM file; a header that cannot be parsed is refused in the record."""
    try:
        dataset = read_dataset(place, tags=LISTING_TAGS, stream=stream)
        no = object_refusal(dataset)
        headers = frames_of(dataset) if no is None and is_multiframe(dataset) else [dataset]
    except Refused as error:
        return DicomObject(place, relative, validator, "", "", None, error.refusal, (Traits(),))
    except (OSError, MemoryError):
        raise
    except Exception as error:  # of pydicom, for elements of another kind than the standard gives them
        no = refusal("corrupt", "the DICOM header cannot be used", error=type(error).__name__)
        return DicomObject(place, relative, validator, "", "", None, no, (Traits(),))
    if no is None and any(_is_localizer(header) for header in headers):
        no = refusal("localizer", SENTENCES["localizer"])
    patient_id, series_uid = text(dataset, "PatientID"), sys.intern(text(dataset, "SeriesInstanceUID"))
    return DicomObject(
        place=place,
        relative=() if series_uid else relative,
        validator=validator,
        series_uid=series_uid,
        study_uid=sys.intern(text(dataset, "StudyInstanceUID")),
        patient=_same((patient_id, text(dataset, "IssuerOfPatientID"))) if patient_id else None,
        refusal=no,
        frames=tuple(_traits(header) for header in headers) if no is None else (Traits(),),
    )


def _traits(dataset: Any) -> Traits:
    rows, columns = number(dataset, "Rows") or 0, number(dataset, "Columns") or 0
    return Traits(
        image_type=sys.intern("/".join(texts(dataset, "ImageType")).upper()),
        kernel=sys.intern("/".join(texts(dataset, "ConvolutionKernel"))),
        orientation=_shared(numbers(dataset, "ImageOrientationPatient", 6)),
        position_mm=numbers(dataset, "ImagePositionPatient", 3),
        pixel_spacing_mm=_shared(numbers(dataset, "PixelSpacing", 2)),
        shape_yx=_same((int(rows), int(columns))),
        time_point=sys.intern(text(dataset, "TemporalPositionIdentifier")),
        acquisition=sys.intern(text(dataset, "AcquisitionNumber")),
    )


def _shared(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """The same tuple for the same numbers, bit for bit, since a million slices have few directions and pixel sizes."""
    return None if values is None else _unpacked(struct.pack(f"{len(values)}d", *values))


@lru_cache(maxsize=4096)
def _unpacked(numbers: bytes) -> tuple[float, ...]:
    return struct.unpack(f"{len(numbers) // 8}d", numbers)


@lru_cache(maxsize=4096)
def _same(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    return pair


def object_refusal(dataset: Any) -> Refusal | None:
    """Why this object is no slice of a CT series, or None if it is one."""
    sop_class = _sop_class(dataset)
    modality = text(dataset, "Modality").upper()
    reason = _reason_by_class(sop_class) or REASON_BY_MODALITY.get(modality)
    if reason is not None:
        return refusal(reason, SENTENCES[reason])
    if not sop_class and not modality:
        return refusal("corrupt", "the file looks like DICOM but its header names neither object class nor modality")
    if sop_class not in CT_CLASSES and (sop_class.startswith(STORAGE) or modality != "CT"):
        known = modality if modality in IMAGE_MODALITIES else "other"
        return refusal("not_ct_modality", f"the image is of modality {known}, not CT", modality=known)
    return _ct_refusal(dataset)


def is_multiframe(dataset: Any) -> bool:
    """Whether the object is an Enhanced or Legacy Converted Enhanced CT image."""
    return _sop_class(dataset) in MULTIFRAME_CT_CLASSES


def _is_localizer(header: Any) -> bool:
    """Whether an image, or one frame of it, is a scout: a projection and no slice."""
    return "LOCALIZER" in {value.upper() for value in texts(header, "ImageType")}


def _sop_class(dataset: Any) -> str:
    return text(dataset, "SOPClassUID") or text(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID")


def _reason_by_class(sop_class: str) -> str | None:
    while sop_class:
        if sop_class in REASON_BY_CLASS:
            return REASON_BY_CLASS[sop_class]
        sop_class = sop_class.rpartition(".")[0]
    return None


def _ct_refusal(dataset: Any) -> Refusal | None:
    if _is_localizer(dataset):
        return refusal("localizer", SENTENCES["localizer"])
    image_type = {value.upper() for value in texts(dataset, "ImageType")}
    if any(value.startswith(("SCREEN SAVE", "SCREENSAVE", "DOSE_INFO")) for value in image_type):
        return refusal("secondary_capture", SENTENCES["secondary_capture"])
    if (
        text(dataset, "SamplesPerPixel") not in ("", "1")
        or text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    ):
        return refusal("color_image", "the image has colour samples, and a CT slice has one grey value a pixel")
    frames = number(dataset, "NumberOfFrames") or 0
    if frames > 1 and not is_multiframe(dataset):
        sentence = "a classic CT image with several frames does not say where each lies; export it as Enhanced CT"
        return refusal("unsupported_format", sentence, frames=int(frames))
    return None
