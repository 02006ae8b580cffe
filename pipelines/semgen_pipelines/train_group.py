"""A group of Ray Train workers (DDP) that run one function to its end, quietly, and are started again when one dies.

Where they go on is read from our own checkpoints by the function itself; Ray Train keeps nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from semgen_platform.errors import Incomplete, SemgenError

RAY_FILES = "ray"
MOST_FAILURES = 3  # of the group, before the command ends incomplete


def run_group(
    worker: Callable[[dict[str, Any]], None], task: dict[str, Any], folder: Path, workers: int, *, use_gpu: bool
) -> None:
    """Run `worker(task)` on every rank. Ray Train's own files lie in `folder`/ray meanwhile, since all ranks see it.

    Raises an error of ours from a rank as itself, Incomplete where ranks died too often.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.base_trainer import TrainingFailedError
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        worker,
        train_loop_config=task,
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="train",
            storage_path=str(folder / RAY_FILES),
            failure_config=FailureConfig(max_failures=MOST_FAILURES),
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]  # mypy sees the class of V1
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _cause(error) from error
    finally:
        shutil.rmtree(folder / RAY_FILES, ignore_errors=True)


def _cause(error: Exception) -> BaseException:
    """What a user can act on: an error of ours or a bug in a rank as itself, ranks that died as Incomplete."""
    failures = [getattr(failure, "_base_exc", failure) for failure in getattr(error, "worker_failures", {}).values()]
    ours = [failure for failure in failures if isinstance(failure, SemgenError)]
    died = any(type(failure).__module__.startswith("ray.") for failure in failures)
    if ours or (failures and not died):
        return (ours or failures)[0]
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return Incomplete(f"workers died more than {MOST_FAILURES} times ({line}); run the same command again to go on")
