"""One local Ray for all tests of this folder, since starting one takes seconds; pipelines inside join it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def local_ray() -> Iterator[None]:
    """A local Ray with enough logical CPUs for every pipeline here: two trainers, two actors, one for Ray itself."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from semgen_pipelines.runtime import ray_session

    with ray_session(None, needs={"tests": 4}):
        yield
