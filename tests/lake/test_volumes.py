"""Volumes as other programs see them, and what a crash or a flipped bit does."""

from __future__ import annotations

import itertools
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
import tensorstore
import yaozarrs
import zarr
from blake3 import blake3
from scipy.spatial.transform import Rotation

from semgen_platform import ids
from semgen_platform.errors import Damage, LakeError, NotFound
from semgen_platform.lake import shards, volumes
from semgen_platform.lake.lake import Lake
from semgen_platform.lake.selection import Scan
from semgen_platform.lake.volumes import finished_row, open_level, write_volume
from semgen_platform.volume import Volume

Noise = Callable[..., Volume]
Store = Callable[[Volume], tuple[Path, Scan]]
FolderOf = Callable[[Path, Scan], Path]


def _by_tensorstore(folder: Path) -> Any:
    return (
        tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}})
        .result()
        .read()
        .result()
    )


def _body(noise: Noise) -> Volume:
    """Half body, half fill, of odd sizes, with a padding value."""
    volume = noise((70, 45, 81), (1.5, 0.9, 0.8))
    voxels = volume.voxels.copy()
    voxels[:, :, 40:] = shards.FILL_HU
    voxels[:, :7] = -2000
    return Volume(voxels, volume.ijk_to_lps_mm, "CT", padding_hu=-2000.0)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_every_level_reads_alike_in_zarr_python_tensorstore_and_our_reader(
    noise: Noise, store: Store, folder_of: FolderOf, dtype: type
) -> None:
    volume = _body(noise)
    volume = Volume(volume.voxels.astype(dtype), volume.ijk_to_lps_mm, "CT", padding_hu=volume.padding_hu)
    root, scan = store(volume)
    group = zarr.open_group(str(folder_of(root, scan)), mode="r")
    for number, level in enumerate(scan.levels):
        array: Any = group[str(number)]
        assert array.shape == level.shape_zyx
        ours = open_level(root, scan.scan_id, scan.attempt, number).whole()
        np.testing.assert_array_equal(ours, array[:])
        np.testing.assert_array_equal(ours, _by_tensorstore(folder_of(root, scan) / str(number)))
    np.testing.assert_array_equal(open_level(root, scan.scan_id, scan.attempt, 0).whole(), volume.voxels)


def test_the_group_is_valid_ome_zarr_with_places_in_millimetres(
    noise: Noise, store: Store, folder_of: FolderOf
) -> None:
    root, scan = store(noise((70, 40, 40), (1.0, 0.8, 0.8)))
    folder = folder_of(root, scan)
    yaozarrs.validate_zarr_store(str(folder))
    attributes: Any = dict(zarr.open_group(str(folder), mode="r").attrs)
    scale = attributes["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in scale["axes"]] == ["millimeter"] * 3
    assert [axis["orientation"]["value"] for axis in scale["axes"]] == [
        "inferior-to-superior",
        "anterior-to-posterior",
        "right-to-left",
    ]
    second = scale["datasets"][1]["coordinateTransformations"]
    assert second[0] == {"type": "scale", "scale": [2.0, 1.6, 1.6]}
    assert second[1]["type"] == "translation"
    assert second[1]["translation"] == pytest.approx([0.5, 0.4, 0.4])  # half a fine voxel


def test_an_oblique_affine_is_kept_whole(noise: Noise, store: Store, folder_of: FolderOf) -> None:
    turn = Rotation.from_euler("xyz", (8, -5, 3), degrees=True).as_matrix()
    volume = noise((10, 12, 14), (2.0, 0.8, 0.7), turn)
    root, scan = store(volume)
    stored: Any = zarr.open_group(str(folder_of(root, scan)), mode="r").attrs["semgen"]
    np.testing.assert_array_equal(stored["ijk_to_lps_mm"], volume.ijk_to_lps_mm)
    assert stored["scan_id"] == ids.scan_and_content_id(volume.voxels, volume.ijk_to_lps_mm)[0]


def test_a_volume_beyond_one_shard_is_split_along_z_and_reads_alike(
    noise: Noise, store: Store, folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LARGEST_SHARD_BYTES", 2 * 64 * 64 * 70)  # 64 slices of 64 x 64
    volume = noise((150, 60, 40), (1, 1, 1))
    root, scan = store(volume)
    level = folder_of(root, scan) / "0"
    assert sorted(p.name for p in (level / "c").iterdir()) == ["0", "1", "2"]
    np.testing.assert_array_equal(zarr.open_array(str(level), mode="r")[:], volume.voxels)
    stored = open_level(root, scan.scan_id, scan.attempt, 0)
    np.testing.assert_array_equal(stored.read((50, 3, 5), (149, 60, 33)), volume.voxels[50:149, 3:60, 5:33])


def test_random_boxes_are_what_the_array_holds(noise: Noise, store: Store) -> None:
    volume = _body(noise)
    root, scan = store(volume)
    stored, rng = open_level(root, scan.scan_id, scan.attempt, 0), np.random.default_rng(1)
    for _ in range(50):
        ends = np.sort([rng.choice(n + 1, 2, replace=False) for n in volume.voxels.shape], axis=1)
        (z0, z1), (y0, y1), (x0, x1) = ends.tolist()
        np.testing.assert_array_equal(stored.read((z0, y0, x0), (z1, y1, x1)), volume.voxels[z0:z1, y0:y1, x0:x1])


def test_chunks_of_nothing_but_fill_take_no_room(noise: Noise, store: Store, folder_of: FolderOf) -> None:
    empty = Volume(np.full((64, 64, 64), shards.FILL_HU, np.int16), np.eye(4), "CT")
    root, scan = store(empty)
    shard = folder_of(root, scan) / "0" / "c" / "0" / "0" / "0"
    assert shard.stat().st_size == 8 * 16 + 4, "the index alone: offset and length of 8 chunks, and its checksum"
    np.testing.assert_array_equal(zarr.open_array(str(shard.parents[3]), mode="r")[:], empty.voxels)
    np.testing.assert_array_equal(open_level(root, scan.scan_id, scan.attempt, 0).whole(), empty.voxels)


def test_the_row_says_what_the_files_hold(noise: Noise, tmp_path: Path) -> None:
    volume = _body(noise)
    row = write_volume(tmp_path, volume, "run")
    folder = volumes.volume_dir(tmp_path, row["scan_id"], row["attempt"])
    for number, level in enumerate(row["levels"]):
        for part, shard in enumerate(level["shards"]):
            path = folder / str(number) / "c" / str(part) / "0" / "0"
            assert (ids.file_digest(path), path.stat().st_size) == (shard["digest"], shard["bytes"])
    assert row["bytes"] == sum(path.stat().st_size for path in folder.glob("*/c/*/*/*"))
    inside = volume.voxels[volume.voxels != -2000]
    assert (row["hu_min"], row["hu_max"]) == (inside.min(), inside.max())
    assert (row["shape_z"], row["spacing_x_mm"], row["padding_hu"], row["run_id"]) == (70, 0.8, -2000.0, "run")


def test_a_row_of_a_volume_goes_into_the_table_as_it_is(lake: Lake, noise: Noise) -> None:
    row = write_volume(lake.root, noise((20, 20, 70)), "run")
    lake.insert("scans", [row])
    lake.commit("ingest", "run")
    stored = lake.refresh().table("scans").to_pylist()[0]
    assert {key: stored[key] for key in row} == row


def test_the_same_volume_is_written_once(noise: Noise, tmp_path: Path) -> None:
    first = write_volume(tmp_path, noise((20, 20, 20)), "one")
    again = write_volume(tmp_path, noise((20, 20, 20)), "two")
    assert again == {**first, "run_id": "two"}
    assert len(list(volumes.volume_dir(tmp_path, first["scan_id"], "").iterdir())) == 1


def test_a_crash_between_data_and_row_leaves_a_folder_that_is_adopted(noise: Noise, lake: Lake) -> None:
    written = write_volume(lake.root, noise((20, 20, 20)), "killed before its row")
    adopted = write_volume(lake.root, noise((20, 20, 20)), "next")
    assert adopted["attempt"] == written["attempt"]
    assert finished_row(lake.root, written["scan_id"]) == {k: v for k, v in written.items() if k != "run_id"}


def test_a_crash_while_writing_leaves_a_folder_that_is_ignored(
    noise: Noise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(volumes, "_group_metadata", killed)
        with pytest.raises(KeyboardInterrupt):
            write_volume(tmp_path, noise((20, 20, 20)), "one")
    row = write_volume(tmp_path, noise((20, 20, 20)), "two")
    assert len(list(volumes.volume_dir(tmp_path, row["scan_id"], "").iterdir())) == 2
    assert open_level(tmp_path, row["scan_id"], row["attempt"], 0).whole().shape == (20, 20, 20)


def test_a_finished_folder_that_lost_a_shard_is_not_adopted(noise: Noise, tmp_path: Path) -> None:
    row = write_volume(tmp_path, noise((20, 20, 20)), "one")
    shutil.rmtree(volumes.volume_dir(tmp_path, row["scan_id"], row["attempt"]) / "0" / "c")
    assert write_volume(tmp_path, noise((20, 20, 20)), "two")["attempt"] != row["attempt"]


def test_any_flipped_bit_of_a_shard_is_noticed_and_named(noise: Noise, store: Store, folder_of: FolderOf) -> None:
    root, scan = store(noise((33, 20, 20)))
    path = folder_of(root, scan) / "0" / "c" / "0" / "0" / "0"
    good, rng = path.read_bytes(), np.random.default_rng(3)
    ends = [0, len(good) - 1, len(good) - 5, len(good) - 20]  # data, checksum of the index, the index
    for place in [*ends, *rng.integers(0, len(good), 40).tolist()]:
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(Damage, match=f"scan {scan.scan_id} level 0"):
            open_level(root, scan.scan_id, scan.attempt, 0).whole()


@pytest.mark.parametrize("remains", [0, 10, 0.5])
def test_a_cut_shard_is_damage(noise: Noise, store: Store, folder_of: FolderOf, remains: float) -> None:
    root, scan = store(noise((20, 20, 20)))
    path = folder_of(root, scan) / "0" / "c" / "0" / "0" / "0"
    data = path.read_bytes()
    path.write_bytes(data[: int(remains if remains != 0.5 else len(data) / 2)])
    with pytest.raises(Damage, match=f"scan {scan.scan_id} level 0"):
        open_level(root, scan.scan_id, scan.attempt, 0).whole()


@pytest.mark.parametrize("gone", ["1/c/0/0/0", "1/zarr.json", "1"])
def test_a_missing_shard_or_level_is_damage_and_never_air(
    noise: Noise, store: Store, folder_of: FolderOf, gone: str
) -> None:
    root, scan = store(noise((70, 20, 20)))
    path = folder_of(root, scan) / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(Damage, match=f"scan {scan.scan_id} level 1"):
        open_level(root, scan.scan_id, scan.attempt, 1)


def test_a_missing_volume_is_not_found(noise: Noise, store: Store) -> None:
    root, scan = store(noise((20, 20, 20)))
    with pytest.raises(NotFound, match="has no volume other"):
        open_level(root, scan.scan_id, "other", 0)


def test_codecs_that_this_version_does_not_know_are_refused(noise: Noise, store: Store, folder_of: FolderOf) -> None:
    root, scan = store(noise((20, 20, 20)))
    path = folder_of(root, scan) / "0" / "zarr.json"
    document = json.loads(path.read_text())
    document["codecs"][0]["configuration"]["codecs"][1]["name"] = "gzip"
    path.write_text(json.dumps(document))
    with pytest.raises(LakeError, match="codecs bytes, gzip, crc32c"):
        open_level(root, scan.scan_id, scan.attempt, 0)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_shard_is_its_chunks_in_c_order_then_their_index(
    dtype: type, noise: Noise, store: Store, folder_of: FolderOf
) -> None:
    body = _body(noise)
    voxels: Any = body.voxels.astype(dtype)
    folder = folder_of(*store(Volume(voxels, body.ijk_to_lps_mm, "CT")))
    padded: Any = np.full((96, 64, 96), shards.FILL_HU, dtype)
    padded[:70, :45, :81] = voxels
    chunks, index = b"", b""
    for z, y, x in itertools.product(range(0, 96, 32), range(0, 64, 32), range(0, 96, 32)):
        chunk = np.ascontiguousarray(padded[z : z + 32, y : y + 32, x : x + 32])
        if (chunk == shards.FILL_HU).all():
            index += struct.pack("<QQ", 2**64 - 1, 2**64 - 1)
            continue
        packed = numcodecs.Blosc("lz4", clevel=5, shuffle=1).encode(chunk)
        index += struct.pack("<QQ", len(chunks), len(packed) + 4)
        chunks += packed + struct.pack("<I", google_crc32c.value(packed))
    expected = chunks + index + struct.pack("<I", google_crc32c.value(index))
    found = (folder / "0/c/0/0/0").read_bytes()
    assert found == expected
    row = finished_row(folder.parents[3], folder.parent.name)
    assert row is not None
    assert row["levels"][0]["shards"] == [{"digest": blake3(expected).hexdigest(), "bytes": len(expected)}]
