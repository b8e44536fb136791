"""How the benchmarks are started, and what their pages say of it."""

import subprocess
import sys
from argparse import ArgumentTypeError

import pytest

from benchmarks.shared.command import positive, typed
from tests.tiny import ROOT

STARTED = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if "__main__" in path.read_text()
]


def test_the_command_on_a_page_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run.py", "--seeds", "1", "evaluation/metrics=[dino, clip_i]"])
    expected = "python -m benchmarks.gta.run --seeds 1 'evaluation/metrics=[dino, clip_i]'"
    assert typed("benchmarks.gta.run") == expected
    monkeypatch.setattr(sys, "argv", ["/somewhere/run.py"])
    assert typed("benchmarks.gta.run") == "python -m benchmarks.gta.run"


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two"])
def test_only_whole_numbers_above_zero_are_positive(text):
    with pytest.raises(ArgumentTypeError, match=f"'{text}' is no whole number above 0"):
        positive(text)
    assert positive("12") == 12


def test_the_readme_has_a_command_for_each():
    readme = (ROOT / "benchmarks/README.md").read_text()
    assert len(STARTED) == 15
    assert [module for module in STARTED if f"`python -m {module}" not in readme] == []


@pytest.mark.slow
@pytest.mark.parametrize("module", STARTED)
def test_each_says_what_it_takes(module):
    done = subprocess.run([sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: "), done.stderr
