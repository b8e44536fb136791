"""Folders of benchmark runs are not mixed."""

import subprocess
import sys

import pytest

from benchmarks.pool import claim
from tests.conftest import ROOT


def test_a_folder_is_taken_up_again_with_the_same_settings_alone(tmp_path):
    claim(tmp_path / "runs", {"steps": (0, 50)})
    (tmp_path / "runs" / "heart_face").mkdir()
    claim(tmp_path / "runs", {"steps": (0, 50)})
    with pytest.raises(SystemExit, match="choose another --root"):
        claim(tmp_path / "runs", {"steps": (0, 100)})


def test_runs_of_unknown_settings_are_refused(tmp_path):
    (tmp_path / "heart_face").mkdir()
    with pytest.raises(SystemExit, match="choose another --root"):
        claim(tmp_path, {})


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    claim(tmp_path, {})
    again = f"from pathlib import Path; from benchmarks.pool import claim; claim(Path({str(tmp_path)!r}), {{}})"
    other = subprocess.run([sys.executable, "-c", again], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 1 and "another process is at work in" in other.stderr
