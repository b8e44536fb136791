"""Which way imports run is held by import-linter (`make check`); here: what it does not see."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def packages() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}


def test_no_package_escapes():
    """What is installed, type-checked and watched are the same packages, and each folder of them is one."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    installed = {name.removesuffix("*") for name in tool["setuptools"]["packages"]["find"]["include"]}
    assert installed == {*packages(), "conf", "assets"}
    assert set(tool["mypy"]["files"]) == {*packages(), "run.py"}
    assert set(tool["importlinter"]["root_packages"]) == {*packages(), "benchmarks", "tests"}
    folders = {file.parent for package in packages() for file in (ROOT / package).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)


def test_help_needs_no_torch():
    help_ = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert help_.returncode == 0, help_.stderr
    modules = {line.rpartition("|")[2].strip() for line in help_.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in modules
    assert not modules & {"torch", "lightning", "diffusers", "transformers"}
