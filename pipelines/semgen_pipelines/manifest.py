"""A CSV that names the patient and labels of each source.

Columns: `path`, optional `patient_id`, and anything else is a label. `path` is a file or, for a DICOM series, its
folder; a member of an archive stands behind it, as in a.zip/inner/scan.nii. Relative paths are taken below each SOURCE
and below the manifest's folder.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from semgen_platform.errors import InputError
from semgen_platform.formats import archive
from semgen_platform.formats.place import Place
from semgen_platform.formats.refusing import Refused


@dataclass(frozen=True)
class ManifestRow:
    """What a manifest says of one source."""

    patient_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


class Manifest:
    """Rows by absolute path; empty where no manifest is given."""

    def __init__(self, rows: Mapping[Path, ManifestRow]) -> None:
        self._rows = dict(rows)

    def of(self, files: Sequence[Place]) -> ManifestRow | None:
        """The row of the first file, or of the nearest folder or archive above it that has one."""
        first = Path(str(files[0]))
        return next((self._rows[p] for p in (first, *first.parents) if p in self._rows), None)


def read_manifest(path: Path | None, roots: Sequence[Path]) -> Manifest:
    """The manifest at `path`. Raises InputError where it cannot be read, lacks the column `path`, or repeats one."""
    if path is None:
        return Manifest({})
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            records = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"manifest {path.name} cannot be read ({type(error).__name__}); give a UTF-8 CSV file"
        ) from error
    if records and "path" not in records[0]:
        raise InputError(f"manifest {path.name} has no column path; its columns are {', '.join(records[0])}")
    bases = [*(root if root.is_dir() else root.parent for root in roots), path.parent]
    rows: dict[Path, ManifestRow] = {}
    for number, record in enumerate(records, start=2):
        name = record.pop("path") or ""
        patient = (record.pop("patient_id", None) or "").strip() or None
        labels = {k: v for k, v in record.items() if k and isinstance(v, str) and v}
        targets = {(r / name).absolute() for r in bases if name and _leads_somewhere(r / name)}
        if not targets.isdisjoint(rows):  # one that leads nowhere may name what another SOURCE holds
            raise InputError(
                f"manifest {path.name} names one path twice, the second time in line {number}; keep one line a source"
            )
        rows.update(dict.fromkeys(targets, ManifestRow(patient, labels)))
    return Manifest(rows)


def _leads_somewhere(path: Path) -> bool:
    """Whether a file or folder is there, or a member, or folder of members, of an archive."""
    if path.exists():
        return True
    outer = next((parent for parent in path.parents if parent.is_file()), None)
    if outer is None:
        return False
    inner = path.relative_to(outer).as_posix()
    try:
        return any(m.name == inner or m.name.startswith(f"{inner}/") for m in archive.members(str(outer)))
    except Refused:
        return False  # its source says why
