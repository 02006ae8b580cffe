"""The built wheel holds the three packages and works in an empty environment, away from the checkout.

What is installed there is what pyproject.toml declares, so a module that leans on a development tool is found here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("platform", "pipelines", "cli")
CONSTRAINTS = ROOT / "constraints" / "constraints.txt"
IMPORT_EVERYTHING = """
import importlib, pkgutil
for root in ("semgen_platform", "semgen_pipelines", "semgen_cli"):
    package = importlib.import_module(root)
    for module in pkgutil.walk_packages(package.__path__, root + "."):
        importlib.import_module(module.name)
    print(root, package.__file__)
"""

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source archive, so that archive is known to be complete too."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Iterator[Path]:
    """bin/ of a new virtual environment with the wheel and what it declares for CPU and serving; 3 GB, removed."""
    if not os.environ.get("PIP_FIND_LINKS"):
        pytest.skip("PIP_FIND_LINKS does not say where CPU torch comes from; run this through make test-slow")
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        run(sys.executable, "-m", "venv", python.parent.parent, cwd=Path(folder))
        install = (python, "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS)
        run(*install, "--no-index", "--no-deps", "torch", cwd=Path(folder))
        run(*install, f"{wheel}[cpu,serve]", cwd=Path(folder))
        yield python.parent


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    sources = {
        str(path.relative_to(ROOT / root))
        for root in SOURCE_ROOTS
        for path in (ROOT / root).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == sources
    assert {"semgen_platform/py.typed", "semgen_pipelines/py.typed", "semgen_cli/py.typed"} <= packed
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_module_imports_in_the_empty_environment(environment: Path, tmp_path: Path) -> None:
    lines = run(environment / "python", "-c", IMPORT_EVERYTHING, cwd=tmp_path).splitlines()
    places = dict(line.split(" ", 1) for line in lines)
    assert set(places) == {"semgen_platform", "semgen_pipelines", "semgen_cli"}
    assert all(place.startswith(str(environment.parent)) for place in places.values()), places


def test_the_command_works_in_the_empty_environment(environment: Path, tmp_path: Path) -> None:
    assert "Usage" in run(environment / "semgen-platform", "--help", cwd=tmp_path)
