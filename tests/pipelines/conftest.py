"""One local Ray for all tests of this folder, since starting one takes seconds, and a lake of eight made-up trunks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from semgen_platform.discovery.embedder import EncoderConfig
from semgen_platform.geometry import affine_from
from semgen_platform.ids import uniform_stream
from semgen_platform.lake.lake import Lake, create_lake, open_lake
from semgen_platform.lake.volumes import write_volume
from semgen_platform.volume import Volume


@pytest.fixture(scope="session", autouse=True)
def local_ray() -> Iterator[None]:
    """A local Ray with enough logical CPUs for every pipeline here: two trainers, two actors, one for Ray itself."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from semgen_pipelines.runtime import ray_session

    with ray_session(None, needs={"tests": 4}):
        yield


@dataclass(frozen=True)
class Trunk:
    """A made-up trunk, scaled and shifted: canonical place (z, y, x) in mm = (LPS place - shift) / size."""

    patient: str
    size_zyx: tuple[float, float, float]
    shift_zyx_mm: tuple[float, float, float]

    def to_canonical(self, world_zyx_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        return (world_zyx_mm - self.shift_zyx_mm) / self.size_zyx

    def labels(self) -> NDArray[np.uint8]:
        """(z, y, x) organ numbers on the scan's grid."""
        place = self.to_canonical(_trunk_places())
        labels = np.zeros(TRUNK_SHAPE, np.uint8)
        for number, (centre, half, _) in enumerate(TRUNK_ORGANS, start=2):  # 0 and 1 are air and table
            labels[(((place - centre) / half) ** 2).sum(-1) < 1] = number
        return labels

    def volume(self) -> Volume:
        hu = np.array([-1000, -1000, *(organ[2] for organ in TRUNK_ORGANS)], dtype=np.float64)[self.labels()]
        hu += uniform_stream("trunk", self.patient).normal(0, 15, TRUNK_SHAPE)
        return Volume(np.rint(hu).astype(np.int16), affine_from([TRUNK_MM] * 3, TRUNK_ORIGIN_XYZ_MM), modality="CT")


TRUNK_MM = 4.0
TRUNK_SHAPE = (84, 64, 84)
TRUNK_ORIGIN_XYZ_MM = (-166.0, -126.0, -166.0)
TRUNK_ORGANS = [  # centre and half axes (z, y, x) in mm, HU; later ones are drawn over earlier ones
    ((0, 0, 0), (400, 95, 135), -90),  # fat
    ((0, 5, 0), (400, 80, 120), 50),  # muscle
    ((70, -5, -60), (85, 60, 45), -820),  # lungs
    ((70, -5, 60), (85, 60, 45), -830),
    ((45, -25, 15), (45, 35, 40), 40),  # heart
    ((-45, -5, -55), (45, 55, 55), 110),  # liver
    ((-40, 30, 70), (35, 25, 25), 140),  # spleen
    ((-100, 40, -50), (40, 22, 22), 180),  # kidneys
    ((-100, 40, 50), (40, 22, 22), 180),
    ((-110, -35, 0), (35, 25, 45), -300),  # bowel
    *[((-165 + 30 * n, 60, 0), (11, 16, 18), 400) for n in range(12)],  # vertebrae
]


def _trunk_places() -> NDArray[np.float64]:
    """(z, y, x, 3) LPS places (z, y, x) of all voxels, in mm."""
    axes = [o + TRUNK_MM * np.arange(n) for o, n in zip(TRUNK_ORIGIN_XYZ_MM[::-1], TRUNK_SHAPE, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


@pytest.fixture(scope="session")
def trunks() -> list[Trunk]:
    """Eight patients of other sizes and places."""
    drawn = []
    for number in range(8):
        stream = uniform_stream("trunks", number)
        z, y, x = stream.uniform(0.9, 1.1, 3).tolist()
        shift_z, shift_y, shift_x = stream.uniform(-15, 15, 3).tolist()
        drawn.append(Trunk(f"p{number}", (z, y, x), (shift_z, shift_y, shift_x)))
    return drawn


@pytest.fixture(scope="session")
def trunk_lake_at(trunks: list[Trunk]) -> Callable[[Path], Lake]:
    """Makes a lake of the eight trunks, each labelled with the name of its truth."""

    def make(root: Path) -> Lake:
        lake = create_lake(str(root), key_fingerprint="test")
        scans = [write_volume(lake.root, trunk.volume(), "test") for trunk in trunks]
        sources = [
            {
                "source_id": f"source of {trunk.patient}",
                "state": "0",
                "scan_id": scan["scan_id"],
                "collection": "trunks",
                "patient_id": trunk.patient,
                "flags": [],
                "labels": {"truth": f"{trunk.patient}.npz"},
            }
            for trunk, scan in zip(trunks, scans, strict=True)
        ]
        lake.insert("sources", sources)
        lake.insert("scans", scans)
        lake.commit("ingest", "test")
        return lake.refresh()

    return make


@pytest.fixture(scope="session")
def trunk_encoder() -> EncoderConfig:
    """Small enough to be trained in a second."""
    return EncoderConfig(width=2, grid_shape_zyx=(16, 16, 16), spacing_mm=24, epochs=2, batch_size=2, patience=2)


@pytest.fixture(scope="session")
def encoder_lake_at(
    trunk_lake_at: Callable[[Path], Lake], trunk_encoder: EncoderConfig, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Lake]:
    """Makes a lake of the eight trunks with an encoder, the same in each."""
    from semgen_pipelines.encoder import train_encoder

    made = trunk_lake_at(tmp_path_factory.mktemp("encoder") / "lake")
    train_encoder(made, made.select_scans(), trunk_encoder, recipe_name="test", workers=1, quiet=True)
    return _copies_of(made)


@pytest.fixture(scope="session")
def embedded_lake_at(
    encoder_lake_at: Callable[[Path], Lake], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Path], Lake]:
    """Makes the same lake with a vector for each scan."""
    from semgen_pipelines.embed import embed

    made = encoder_lake_at(tmp_path_factory.mktemp("embedded") / "lake")
    embed(made, made.select_scans(), workers=1, quiet=True)
    return _copies_of(made)


def _copies_of(made: Lake) -> Callable[[Path], Lake]:
    def make(root: Path) -> Lake:
        shutil.copytree(made.root, root)
        return open_lake(str(root))

    return make
