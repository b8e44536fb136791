"""Runs in processes of their own: a sweep, and two processes of one run, which give what one process gives."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from report.metrics_csv import read_metrics
from tests.runs import adapter_weights, cheap
from tests.tiny import ROOT


def run_py(*overrides: str) -> None:
    result = subprocess.run(
        [sys.executable, "run.py", *overrides], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_train_one_token(tiny_sd, tmp_path):
    token = ["experiment=textual_inversion", "data.num_heldout=0", "evaluation.max_prompts=1"]
    for name, *overrides in (
        ("one", "datamodule.batch_size=4"),
        ("two", "datamodule.batch_size=2", "trainer.devices=2", "+trainer.strategy=ddp"),
    ):
        run_dir = tmp_path / name
        run_py(*cheap(tiny_sd, run_dir), f"hydra.run.dir={run_dir}", *token, *overrides)
    one, two = (load_file(tmp_path / name / "learned_embeds.safetensors")["<subject>"] for name in ("one", "two"))
    torch.testing.assert_close(one, two, atol=2e-5, rtol=1e-3)


def test_two_processes_are_one(tiny_sd, tmp_path):
    for name, *overrides in (
        ("one", "datamodule.batch_size=4"),
        ("two", "datamodule.batch_size=2", "trainer.devices=2", "+trainer.strategy=ddp"),
    ):
        run_dir = tmp_path / name
        run_py(*cheap(tiny_sd, run_dir), f"hydra.run.dir={run_dir}", "trainer.val_check_interval=4", *overrides)
    one, two = (adapter_weights(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=2e-5, rtol=1e-3)
    curves = [read_metrics(tmp_path / name / "metrics.csv") for name in ("one", "two")]
    for name in ("loss/total", "augmentation/share", "gamma/bin_05", "heldout/relative_loss/bin_05"):
        expected, found = (dict(each[name]) for each in curves)
        assert found == pytest.approx(expected, abs=1e-3), name


def test_a_sweep_gives_each_job_a_folder(tiny_sd, tmp_path):
    weights = "regularizer.attention_alignment.weight=0,1"
    run_py("-m", *cheap(tiny_sd, tmp_path / "x", steps=2), weights, f"hydra.sweep.dir={tmp_path}/sweep")
    without, with_term = (read_metrics(tmp_path / f"sweep/{job}/metrics.csv") for job in (0, 1))
    assert "loss/attention_alignment" not in without and "loss/attention_alignment" in with_term


def test_the_sweep_folder_is_named_after_the_experiment(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "-m", "trainer.devices=2", "seed=0,1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode != 0 and "trainer.devices=2 in a sweep" in result.stderr, result.stderr[-2000:]
    assert list(tmp_path.glob("runs/apt_dreambooth/multirun/*/0"))


def test_a_refused_job_does_not_end_the_sweep(tiny_sd, tmp_path):
    overrides = [*cheap(tiny_sd, tmp_path / "x", steps=2), f"hydra.sweep.dir={tmp_path}/sweep"]
    result = subprocess.run(
        [sys.executable, "run.py", "-m", *overrides, "data.subject=nothing,heart_face"],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert result.returncode != 0 and "data.subject='nothing'" in result.stderr
    assert (tmp_path / "sweep/1/report.html").is_file()


@pytest.mark.parametrize("wrong", ["evaluation.max_prompts=0", "~evaluation"])
def test_a_bad_evaluation_is_refused_before_training(tiny_sd, tmp_path, wrong):
    run_dir = tmp_path / "run"
    overrides = [each for each in cheap(tiny_sd, run_dir) if not each.startswith("evaluation.")]
    result = subprocess.run(
        [sys.executable, "run.py", *overrides, wrong, f"hydra.run.dir={run_dir}"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert result.returncode != 0 and "evaluation" in result.stderr and "Loading weights" not in result.stderr
    assert "Traceback" not in result.stderr, result.stderr
