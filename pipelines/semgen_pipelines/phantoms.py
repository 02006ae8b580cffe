"""`phantom` with several workers: one Ray task a patient. What a task does not finish, the same command does again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from semgen_pipelines.runtime import ray_session
from semgen_pipelines.spreading import our_errors
from semgen_platform.phantom.cohort import CohortConfig, Work, write_cohort
from semgen_platform.progress import Progress


def write_cohort_with(
    workers: int, out: Path, config: CohortConfig, progress: Progress, *, address: str | None = None
) -> dict[str, Any]:
    """`write_cohort`, with so many patients at a time; the same files. Raises InputError (also for Ray)."""
    with ray_session(address, needs={"phantom workers": workers}) as ray:
        return write_cohort(out, config, progress, partial(_each, ray, workers))


def _each(ray: Any, workers: int, write: Callable[[Work], None], works: Sequence[Work]) -> Iterator[None]:
    """Yields for every patient that is done; never more tasks than `workers`, so that a joined Ray is not flooded."""
    task = ray.remote(_apply).options(num_cpus=1)
    left = list(works)
    running: list[Any] = []
    with our_errors(ray):
        while left or running:
            running += [task.remote(write, left.pop(0)) for _ in range(min(len(left), workers - len(running)))]
            done, running = ray.wait(running)
            for reference in done:
                yield ray.get(reference)


def _apply(write: Callable[[Work], None], work: Work) -> None:
    write(work)
