"""The house keeps its shape: source roots are no packages, `--help` is instant, the library needs no Ray."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import semgen_platform

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = ("platform", "pipelines", "cli")
HEAVY = ("ray", "torch", "faiss", "zarr", "pandas")
HELP_CPU_SECONDS = 0.5
MODULES = {"pyyaml": "yaml", "pillow": "PIL"}  # where a distribution and its module differ
FOUND_BY_OTHERS = {
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pylibjpeg-rle",
    "pyjpegls",
    "tensorboard",
}  # by pydicom and torch


def run_python(code: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_is_no_package_and_holds_one(root: str) -> None:
    files = [p.name for p in (ROOT / root).iterdir() if p.is_file()]
    assert files == [], f"{root}/ is a folder on the import path and holds packages only"
    packages = [p for p in (ROOT / root).iterdir() if p.is_dir() and p.name.startswith("semgen_")]
    assert len(packages) == 1
    assert (packages[0] / "__init__.py").is_file()
    assert (packages[0] / "py.typed").is_file()


def test_the_standard_library_platform_wins_in_the_repository_root() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "platform"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sys.platform in done.stdout.lower()


def test_no_test_folder_is_a_package_or_hides_a_standard_module() -> None:
    assert [str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("__init__.py")] == []
    names = {p.name for p in (ROOT / "tests").rglob("*") if p.is_dir()} | {
        p.stem for p in (ROOT / "tests").rglob("*.py")
    }
    assert names & set(sys.stdlib_module_names) == set()


def test_no_module_of_ours_bears_the_name_of_a_source_root() -> None:
    modules = {p.stem for root in SOURCE_ROOTS for p in (ROOT / root).glob("semgen_*/*.py")}
    assert "platform" not in modules


def test_the_version_is_the_same_in_the_package_and_in_its_metadata() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert semgen_platform.__version__ == declared


def test_no_source_file_is_ignored_by_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", *SOURCE_ROOTS, "tests"]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [p for p in ignored if p.endswith((".py", ".yaml", ".html", ".typed"))] == []


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from semgen_cli.main import run\n"
        "assert run(['--help']) == 0\n"
        "print(sorted(set(sys.modules) & set(sys.argv[1:])), file=sys.stderr)\n"
    )
    done = run_python(code, *HEAVY)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "Usage" in done.stdout


def test_help_takes_under_half_a_second_of_cpu() -> None:
    assert min(cpu_seconds_of_help() for _ in range(3)) < HELP_CPU_SECONDS


def cpu_seconds_of_help() -> float:
    """User and system seconds of one `semgen-platform --help`: a loaded machine stretches the clock but not these."""
    with open(os.devnull, "w") as nowhere:
        child = subprocess.Popen([sys.executable, "-m", "semgen_cli.main", "--help"], cwd=ROOT, stdout=nowhere)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_every_runtime_dependency_is_imported_by_what_we_install() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[\[<>=~! ]", requirement)[0] for requirement in declared} - FOUND_BY_OTHERS
    imported = {module for root in SOURCE_ROOTS for path in (ROOT / root).rglob("*.py") for module in imports_of(path)}
    assert {name for name in names if MODULES.get(name, name) not in imported} == set()


def imports_of(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, at its top or in a body."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    taken = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in plain | taken}


def test_every_module_of_the_platform_imports_without_ray_and_typer() -> None:
    code = (
        "import sys, importlib, pkgutil\n"
        "sys.modules['ray'] = sys.modules['typer'] = None\n"
        "import semgen_platform\n"
        "for module in pkgutil.walk_packages(semgen_platform.__path__, 'semgen_platform.'):\n"
        "    importlib.import_module(module.name)\n"
        "    print(module.name)\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert "semgen_platform.geometry" in done.stdout.split()
