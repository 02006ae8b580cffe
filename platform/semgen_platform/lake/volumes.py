"""Volumes of the lake: OME-Zarr 0.5 groups with a pyramid, written once and proved by a last file.

A volume lies under volumes/<ab>/<scan_id>/<attempt>/. Its files are written under an attempt that nobody else uses;
the file `complete.json`, written last, holds the digests and the scan's row. A finished folder of the same scan is
adopted instead of written again; an unfinished one is ignored. For an object store the files are made in a temporary
folder, the same bytes, and go up in the same order. OME-Zarr 0.5 has no room for a rotation, so the 4x4
affine stands in our own attribute `semgen` beside `ome`, and RFC-4 orientations on the axes. Which voxels a level holds
is pyramid.py, its bytes are shards.py. Source: DESIGN.md section 4; OME-Zarr 0.5; RFC-4.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from semgen_platform.errors import NotFound
from semgen_platform.formats.values import statistics, voxel_flags
from semgen_platform.ids import scan_and_content_id, slice_digests
from semgen_platform.lake.pyramid import Level, block_mean, plan_levels
from semgen_platform.lake.shard_bytes import MappedShard, RangedShard, ShardBytes
from semgen_platform.lake.shards import METADATA, Shard, StoredLevel, shard_key, write_level
from semgen_platform.lake.tables import plain_row
from semgen_platform.storage import Address, Storage, storage_at, write_durably
from semgen_platform.volume import Volume

COMPLETE = "complete.json"
AXES = (("z", "inferior-to-superior"), ("y", "anterior-to-posterior"), ("x", "right-to-left"))
"""Axes of canonical storage, each with the direction in which its index grows (RFC-4)."""


def write_volume(lake: Address, volume: Volume, run_id: str) -> dict[str, Any]:
    """Write a canonical volume into the lake at an address, or adopt a finished folder of it; its row of `scans`.

    Raises StorageError where the disk is full or the store fails; no folder is left then that passes for whole.
    """
    scan_id, content_id = scan_and_content_id(volume.voxels, volume.ijk_to_lps_mm)
    adopted = finished_row(lake, scan_id)
    if adopted is not None:
        return {**adopted, "run_id": run_id}
    attempt = uuid.uuid4().hex[:16]
    levels = plan_levels(volume.shape_zyx, volume.spacing_zyx_mm)
    with storage_at(lake).new_folder(volume_key(scan_id, attempt), last=(METADATA, COMPLETE)) as folder:
        shards = _write_levels(folder, volume, levels)
        row = plain_row(
            "scans",
            {
                "scan_id": scan_id,
                "content_id": content_id,
                "slice_digests": slice_digests(volume.voxels),
                "attempt": attempt,
                **_described(volume),
                "levels": [
                    {**asdict(level), "shards": list(map(asdict, s))} for level, s in zip(levels, shards, strict=True)
                ],
                "bytes": sum(shard.bytes for of_level in shards for shard in of_level),
            },
        )
        _write_json(folder / METADATA, _group_metadata(scan_id, content_id, volume, levels))
        _write_json(folder / COMPLETE, row)  # last: it makes the folder a volume
    return {**row, "run_id": run_id}


def finished_row(lake: Address, scan_id: str) -> dict[str, Any] | None:
    """Row of a finished volume of this scan, without run_id, whether or not a table names it; None if there is none."""
    storage = storage_at(lake)
    sizes = storage.sizes(_scan_key(scan_id))
    for key in sorted(sizes):
        folder, _, name = key.rpartition("/")
        row = _row_in(storage, key) if name == COMPLETE else None
        if row is not None and _has_all_shards(folder, row, sizes):
            return row
    return None


def open_level(lake: Address, scan_id: str, attempt: str, level: int) -> StoredLevel:
    """A stored level, open for reading. Raises NotFound for a volume that is not there, Damage for a broken one."""
    storage, volume = storage_at(lake), volume_key(scan_id, attempt)
    metadata = storage.get(f"{volume}/{level}/{METADATA}")
    if metadata is None and not storage.sizes(volume):
        raise NotFound(f"scan {scan_id} has no volume {attempt} in lake {storage.uri}; run lake verify")

    def open_shard(number: int) -> ShardBytes:
        key = f"{volume}/{level}/{shard_key(number)}"
        return RangedShard(storage, key) if storage.local_root is None else MappedShard(storage.local_root / key)

    return StoredLevel(metadata, open_shard, f"scan {scan_id} level {level}")


def volume_key(scan_id: str, attempt: str) -> str:
    """Where one attempt at a scan's volume lies below the lake."""
    return f"{_scan_key(scan_id)}/{attempt}"


def volume_dir(root: Path, scan_id: str, attempt: str) -> Path:
    """Folder of one attempt at a scan's volume in a local lake."""
    return root / volume_key(scan_id, attempt)


def _scan_key(scan_id: str) -> str:
    return f"volumes/{scan_id[1:3]}/{scan_id}"


def _row_in(storage: Storage, key: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(storage.get(key) or b""))
    except (ValueError, TypeError):
        return None


def _write_levels(folder: Path, volume: Volume, levels: list[Level]) -> list[list[Shard]]:
    voxels, shards = volume.voxels, [write_level(folder / "0", volume.voxels)]
    for number in range(1, len(levels)):
        finer, coarser = levels[number - 1].factor_zyx, levels[number].factor_zyx
        step = (coarser[0] // finer[0], coarser[1] // finer[1], coarser[2] // finer[2])
        voxels = block_mean(voxels, step, volume.padding_hu)
        shards.append(write_level(folder / str(number), voxels))
    return shards


def _described(volume: Volume) -> dict[str, Any]:
    shape, spacing = volume.shape_zyx, volume.spacing_zyx_mm
    return {
        "modality": volume.modality,
        **{f"shape_{axis}": n for axis, n in zip("zyx", shape, strict=True)},
        **{f"spacing_{axis}_mm": s for axis, s in zip("zyx", spacing, strict=True)},
        "ijk_to_lps_mm": volume.ijk_to_lps_mm,
        "dtype": volume.voxels.dtype.name,
        "padding_hu": volume.padding_hu,
        **statistics(volume),
        "flags": sorted(voxel_flags(volume)),
    }


def _group_metadata(scan_id: str, content_id: str, volume: Volume, levels: list[Level]) -> dict[str, Any]:
    spacing = volume.spacing_zyx_mm
    multiscale = {
        "name": scan_id,
        "axes": [
            {
                "name": axis,
                "type": "space",
                "unit": "millimeter",
                "orientation": {"type": "anatomical", "value": direction},
            }
            for axis, direction in AXES
        ],
        "datasets": [
            {"path": str(number), "coordinateTransformations": _transformations(level, spacing)}
            for number, level in enumerate(levels)
        ],
    }
    own = {
        "scan_id": scan_id,
        "content_id": content_id,
        "modality": volume.modality,
        "padding_hu": volume.padding_hu,
        "ijk_to_lps_mm": volume.ijk_to_lps_mm.tolist(),
    }
    ome = {"version": "0.5", "multiscales": [multiscale]}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome, "semgen": own}}


def _transformations(level: Level, spacing_zyx_mm: tuple[float, float, float]) -> list[dict[str, Any]]:
    pairs = list(zip(level.factor_zyx, spacing_zyx_mm, strict=True))
    return [
        {"type": "scale", "scale": [factor * spacing for factor, spacing in pairs]},
        {"type": "translation", "translation": [spacing * (factor - 1) / 2 for factor, spacing in pairs]},
    ]


def _has_all_shards(folder: str, row: Mapping[str, Any], sizes: Mapping[str, int]) -> bool:
    """Whether every shard lies there in its full size; digests are checked by lake verify and chunks on reading."""
    expected = {
        f"{folder}/{number}/{shard_key(part)}": shard["bytes"]
        for number, level in enumerate(row["levels"])
        for part, shard in enumerate(level["shards"])
    }
    return all(sizes.get(key) == size for key, size in expected.items())


def _write_json(path: Path, document: dict[str, Any]) -> None:
    write_durably(path, json.dumps(document, indent=1, allow_nan=False).encode())
