"""What every test gets: a configuration folder of its own, and no lake, key or Ray from the caller's environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A pseudonym key is made in the user's configuration folder; a test must not find or leave one there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in ("SEMGEN_LAKE", "SEMGEN_LAKE_KEY_FILE", "SEMGEN_QUIET", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield
