"""One rank of a small pretraining on phantom crops, as a program: tests start it in processes of its own and kill it.

    rank_program.py FOLDER [--rank R --world W --store FILE] [--stop-at STEP] [--norm running]

prints one JSON line with how the fit ended. The phantom: class k is a bright ball at a corner of its own in noise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from semgen_platform.ids import uniform_stream
from semgen_platform.perturbations.compose import PerturbationConfig
from semgen_platform.perturbations.elastic import ElasticConfig
from semgen_platform.training.crops import Crops
from semgen_platform.training.loop import FitResult, fit
from semgen_platform.training.metrics import read_metrics
from semgen_platform.training.state import FitConfig

SHAPE = (16, 16, 16)
CLASSES = 4


def phantom_crops(count: int, seed: int) -> Crops:
    """Crops in HU: a ball of 200 HU, its place given by the class, in air and soft tissue with noise."""
    labels = np.arange(count, dtype=np.int64) % CLASSES
    z, y, x = np.indices(SHAPE)

    def read(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        crops = np.empty((len(indices), *SHAPE), dtype=np.float32)
        for n, index in enumerate(indices):
            label = int(labels[index])
            ball = (z - 8) ** 2 + (y - 4 - 8 * (label // 2)) ** 2 + (x - 4 - 8 * (label % 2)) ** 2 < 16
            crops[n] = np.where(ball, 200, -600) + uniform_stream("phantom", seed, int(index)).normal(0, 30, SHAPE)
        return crops

    return Crops(labels, read)


def small_config(**changes: Any) -> FitConfig:
    """3 steps of classification and 9 of both, batches of 4, a checkpoint every 2 steps."""
    perturbation = PerturbationConfig(elastic=ElasticConfig(sigma_voxels=2, alpha=20))
    settings: dict[str, Any] = {
        "width": 2,
        "norm": "running",
        "classification_epochs": 1,
        "epochs": 3,
        "batch_size": 4,
        "checkpoint_every_steps": 2,
        "report_every_steps": 1,
        "perturbation": perturbation,
    }
    return FitConfig(**{**settings, **changes})


def run(folder: Path, *, stop_at: int | None = None, validation: bool = True, **changes: Any) -> FitResult:
    """Fit the phantom in `folder`, asking to stop after step `stop_at`."""
    step = 0

    def stop() -> bool:
        nonlocal step
        step += 1
        return stop_at is not None and step >= stop_at

    return fit(
        small_config(**changes),
        phantom_crops(12, seed=1),
        phantom_crops(8, seed=2) if validation else None,
        classes=CLASSES,
        folder=folder,
        config_digest="small",
        device=torch.device("cpu"),
        stop=stop,
    )


def main() -> None:
    """Run as one rank and print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--store", default="")
    parser.add_argument("--stop-at", type=int)
    parser.add_argument("--norm", default="running")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{given.store}", rank=given.rank, world_size=given.world
        )
    result = run(given.folder, stop_at=given.stop_at, norm=given.norm)
    print(json.dumps({**asdict(result), "rows": len(read_metrics(given.folder, "train"))}))


if __name__ == "__main__":
    main()
