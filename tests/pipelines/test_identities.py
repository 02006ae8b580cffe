"""What an ingest keeps of persons: dates by rule, codes of what was done, no word of theirs in lake or Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semgen_pipelines.convert import IngestConfig
from semgen_pipelines.ingest import ingest
from semgen_platform.geometry import affine_from
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.lint_phi import lint
from semgen_platform.phantom.dicom import Study, write_study
from semgen_platform.phantom.identity import Identity, made_up
from semgen_platform.privacy import key_fingerprint
from semgen_platform.privacy.canaries import Canaries
from semgen_platform.volume import Volume

KEY = b"k" * 32
FIRST, SECOND = date(2018, 3, 5), date(2018, 5, 30)


def write_scan(folder: Path, who: Identity, number: int) -> None:
    rng = np.random.default_rng(number)
    voxels = rng.normal(-1000, 10, (20, 28, 24)).astype(np.int16)
    voxels[:, 5:23, 4:20] = rng.normal(30, 12, (20, 18, 16)).astype(np.int16)
    volume = Volume(voxels, affine_from((1.5, 1.5, 3.0), (-20, -20, number)), "CT")
    write_study(folder, volume, Study(who, 5, number), kernel="soft", syntax="plain", extras=True)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Identity]]:
    """Two studies of one patient, 86 days apart, and one of another patient on the first day."""
    root = tmp_path_factory.mktemp("archive")
    one, other = made_up(5, 1, "PAT-REG-000771", "female"), made_up(5, 2, "PAT-REG-000992", "male")
    visits = [replace(one, study_date=FIRST), replace(one, study_date=SECOND), replace(other, study_date=FIRST)]
    for number, who in enumerate(visits):
        write_scan(root / f"{who.name.replace('^', '_')}_{number}", who, number)
    return root, visits


def canaries(visits: list[Identity], root: Path) -> Canaries:
    lines = {
        word
        for who in visits
        for word in (
            who.name, who.patient_id, who.address, who.institution, who.physician, who.accession,
            who.birth_date.strftime("%Y%m%d"), who.study_date.strftime("%Y%m%d"), *who.name.split("^"),
        )
    }  # fmt: skip
    return Canaries(sorted(lines | {folder.name for folder in root.iterdir()}))


def ingested(lake: Lake, archive: Path, **options: Any) -> list[dict[str, Any]]:
    """Rows of sources, their attributes parsed, in the order of their place along z, which is that of the visits."""
    ingest([archive], lake, KEY, IngestConfig(**options), quiet=True)
    rows = lake.refresh().table("sources").to_pylist()
    return sorted(({**row, "attributes": json.loads(row["attributes"])} for row in rows), key=place_z)


def place_z(row: dict[str, Any]) -> float:
    return float(row["source_ijk_to_lps_mm"][11])


def test_shifted_dates_keep_a_patients_intervals_and_dropped_ones_nothing(
    archive: tuple[Path, list[Identity]], tmp_path: Path
) -> None:
    root, _ = archive
    lake = create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))
    dropped = ingested(lake, root)
    assert [row["attributes"]["deidentification_codes"] for row in dropped] == [["113100", "113105"]] * 3
    assert not any("date" in name for row in dropped for name in row["attributes"])

    shifted = [row for row in ingested(lake, root, dates="shift") if "study_date" in row["attributes"]]
    first, second, other = (date.fromisoformat(row["attributes"]["study_date"]) for row in shifted)
    assert second - first == SECOND - FIRST
    assert timedelta(days=1) <= FIRST - first <= timedelta(days=3650)
    assert FIRST - first != FIRST - other, "each patient has days of their own"
    assert all(row["attributes"]["acquisition_date"] == row["attributes"]["study_date"] for row in shifted)
    assert [row["attributes"]["deidentification_codes"][-1] for row in shifted] == ["113107"] * 3
    assert [row["options"] for row in shifted] != [row["options"] for row in dropped]


def test_no_word_of_a_person_reaches_lake_or_ray(archive: tuple[Path, list[Identity]], tmp_path: Path) -> None:
    from ray._private import worker

    node: Any = worker._global_node
    root, visits = archive
    lake = create_lake(str(tmp_path / "lake"), key_fingerprint=key_fingerprint(KEY))
    ingested(lake, root, dates="shift")
    session = Path(node.get_session_dir_path())
    search = canaries(visits, root)
    assert lint(lake.root, [session], search, quiet=True).found == []

    (session / "logs" / "control.log").write_text(f"read {visits[0].name}")
    (lake.root / "versions" / "1.json").open("a").write(visits[1].accession)
    where = {item.where for item in lint(lake.root, [session], search, quiet=True).found}
    (session / "logs" / "control.log").unlink()
    assert where == {f"{session.name}/logs/control.log", "versions/1.json"}
