"""Small lakes, rows and volumes for the tests of this room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from semgen_platform import geometry
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.selection import Scan, scans_from
from semgen_platform.lake.volumes import volume_dir, write_volume
from semgen_platform.volume import Volume

FINGERPRINT = "f" * 24


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """An empty lake to copy, since making sixteen tables takes a while."""
    return create_lake(str(tmp_path_factory.mktemp("empty") / "lake"), key_fingerprint=FINGERPRINT)


@pytest.fixture
def lake(tmp_path: Path, empty_lake: Lake) -> Lake:
    """An empty lake."""
    shutil.copytree(empty_lake.root, tmp_path / "lake")
    return open_lake(str(tmp_path / "lake"))


@pytest.fixture
def scan_row() -> Callable[..., dict[str, Any]]:
    """A row of scans by its id; other columns as given."""

    def row(scan_id: str, **columns: Any) -> dict[str, Any]:
        shape, spacing = (40, 50, 60), (2.0, 0.8, 0.7)
        plain = {
            "scan_id": scan_id,
            "content_id": f"c{scan_id}",
            "modality": "CT",
            **{f"shape_{axis}": n for axis, n in zip("zyx", shape, strict=True)},
            **{f"spacing_{axis}_mm": s for axis, s in zip("zyx", spacing, strict=True)},
            "ijk_to_lps_mm": geometry.affine_from(spacing[::-1], (1, 2, 3)),
            "dtype": "int16",
            "flags": [],
            "levels": [{"shape_zyx": shape, "factor_zyx": (1, 1, 1), "shards": [{"digest": "d", "bytes": 9}]}],
            "bytes": 9,
            "attempt": "a",
        }
        return {**plain, **columns}

    return row


@pytest.fixture
def source_row() -> Callable[..., dict[str, Any]]:
    """A row of sources by scan id; other columns as given."""

    def row(scan_id: str, **columns: Any) -> dict[str, Any]:
        plain = {
            "source_id": f"q{scan_id}",
            "state": "first",
            "scan_id": scan_id,
            "collection": "siteA",
            "patient_id": f"p{scan_id}",
            "flags": [],
        }
        return {**plain, **columns}

    return row


@pytest.fixture
def noise() -> Callable[..., Volume]:
    """A CT of random HU: shape and spacing along (z, y, x), first voxel at (-30, 22, 3) mm, turned by `rotation`."""

    def volume(
        shape_zyx: Sequence[int],
        spacing_zyx_mm: Sequence[float] = (1.0, 1.0, 1.0),
        rotation: NDArray[np.float64] | None = None,
        seed: int = 0,
    ) -> Volume:
        voxels = np.random.default_rng(seed).normal(0, 400, tuple(shape_zyx)).astype(np.int16)
        return Volume(voxels, geometry.affine_from(spacing_zyx_mm[::-1], (-30, 22, 3), rotation), "CT")

    return volume


@pytest.fixture
def store(tmp_path: Path) -> Callable[[Volume], tuple[Path, Scan]]:
    """Write a volume below a root, and give the root and the scan as a selection does."""

    def write(volume: Volume) -> tuple[Path, Scan]:
        row = write_volume(tmp_path, volume, "r")
        rows = pa.Table.from_pylist([{**row, "patient_id": "p", "collection": "c"}])
        return tmp_path, scans_from(rows, {})[0]

    return write


@pytest.fixture
def folder_of() -> Callable[[Path, Scan], Path]:
    """The OME-Zarr group of a stored scan."""
    return lambda root, scan: volume_dir(root, scan.scan_id, scan.attempt)


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Start a Python script with arguments in a process of its own."""

    def begin(script: str, *arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)

    return begin
