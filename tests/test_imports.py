"""Imports go one way: ``run.py`` → ``lightning_modules`` → ``callbacks`` → torch; the other packages stand alone."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "callbacks": {"callbacks"},
    "datamodules": {"datamodules"},
    "metrics": {"metrics", "datamodules"},
    "lightning_modules": {"lightning_modules", "callbacks", "metrics", "datamodules", "report"},
    "report": {"report"},
}
PROJECT = {*ALLOWED, "run", "tests", "benchmarks"}


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each import, inside functions and ``if TYPE_CHECKING`` too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            # `package` is dotted: one dot stays in it, each further one goes up. Above the top there is the root.
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            names = [parts[0]] if parts else [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, name.partition(".")[0]) for name in names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            yield node.lineno, node.module.partition(".")[0]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch, callbacks.step as s", ["torch", "callbacks"]),
        ("def f():\n    from lightning_modules.regularized import X", ["lightning_modules"]),
        ("from . import a", ["metrics"]),
        ("from ..clip import a", ["metrics"]),
        ("from ...callbacks.step import a", ["callbacks"]),
        ("from ... import callbacks, run", ["callbacks", "run"]),
    ],
)
def test_imports_are_found(source, names):
    assert [name for _, name in imported(source, "metrics.deep")] == names


@pytest.mark.parametrize("package", ALLOWED)
def test_package_imports_only_what_lies_below_it(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"{package}/ has no Python file"
    wrong = [
        f"{file.relative_to(ROOT)}:{line} imports {name}"
        for file in files
        for line, name in imported(file.read_text(encoding="utf-8"), ".".join(file.relative_to(ROOT).parts[:-1]))
        if name in PROJECT - ALLOWED[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_package_escapes():
    """What is installed, type-checked and watched here are the same packages, and there are no others."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert {name.removesuffix("*") for name in tool["setuptools"]["packages"]["find"]["include"]} == set(ALLOWED)
    assert set(tool["mypy"]["files"]) == {*ALLOWED, "run.py"}


def test_help_needs_no_torch():
    help_ = subprocess.run(
        [sys.executable, "-X", "importtime", "run.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert help_.returncode == 0, help_.stderr
    modules = {line.rpartition("|")[2].strip() for line in help_.stderr.splitlines() if line.startswith("import time:")}
    assert "hydra" in modules
    assert not modules & {"torch", "lightning", "diffusers", "transformers"}
