"""An archive of invented patients with identifiers planted wherever files have room: for bench_deidentification.py.

DICOM as the phantom writes it, then spoiled: standard, private and nested attributes, several values, other character
sets, preamble, meta header, trailing padding; NIfTI, NRRD and MetaImage headers; names of files, folders, archives and
their members; objects and files that ingest refuses. Each identifier occurs under one name only, so a search can tell.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID

from semgen_platform.geometry import affine_from
from semgen_platform.phantom.dicom import DOSE, SCOUT, SERIES, Study, Syntax, write_study
from semgen_platform.phantom.identity import Identity
from semgen_platform.volume import Volume


def words(text: str) -> list[str]:
    return text.split()


SHAPE_ZYX, SPACING_XYZ_MM = (20, 36, 40), (0.75, 0.75, 2.5)
SYLLABLES = words("bra dor mel tis kan vor lum pes gar nil hov zet quil fam jor wex")
KANJI = "山田中村佐藤鈴木高橋渡辺伊東加清水林森池阿部石井川原島崎松本竹内"

NAME_TAGS = words(
    "OtherPatientNames PatientBirthName PatientMotherBirthName PerformingPhysicianName NameOfPhysiciansReadingStudy "
    "PhysiciansOfRecord RequestingPhysician ScheduledPerformingPhysicianName ResponsiblePerson ConsultingPhysicianName "
    "NamesOfIntendedRecipientsOfResults PersonName HumanPerformerName VerifyingObserverName"
)
NUMBER_TAGS = words(
    "OtherPatientIDs MedicalRecordLocator DeviceSerialNumber DetectorID GantryID AdmissionID ServiceEpisodeID StudyID "
    "RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID FillerOrderNumberImagingServiceRequest "
    "PlacerOrderNumberImagingServiceRequest PatientTelephoneNumbers StationName PlateID CassetteID IssuerOfAdmissionID "
    "InterpretationID SpecimenAccessionNumber"
)
TEXT_TAGS = words(
    "InstitutionalDepartmentName InstitutionAddress AdmittingDiagnosesDescription SeriesDescription "
    "StudyDescription ProtocolName RequestedProcedureDescription PerformedProcedureStepDescription Occupation "
    "ResponsibleOrganization ContrastBolusAgent ReasonForStudy RequestingService PatientState "
    "CurrentPatientLocation SpecialNeeds PatientComments AdditionalPatientHistory VisitComments "
    "DerivationDescription EthnicGroup RegionOfResidence CountryOfResidence BranchOfService MilitaryRank "
    "PatientReligiousPreference AcquisitionDeviceProcessingDescription RequestedContrastAgent "
    "CommentsOnThePerformedProcedureStep ImagingServiceRequestComments FrameComments"
)
DATE_TAGS = words(
    "LastMenstrualDate PerformedProcedureStepStartDate ScheduledProcedureStepStartDate AdmittingDate SeriesDate "
    "DateOfLastCalibration ContentDate InstanceCreationDate ScheduledStudyStartDate CurveDate"
)
UID_TAGS = ("FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID", "IrradiationEventUID", "DeviceUID")
TECHNICAL = [  # kernel, manufacturer, model, body part, kV, mA, mAs: what must be kept exactly
    ("B30f", "SIEMENS", "SOMATOM Definition AS+", "CHEST", 120.0, 250.0, 88.0),
    ("STANDARD", "GE MEDICAL SYSTEMS", "LightSpeed VCT", "ABDOMENPELVIS", 100.0, 440.0, 12.0),
    ("YB", "Philips", "Brilliance 64", "HEADNECK", 140.0, 90.0, 301.0),
    ("FC18-H", "TOSHIBA", "Aquilion ONE", "CHESTABDPELVIS", 80.0, 33.0, 5.0),
]
CHARACTER_SETS = ("ISO_IR 192", "ISO_IR 100", ["", "ISO 2022 IR 87"], "ISO_IR 192")


@dataclass
class Planted:
    """Invented identifiers, each with where it was put; and what must be found in the lake, {what: value} by path."""

    rng: np.random.Generator
    identifiers: dict[str, str] = field(default_factory=dict)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    studied: dict[str, date] = field(default_factory=dict)

    def new(self, where: str, make: Callable[[], str]) -> str:
        """A text that was not planted before."""
        while (text := make()) in self.identifiers:
            pass
        self.identifiers[text] = where
        return text

    def word(self) -> str:
        return "".join(self.rng.choice(SYLLABLES, 4)).capitalize()

    def name(self, where: str, accent: str = "") -> str:
        return self.new(where, lambda: f"{self.word()}{accent}^{self.word()}")

    def kanji(self, where: str) -> str:
        return self.new(where, lambda: "".join(self.rng.choice(list(KANJI), 5)))

    def number(self, where: str) -> str:
        return self.new(where, lambda: f"Q{self.rng.integers(10**4, 10**5)}-{self.rng.integers(10**5, 10**6)}")

    def text(self, where: str) -> str:
        """Free text of which the name in it is the identifier."""
        return f"seen by {self.name(where).replace('^', ' ')}"

    def birthday(self, where: str) -> str:
        """Before there was CT, so that no shifted date of a study can be one of these by chance."""
        return self.new(where, lambda: (date(1925, 1, 1) + timedelta(int(self.rng.integers(16000)))).strftime("%Y%m%d"))

    def uid(self, where: str) -> str:
        return self.new(where, lambda: f"2.25.{int.from_bytes(self.rng.bytes(15), 'big')}")


def ct_hu(seed: int) -> NDArray[np.int16]:
    """Noisy air around a block of tissue."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(-1000, 9, SHAPE_ZYX)
    hu[:, 6:30, 8:31] = rng.normal(45, 12, (20, 24, 23))
    return np.rint(hu).clip(-1024).astype(np.int16)  # the writer of DICOM stores from -1024 on


def identity(plan: Planted, kind: str, day: date) -> Identity:
    birth = plan.birthday(f"{kind} PatientBirthDate")
    plan.identifiers.setdefault(f"{day:%Y%m%d}", f"{kind} StudyDate")
    return Identity(
        name=plan.name(f"{kind} PatientName"), patient_id=plan.number(f"{kind} PatientID"),
        birth_date=date(int(birth[:4]), int(birth[4:6]), int(birth[6:])), sex="F",
        address=plan.text(f"{kind} PatientAddress"), institution=plan.text(f"{kind} InstitutionName"),
        physician=plan.name(f"{kind} ReferringPhysicianName"), accession=plan.number(f"{kind} AccessionNumber"),
        study_date=day, maker="SIEMENS", model="Emotion 16", station="CT1",
    )  # fmt: skip


def add_standard(dataset: Dataset, plan: Planted, kind: str, accent: str) -> None:
    """Every text, name, number, date and UID tag of the lists, some of them with several values."""
    for number, tag in enumerate(NAME_TAGS):
        values = [plan.name(f"{kind} {tag}", accent) for _ in range(1 + (number % 3 == 0))]
        setattr(dataset, tag, values if len(values) > 1 else values[0])
    for number, tag in enumerate(NUMBER_TAGS):
        values = [plan.number(f"{kind} {tag}") for _ in range(1 + (tag.startswith("OtherPatient")) + (number % 7 == 0))]
        setattr(dataset, tag, values if len(values) > 1 else values[0])
    for tag in TEXT_TAGS:
        setattr(dataset, tag, plan.text(f"{kind} {tag}")[:64])
    for tag in DATE_TAGS:
        setattr(dataset, tag, plan.birthday(f"{kind} {tag}"))
    for tag in UID_TAGS:
        setattr(dataset, tag, plan.uid(f"{kind} {tag}"))


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for tag, value in values.items():
        setattr(dataset, tag, Items(value) if isinstance(value, list) and isinstance(value[0], Dataset) else value)
    return dataset


def add_nested(dataset: Dataset, plan: Planted, kind: str) -> None:
    where = f"{kind} in sequence"
    code = item(CodeValue=plan.number(where), CodeMeaning=plan.text(where))
    person = item(
        InstitutionName=plan.text(where), PersonAddress=plan.text(where), PersonTelephoneNumbers=plan.number(where),
        PersonIdentificationCodeSequence=[code],
    )  # fmt: skip
    modified = item(PatientName=plan.name(where), PatientID=plan.number(where), PatientBirthDate=plan.birthday(where))
    original = item(ModifiedAttributesSequence=[modified], SourceOfPreviousValues=plan.text(where))
    request = item(
        ScheduledProcedureStepDescription=plan.text(where), RequestedProcedureID=plan.number(where),
        ScheduledProtocolCodeSequence=[item(CodeMeaning=plan.text(where), CodeValue=plan.number(where))],
    )  # fmt: skip
    dataset.ReferringPhysicianIdentificationSequence = Items([person])
    dataset.RequestAttributesSequence = Items([request])
    dataset.OriginalAttributesSequence = Items([original])
    dataset.OtherPatientIDsSequence = Items(
        [item(PatientID=plan.number(where), IssuerOfPatientID=plan.text(where)) for _ in range(2)]
    )
    dataset.ReferencedStudySequence = Items([item(ReferencedSOPInstanceUID=plan.uid(where))])


def add_private(dataset: Dataset, plan: Planted, kind: str) -> None:
    where = f"{kind} private"
    for group, creator in ((0x0019, plan.text(where)), (0x0029, "SIEMENS CSA HEADER"), (0x0099, "SPECTRUM DYNAMICS")):
        block = dataset.private_block(group, creator, create=True)
        block.add_new(0x10, "LO", plan.text(where))
        block.add_new(0x11, "PN", plan.name(where))
        block.add_new(0x12, "DA", plan.birthday(where))
        block.add_new(0x13, "OB", plan.text(where).encode() + b"\0\1")
        block.add_new(0x14, "SQ", Items([item(PatientName=plan.name(where), PatientID=plan.number(where))]))
        block.add_new(0x15, "UT", json.dumps({"patient": plan.name(where), "id": plan.number(where)}))


def spoil(path: Path, plan: Planted, kind: str, change: Callable[[Dataset], None]) -> None:
    """Change one DICOM file, and put identifiers where a data set has none of its own: preamble, meta header, end."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.file_meta.SourceApplicationEntityTitle = plan.number(f"{kind} meta header")
    dataset.preamble = plan.text(f"{kind} preamble").encode().ljust(128, b"\0")
    dataset.add_new(0xFFFCFFFC, "OB", plan.text(f"{kind} trailing padding").encode() + b"\0\0")
    dataset.save_as(path, enforce_file_format=True)


def setting(values: Mapping[str, Any]) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for tag, value in values.items():
            setattr(dataset, tag, value)

    return change


def write_series(root: Path, plan: Planted, number: int) -> None:
    """Two studies of one patient, with localizer and dose report; the folder bears the patient's name."""
    technical, charset = TECHNICAL[number % 4], CHARACTER_SETS[number % 4]
    accent = "ü" if charset != CHARACTER_SETS[2] else ""
    first = date(2016, 1, 1) + timedelta(days=31 * number)
    who = identity(plan, "DICOM standard", first)
    for visit, later in enumerate((0, 11 + number)):
        folder = root / f"{who.name.replace('^', '_')}_{plan.number('folder name')}"
        day = first + timedelta(days=later)
        plan.identifiers.setdefault(f"{day:%Y%m%d}", "DICOM standard StudyDate")
        volume = Volume(ct_hu(100 * number + visit), affine_from(SPACING_XYZ_MM, (0, 0, 10.0 * number)), "CT")
        study = Study(Identity(**{**vars(who), "study_date": day}), 7, 100 * number + visit)
        syntax: Syntax = "rle" if number % 2 else "plain"
        write_study(folder, volume, study, kernel="soft", syntax=syntax, extras=visit == 0)
        common = Dataset()
        common.SpecificCharacterSet = charset
        add_standard(common, plan, "DICOM standard", accent)
        add_nested(common, plan, "DICOM")
        add_private(common, plan, "DICOM")
        common.SeriesInstanceUID, common.StudyInstanceUID = plan.uid("DICOM UIDs"), plan.uid("DICOM UIDs")
        if charset == CHARACTER_SETS[2]:
            written = f"Sei^Mei={plan.kanji('DICOM not ASCII')}^{plan.kanji('DICOM not ASCII')}"
            common.OtherPatientNames = [*common.OtherPatientNames, written]
        common.ConvolutionKernel, common.Manufacturer, common.ManufacturerModelName = technical[:3]
        common.BodyPartExamined, common.KVP = technical[3:5]
        common.XRayTubeCurrent, common.Exposure = int(technical[5]), int(technical[6])
        for path in sorted((folder / SERIES).iterdir()):

            def change(dataset: Dataset, common: Dataset = common) -> None:
                dataset.update(common)
                dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID(plan.uid("DICOM UIDs"))
                dataset.ImageComments = plan.text("DICOM of one slice")

            spoil(path, plan, "DICOM file", change)
        values = dict(zip(("kernel", "manufacturer", "model", "body_part", "kvp", "tube_current_ma", "exposure_mas"),
                          technical, strict=True))  # fmt: skip
        series = str(folder / SERIES)
        plan.kept[series] = {**values, "contrast": True, "slice_thickness_mm": 2.5, "voxels": digest(volume.voxels)}
        plan.patients[series], plan.studied[series] = who.patient_id, day
        if visit == 0:
            refuse_objects(folder, plan)


def write_multiframe(root: Path, plan: Planted, number: int) -> None:
    """One Enhanced CT object, with identifiers in the groups that its frames share and in those of each frame."""
    where, day = "DICOM functional groups", date(2013, 1, 1) + timedelta(days=37 * number)
    who = identity(plan, "DICOM multi-frame", day)
    singles = root / plan.word()
    volume = Volume(ct_hu(9500 + number), affine_from(SPACING_XYZ_MM, (0, 0, 30)), "CT")
    write_study(singles, volume, Study(who, 9, 9500 + number), kernel="soft", syntax="plain", extras=False)
    slices = [pydicom.dcmread(path) for path in sorted((singles / SERIES).iterdir())]
    shutil.rmtree(singles)
    whole, shared, first = copy.deepcopy(slices[0]), Dataset(), slices[0]
    enhanced = UID("1.2.840.10008.5.1.4.1.1.2.1")
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = enhanced
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
                "ConvolutionKernel"):  # fmt: skip
        delattr(whole, tag)
    converted = item(
        PatientName=plan.name(where), OtherPatientIDs=plan.number(where), PatientBirthDate=plan.birthday(where),
        RequestAttributesSequence=[item(RequestedProcedureDescription=plan.text(where))],
    )  # fmt: skip
    converted.private_block(0x0031, plan.text(where), create=True).add_new(1, "LO", plan.name(where))
    shared.PixelMeasuresSequence = Items([item(PixelSpacing=first.PixelSpacing, SliceThickness=2.5)])
    shared.PlaneOrientationSequence = Items([item(ImageOrientationPatient=first.ImageOrientationPatient)])
    shared.CTReconstructionSequence = Items([item(ConvolutionKernel=plan.new(where, plan.word))])
    shared.IrradiationEventIdentificationSequence = Items([item(IrradiationEventUID=plan.uid(where))])
    shared.UnassignedSharedConvertedAttributesSequence = Items([converted])
    region = item(CodeValue=plan.number(where), CodeMeaning=plan.text(where))
    shared.FrameAnatomySequence = Items([item(AnatomicRegionSequence=[region])])
    whole.SharedFunctionalGroupsSequence = Items([shared])
    whole.PerFrameFunctionalGroupsSequence = Items([frame_groups(plan, where, one) for one in slices])
    whole.NumberOfFrames, whole.PixelData = len(slices), b"".join(one.PixelData for one in slices)
    path = root / plan.number("file name")
    whole.save_as(path, enforce_file_format=True)
    spoil(path, plan, "DICOM multi-frame", lambda dataset: add_standard(dataset, plan, "DICOM multi-frame", ""))
    plan.kept[str(path)] = {"slice_thickness_mm": 2.5, "voxels": digest(volume.voxels)}
    plan.patients[str(path)], plan.studied[str(path)] = who.patient_id, day


def frame_groups(plan: Planted, where: str, one: Dataset) -> Dataset:
    converted = item(
        PatientComments=plan.text(where), AcquisitionDate=plan.birthday(where), SOPInstanceUID=plan.uid(where)
    )
    content = item(
        FrameComments=plan.text(where), FrameLabel=plan.number(where),
        FrameAcquisitionDateTime=f"{plan.birthday(where)}120000",
    )  # fmt: skip
    values = item(RescaleSlope=one.RescaleSlope, RescaleIntercept=one.RescaleIntercept, RescaleType="HU")
    derived = item(DerivationDescription=plan.text(where))
    groups = Dataset()
    groups.PlanePositionSequence = Items([item(ImagePositionPatient=one.ImagePositionPatient)])
    groups.PixelValueTransformationSequence = Items([values])
    groups.FrameContentSequence = Items([content])
    groups.DerivationImageSequence = Items([derived])
    groups.UnassignedPerFrameConvertedAttributesSequence = Items([converted])
    return groups


def refuse_objects(folder: Path, plan: Planted) -> None:
    """Objects that are refused: localizer, dose report with names in its content tree, secondary capture."""
    for path in (next((folder / SCOUT).iterdir()), next((folder / DOSE).iterdir())):

        def change(dataset: Dataset) -> None:
            add_standard(dataset, plan, "refused DICOM", "")
            add_nested(dataset, plan, "refused DICOM")
            add_private(dataset, plan, "refused DICOM")
            where = "refused DICOM in content"
            contents = [
                item(ValueType="PNAME", PersonName=plan.name(where)),
                item(ValueType="TEXT", TextValue=plan.text(where)),
            ]
            dataset.ContentSequence = Items([item(ValueType="CONTAINER", ContentSequence=contents)])

        spoil(path, plan, "refused DICOM file", change)
    capture = folder / SCOUT / plan.number("file name")
    shutil.copy(next((folder / SCOUT).iterdir()), capture)
    spoil(capture, plan, "refused DICOM file", setting({"SOPClassUID": UID("1.2.840.10008.5.1.4.1.1.7")}))


def write_misused(root: Path, plan: Planted) -> None:
    """Names and numbers typed into technical fields of an otherwise good series, and of some that are refused."""
    where, day = "DICOM technical field", date(2014, 2, 1)

    def series(change: Callable[[Dataset], None]) -> None:
        folder = root / plan.word()
        volume = Volume(ct_hu(9000), affine_from(SPACING_XYZ_MM, (0, 0, -50)), "CT")
        study = Study(identity(plan, where, day), 8, len(plan.identifiers))
        write_study(folder, volume, study, kernel="soft", syntax="plain", extras=False)
        for path in (folder / SERIES).iterdir():
            spoil(path, plan, where, change)

    text = {tag: plan.text(where) for tag in ("ConvolutionKernel", "Manufacturer", "ManufacturerModelName")}
    text["BodyPartExamined"] = plan.new(where, lambda: plan.word().upper())
    series(setting(text))
    day += timedelta(days=40)
    numeric = {tag: plan.birthday(where) for tag in ("KVP", "XRayTubeCurrent", "Exposure", "SliceThickness")}
    series(setting(numeric))
    for tag in ("Modality", "PhotometricInterpretation", "PatientPosition", "RescaleType", "FilterType"):
        day += timedelta(days=40)
        series(setting({tag: plan.new(where, lambda: plan.word().upper())}))
    day += timedelta(days=40)
    series(setting({"ImageType": ["DERIVED", "SECONDARY", plan.new(where, lambda: plan.word().upper())]}))


def digest(voxels_ZYX: NDArray[Any]) -> str:
    """Of voxels whatever their axis order was turned to: sorted values, since orientation is tested elsewhere."""
    return hashlib.sha256(np.sort(voxels_ZYX, axis=None).astype("<i2").tobytes()).hexdigest()


def nifti_bytes(plan: Planted, seed: int, version: int = 1) -> tuple[bytes, NDArray[np.int16]]:
    """A NIfTI file with identifiers in every text field and three extensions."""
    kind: Any = nib.Nifti1Image if version == 1 else nib.Nifti2Image
    image = kind(ct_hu(seed).T, affine_from(SPACING_XYZ_MM, (0, 0, 0)))
    image.set_sform(image.affine, 1)
    header, where = image.header, f"NIfTI-{version} header"
    header["descrip"], header["aux_file"] = plan.text(where)[:79], plan.number(where)
    header["intent_name"] = plan.new(where, lambda: plan.word()[:15])
    if version == 1:
        header["db_name"], header["data_type"] = plan.number(where), plan.new(where, lambda: plan.word()[:9])
    nested = io.BytesIO()
    pydicom.dcmwrite(nested, item(PatientName=plan.name("NIfTI extension"), PatientID=plan.number("NIfTI extension")),
                     implicit_vr=False, little_endian=True)  # fmt: skip
    for code, data in (("comment", plan.text("NIfTI extension").encode()), (2, nested.getvalue()),
                       ("afni", f'<AFNI note="{plan.name("NIfTI extension")}"/>'.encode())):  # fmt: skip
        header.extensions.append(nib.nifti1.Nifti1Extension(code, data))
    return image.to_bytes(), ct_hu(seed)


def write_nifti(root: Path, plan: Planted, number: int) -> None:
    data, voxels = nifti_bytes(plan, 5000 + number, 1 + number % 2)
    folder = root / plan.number("folder name")
    folder.mkdir()
    path = folder / f"{plan.name('file name').replace('^', ' ')}.nii{'.gz' if number % 3 else ''}"
    if path.suffix == ".gz":
        with path.open("wb") as file, gzip.GzipFile(plan.number("name in gzip"), "wb", fileobj=file) as packed:
            packed.write(data)
    else:
        path.write_bytes(data)
    plan.kept[str(path)] = {"voxels": digest(voxels), "spacing_z_mm": 2.5}


def write_nrrd(root: Path, plan: Planted, number: int) -> None:
    """Comments, key/value pairs and free fields; detached every other time, the data file named after somebody."""
    where, voxels = "NRRD header", ct_hu(6000 + number)
    z, y, x = voxels.shape
    folder = root / plan.number("folder name")
    folder.mkdir()
    data_file = folder / f"{plan.number('file name')}.raw" if number % 2 else None
    lines = [
        "NRRD0005", f"# {plan.text(where)}", f"content: {plan.text(where)}", "type: short", "dimension: 3",
        "space: left-posterior-superior", f"sizes: {x} {y} {z}", "space directions: (0.75,0,0) (0,0.75,0) (0,0,2.5)",
        "space origin: (0,0,0)", "endian: little", "encoding: raw", f"sample units: {plan.text(where)}",
        f'labels: "{plan.name(where)}" "{plan.name(where)}" "z"', f"patient:={plan.name(where)}",
        f"DICOM_0010_0020:={plan.number(where)}", f"born:={plan.birthday(where)}", f"# {plan.number(where)}",
        *([f"data file: {data_file.name}"] if data_file else []), "", "",
    ]  # fmt: skip
    path = folder / f"{plan.name('file name').replace('^', '-')}.{'nhdr' if data_file else 'nrrd'}"
    path.write_bytes("\n".join(lines).encode() + (b"" if data_file else voxels.tobytes()))
    if data_file:
        data_file.write_bytes(voxels.tobytes())
    plan.kept[str(folder if data_file else path)] = {"voxels": digest(voxels), "spacing_z_mm": 2.5}


def write_metaimage(root: Path, plan: Planted, number: int) -> None:
    where, voxels = "MetaImage header", ct_hu(7000 + number)
    z, y, x = voxels.shape
    lines = [
        "ObjectType = Image", f"Comment = {plan.text(where)}", f"ObjectSubType = {plan.text(where)}", "NDims = 3",
        f"Name = {plan.name(where)}", f"ID = {plan.number(where)}", f"AcquisitionDate = {plan.birthday(where)}",
        f"PatientName = {plan.name(where)}", f"Patient ID = {plan.number(where)}", "BinaryData = True",
        "BinaryDataByteOrderMSB = False", "CompressedData = False", "TransformMatrix = 1 0 0 0 1 0 0 0 1",
        "Offset = 0 0 0", f"AnatomicalOrientation = {plan.word()}", "ElementSpacing = 0.75 0.75 2.5",
        f"DimSize = {x} {y} {z}", "ElementType = MET_SHORT", "ElementDataFile = LOCAL", "",
    ]  # fmt: skip
    path = root / f"{plan.name('file name').replace('^', ', ')}.mha"
    path.write_bytes("\n".join(lines).encode() + voxels.tobytes())
    plan.kept[str(path)] = {"voxels": digest(voxels), "spacing_z_mm": 2.5}


def write_archives(root: Path, plan: Planted, number: int) -> None:
    """A zip and a tar.gz named after somebody; members in folders of persons, some of them no scans."""
    data, voxels = nifti_bytes(plan, 8000 + number)
    other, _ = nifti_bytes(plan, 8500 + number)
    inside = f"{plan.name('archive member').replace('^', '/')}/{plan.number('archive member')}.nii"
    path = root / f"{plan.name('file name').replace('^', '_')}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = plan.text("archive comment").encode()
        archive.writestr(inside, data)
        archive.writestr(f"{plan.number('archive member')}.txt", plan.text("archive member"))
    plan.kept[f"{path}/{inside}"] = {"voxels": digest(voxels), "spacing_z_mm": 2.5}
    with tarfile.open(root / f"{plan.number('file name')}.tar.gz", "w:gz") as tar:
        for name, content in (
            (f"{plan.name('archive member')}.nii", other),
            (plan.number("archive member"), b"nothing"),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.uname = len(content), plan.new("owner in archive", plan.word)
            tar.addfile(member, io.BytesIO(content))


def write_refused(root: Path, plan: Planted) -> None:
    """Files whose broken headers quote somebody where a reason might quote them."""
    where = "refused file"
    for name, lines in {
        "letter.txt": ["Dear {}"],
        "report.pdf": ["%PDF-1.4", "/Title ({})", "/Author ({})"],
        "space.nrrd": ["NRRD0004", "type: short", "dimension: 3", "sizes: 4 4 4", "encoding: raw", "space: {}"],
        "type.nrrd": ["NRRD0004", "type: {}", "dimension: 3", "sizes: 4 4 4", "encoding: {}", "endian: {}"],
        "file.nhdr": ["NRRD0004", "type: short", "dimension: 3", "sizes: 4 4 4", "encoding: raw", "data file: {}"],
        "type.mha": ["ObjectType = Image", "NDims = 3", "DimSize = 4 4 4", "BinaryData = True", "ElementType = {}"],
        "file.mhd": ["ObjectType = Image", "NDims = 3", "DimSize = 4 4 4", "ElementDataFile = {}"],
        "cut.nii": ["{}"],
        "cut.dcm": ["{}"],
    }.items():  # fmt: skip
        text = "\n".join(line.replace("{}", plan.name(where)) if "{}" in line else line for line in lines)
        (root / f"{plan.number('file name')}_{name}").write_text(text + "\n\n")


def write_archive(root: Path, plan: Planted, size: int) -> None:
    root.mkdir()
    for number in range(size):
        write_series(root, plan, number)
        write_multiframe(root, plan, number)
    for number in range(3 * size):
        write_nifti(root, plan, number)
        write_nrrd(root, plan, number)
        write_metaimage(root, plan, number)
    for number in range(size):
        write_archives(root, plan, number)
    write_misused(root, plan)
    write_refused(root, plan)
