"""One source: a DICOM series, a volume file with its data file, or any other single file (DESIGN.md section 4).

Files, UIDs and patient are in clear here, for the reader; only pseudonyms of them may leave (privacy/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from semgen_platform import ids
from semgen_platform.formats.place import Place, Validator
from semgen_platform.volume import Refusal

Kind = Literal["dicom", "nifti", "nrrd", "metaimage", "other"]


@dataclass(frozen=True)
class Source:
    """What a listing found, before any voxel is decoded.

    files : where they lie, sorted; for a header with a data file of its own, the header first.
    validators : of each file, in the same order, from before the file was read: a change in between shows at the next
        run.
    name_parts : what the keyed source id is made of: ("series", series UID, part) or ("path", path below the
        root) with the archive's member behind it.
    patient : (PatientID, IssuerOfPatientID), or None where the format or the file names nobody.
    refusal : set where the headers alone say that this is no scan.
    slices, voxels : as the headers promise; 0 where they do not say.
    frames : where a file of several frames belongs to this source in part, the numbers of the frames of each file that
        do; empty where every frame of every file does.
    """

    kind: Kind
    files: tuple[Place, ...]
    validators: tuple[Validator, ...]
    name_parts: tuple[str, ...]
    patient: tuple[str, str] | None = None
    study_uid: str | None = None
    series_uid: str | None = None
    refusal: Refusal | None = None
    slices: int = 0
    voxels: int = 0
    frames: tuple[tuple[int, ...], ...] = ()

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.validators)

    def state(self) -> str:
        """Digest of the validators; the same state means that nothing need be decoded again."""
        return ids.digest_of([list(validator) for validator in self.validators])
