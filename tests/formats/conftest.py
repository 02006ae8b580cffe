"""Series and volumes made from small arrays, and the one comparison with an independent reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.formats.reader import read_source
from semgen_platform.formats.sniff import list_sources
from semgen_platform.volume import Refusal, Volume

FloatArray = NDArray[np.float64]
IndexToLps = Callable[[tuple[int, int, int]], Any]
"""(x, y, z) voxel index of another reader's array to its LPS position in mm."""

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def ct_hu(shape_zyx: tuple[int, int, int] = (20, 36, 40), seed: int = 0) -> NDArray[np.int16]:
    """Noisy air around a noisy block of tissue that lies off centre, so that every flip and shift shows."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(-1000, 8, shape_zyx)
    z, y, x = shape_zyx
    block = (slice(2, z - 1), slice(5, y - 12), slice(6, x - 15))
    hu[block] = rng.normal(40, 10, hu[block].shape)
    return np.clip(np.rint(hu), -1024, 3071).astype(np.int16)


@dataclass
class Series:
    """A CT series to be written: HU by slice, and how headers say it. `edit` changes the dataset of slice n last."""

    hu_ZYX: NDArray[Any] = field(default_factory=ct_hu)
    spacing_zyx_mm: tuple[float, float, float] = (2.5, 0.8, 0.7)
    origin_xyz_mm: tuple[float, float, float] = (-31.5, 12.25, 740.0)
    row: tuple[float, float, float] = (1.0, 0.0, 0.0)
    column: tuple[float, float, float] = (0.0, 1.0, 0.0)
    slopes: tuple[float, ...] = (1.0,)
    intercept: float = -1024.0
    syntax: str = "1.2.840.10008.1.2.1"
    edit: Callable[[int, Any], None] = lambda n, dataset: None

    def write(self, folder: Path) -> Path:
        """Write one file a slice under names that do not sort as slices, and give the folder back."""
        from pydicom.uid import generate_uid

        folder.mkdir(parents=True, exist_ok=True)
        uids = generate_uid(entropy_srcs=[str(folder), "study"]), generate_uid(entropy_srcs=[str(folder), "series"])
        for n in range(len(self.hu_ZYX)):
            dataset = self._dataset(n, *uids)
            self.edit(n, dataset)
            self._save(dataset, folder / f"IM{(n * 7) % 101:03d}_{n}")
        return folder

    def _dataset(self, n: int, study: str, series: str) -> Any:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import generate_uid

        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.SOPClassUID, dataset.Modality, dataset.ImageType = CT_IMAGE, "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(n)])
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientName, dataset.PatientID, dataset.IssuerOfPatientID = (
            "CANARY^NAME",
            "CANARY-17",
            "CANARY HOSPITAL",
        )
        dataset.InstanceNumber = 1000 - n
        dataset.SliceThickness = 9.9  # a lie: the positions count
        dataset.Rows, dataset.Columns = self.hu_ZYX.shape[1:]
        dataset.PixelSpacing = list(self.spacing_zyx_mm[1:])
        dataset.ImageOrientationPatient = [*self.row, *self.column]
        normal = np.cross(self.row, self.column)
        dataset.ImagePositionPatient = [
            float(v) for v in np.array(self.origin_xyz_mm) + normal * self.spacing_zyx_mm[0] * n
        ]
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 0, 1, "MONOCHROME2"
        slope = self.slopes[n % len(self.slopes)]
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, self.intercept
        stored = np.rint((self.hu_ZYX[n].astype(float) - self.intercept) / slope).astype("<u2")
        dataset.PixelData = stored.tobytes()
        dataset["PixelData"].VR = "OW"
        return dataset

    def _save(self, dataset: Any, path: Path) -> None:
        from pydicom.uid import UID, ExplicitVRLittleEndian

        syntax = UID(self.syntax)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        if syntax.is_encapsulated:
            dataset.compress(syntax, generate_instance_uid=False)
        elif not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.save_as(path, enforce_file_format=True)


def read_only_source(root: Path, **options: Any) -> Volume | Refusal:
    sources = list(list_sources(root))
    assert len(sources) == 1, [source.files for source in sources]
    return read_source(sources[0], **options)


@pytest.fixture
def series() -> type[Series]:
    return Series


@pytest.fixture
def read_one() -> Callable[..., Volume | Refusal]:
    """Read the one source below a folder, or the one file."""
    return read_only_source


@pytest.fixture
def make_ct() -> Callable[..., NDArray[np.int16]]:
    return ct_hu


@pytest.fixture
def assert_same_in_space() -> Callable[[Volume, NDArray[Any], IndexToLps], None]:
    """Check 200 voxels of another reader's (z, y, x) array: same value at the same place within 1e-3 mm, none lost."""

    def check(volume: Volume, other_ZYX: NDArray[Any], index_to_lps: IndexToLps) -> None:
        assert volume.voxels.size == other_ZYX.size
        rng = np.random.default_rng(5)
        lps_to_ijk = np.asarray(np.linalg.inv(volume.ijk_to_lps_mm), dtype=np.float64)
        corners = np.array([[0, 0, 0], [n - 1 for n in other_ZYX.shape]])
        for z, y, x in [*corners, *rng.integers(0, other_ZYX.shape, (200, 3))]:
            place = np.asarray(index_to_lps((int(x), int(y), int(z))), dtype=float)
            i, j, k = np.rint(geometry.apply_affine(lps_to_ijk, place)).astype(int)
            assert volume.voxels[k, j, i] == other_ZYX[z, y, x]
            assert np.linalg.norm(geometry.apply_affine(volume.ijk_to_lps_mm, (i, j, k)) - place) < 1e-3
        assert np.array_equal(np.sort(volume.voxels, axis=None), np.sort(np.asarray(other_ZYX), axis=None))

    return check
