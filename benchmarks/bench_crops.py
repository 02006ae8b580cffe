"""Random training crops per CPU second: the lake's reader, zarr-python on the same files, and nibabel on .nii.gz.

    python benchmarks/bench_crops.py            full size, written to benchmarks/results/crops.json
    python benchmarks/bench_crops.py --tiny     seconds, prints only; the tests run it so

Every reader must give the same voxels before it is timed. CPU seconds of one process with one thread, warm page cache;
the data are phantom-like bodies with noise, so the ratios carry over to real CT and the figures do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import zarr
from numpy.typing import NDArray

from semgen_platform.formats.nifti import write_nifti
from semgen_platform.geometry import affine_from
from semgen_platform.lake.crops import CropReader, CropRequest
from semgen_platform.lake.lake import Lake, create_lake
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.volumes import volume_dir, write_volume
from semgen_platform.volume import Volume

CROP_ZYX = (32, 64, 64)
SPACING_XYZ_MM = (0.8, 0.8, 1.5)
NOISE_HU = 20
RESULTS = Path(__file__).resolve().parent / "results"

Corner = tuple[str, tuple[int, int, int]]
Read = Callable[[Sequence[Corner]], NDArray[Any]]


def body(seed: int, shape_zyx: tuple[int, int, int]) -> Volume:
    """An elliptic body of soft tissue with two lungs in air, and noise everywhere."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape_zyx)]
    hu = np.where((x / 0.8) ** 2 + (y / 0.6) ** 2 < 1, 40.0, -1000.0) + 0 * z
    for side in (-0.38, 0.38):
        hu[((x - side) / 0.25) ** 2 + (y / 0.4) ** 2 + (z / 0.8) ** 2 < 1] = -850.0
    hu += np.random.default_rng(seed).normal(0, NOISE_HU, shape_zyx)
    return Volume(np.rint(hu).astype(np.int16), affine_from(SPACING_XYZ_MM, (0, 0, 0)), modality="CT")


def filled_lake(folder: Path, scans: int, shape_zyx: tuple[int, int, int]) -> Lake:
    """A lake of bodies, and the same as .nii.gz files named by scan id."""
    lake = create_lake(str(folder / "lake"), key_fingerprint="f" * 24)
    (folder / "nifti").mkdir()
    rows = []
    for seed in range(scans):
        volume = body(seed, shape_zyx)
        rows.append(write_volume(lake.root, volume, "ibench"))
        write_nifti(volume, folder / "nifti" / f"{rows[-1]['scan_id']}.nii.gz")
    lake.insert("scans", rows)
    lake.insert("sources", [source_row(number, row["scan_id"]) for number, row in enumerate(rows)])
    lake.commit("ingest", "ibench")
    return lake.refresh()


def source_row(number: int, scan_id: str) -> dict[str, Any]:
    return {
        "source_id": f"q{number}",
        "state": "a",
        "scan_id": scan_id,
        "collection": "bench",
        "patient_id": f"p{number}",
        "flags": [],
    }


def lake_reader(lake: Lake, scans: Sequence[Scan]) -> Read:
    reader = CropReader(lake.root, scans)
    affines = {scan.scan_id: scan.zyx_to_lps_mm for scan in scans}

    def request(scan_id: str, corner_zyx: tuple[int, int, int]) -> CropRequest:
        shift = np.eye(4)
        shift[:3, 3] = corner_zyx
        return CropRequest(scan_id, affines[scan_id] @ shift, CROP_ZYX)

    return lambda corners: reader.read([request(*corner) for corner in corners])


def zarr_reader(lake: Lake, scans: Sequence[Scan]) -> Read:
    groups = {
        scan.scan_id: zarr.open_group(volume_dir(lake.root, scan.scan_id, scan.attempt), mode="r") for scan in scans
    }
    arrays: dict[str, Any] = {scan_id: group["0"] for scan_id, group in groups.items()}
    return lambda corners: np.stack([np.asarray(arrays[scan_id][box(corner)]) for scan_id, corner in corners])


def nibabel_reader(folder: Path) -> Read:
    def read(scan_id: str, corner_zyx: tuple[int, int, int]) -> NDArray[Any]:
        image: Any = nib.load(folder / "nifti" / f"{scan_id}.nii.gz")
        return np.asarray(image.dataobj).transpose(2, 1, 0)[box(corner_zyx)]

    return lambda corners: np.stack([read(*corner) for corner in corners])


def box(corner_zyx: tuple[int, int, int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(corner_zyx, CROP_ZYX, strict=True))


def crops_per_cpu_second(read: Read, corners: Sequence[Corner], batch: int, rounds: int) -> list[float]:
    """One figure a round, after a warm-up of one batch."""
    read(corners[:batch])
    figures = []
    for _ in range(rounds):
        started = time.process_time()
        for first in range(0, len(corners), batch):
            read(corners[first : first + batch])
        figures.append(len(corners) / (time.process_time() - started))
    return figures


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")] if cpuinfo.exists() else []
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=RESULTS.parent, capture_output=True, text=True, check=False
    )
    return {
        "cpu": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
    }


def measure(scans: int, shape_zyx: tuple[int, int, int], crops: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lake = filled_lake(folder, scans, shape_zyx)
        selected = lake.select_scans(profile="all")
        rng = np.random.default_rng(0)
        free = np.array(shape_zyx) - CROP_ZYX + 1
        corners: list[Corner] = []
        for _ in range(crops):
            z, y, x = (rng.random(3) * free).astype(int).tolist()
            corners.append((selected[rng.integers(len(selected))].scan_id, (z, y, x)))
        readers = {
            "lake": (lake_reader(lake, selected), corners),
            "zarr-python": (zarr_reader(lake, selected), corners),
            "nibabel, whole .nii.gz": (nibabel_reader(folder), corners[: max(4, crops // 50)]),
        }
        expected = readers["nibabel, whole .nii.gz"][0](corners[:4])
        for label, (read, _) in readers.items():
            assert np.array_equal(read(corners[:4]), expected), f"{label} reads other voxels"
        figures = {k: crops_per_cpu_second(read, these, 32, rounds) for k, (read, these) in readers.items()}
    return {
        "what": f"random {CROP_ZYX} crops out of {scans} volumes of {shape_zyx}, per CPU second",
        "machine": machine(),
        "readers": {
            label: {"median": round(statistics.median(f), 1), "low": round(min(f), 1), "high": round(max(f), 1)}
            for label, f in figures.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="seconds; prints and writes nothing")
    tiny = parser.parse_args().tiny
    size = (2, (48, 96, 96), 16, 1) if tiny else (8, (256, 320, 320), 1000, 5)
    result = measure(*size)
    text = json.dumps(result, indent=2)
    print(text)
    if not tiny:
        (RESULTS / "crops.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
