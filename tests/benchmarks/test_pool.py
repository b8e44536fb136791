"""Folders of benchmark runs are not mixed."""

import subprocess
import sys
from time import monotonic, sleep

import pytest

from benchmarks.shared.pool import claim, minutes_left, run_all
from tests.tiny import ROOT


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
    again = f"from pathlib import Path; from benchmarks.shared.pool import claim; claim(Path({str(tmp_path)!r}), {{}})"
    other = subprocess.run([sys.executable, "-c", again], cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 1 and "another process is at work in" in other.stderr


def test_the_others_take_as_many_rounds_as_are_left():
    assert minutes_left(60, jobs=1, workers=2) == minutes_left(60, jobs=2, workers=2) == 0
    assert minutes_left(60, jobs=5, workers=2) == 2  # 1 and 2, 3 and 4, 5


def test_the_first_of_all_says_once_how_long_the_others_take(capsys):
    run_all(sleep, [(0,), (0,), (0,)], workers=1, what="sleeping")
    out = capsys.readouterr().out
    assert out.count("sleeping: the first of 3 took ") == out.count("minutes are left") == 1


def test_workers_end_with_a_benchmark_that_is_killed(tmp_path):
    beats, script = tmp_path / "beats", tmp_path / "jobs.py"
    script.write_text(
        f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.shared.pool import run_all

def job():
    for _ in range(600):
        open({str(beats)!r}, "a").write(".")
        time.sleep(0.1)

if __name__ == "__main__":
    run_all(job, [()], workers=1, what="beating")
"""
    )
    benchmark = subprocess.Popen([sys.executable, script])
    deadline = monotonic() + 60
    while not beats.exists() and monotonic() < deadline:
        sleep(0.1)
    assert benchmark.poll() is None
    benchmark.kill()
    benchmark.wait()
    sleep(2)
    last = beats.read_text()
    sleep(2)
    assert beats.read_text() == last, "the worker outlives the benchmark"
