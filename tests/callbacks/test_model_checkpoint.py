"""A run that a signal stopped goes on from `last.ckpt` as the run that never stopped, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import adapter_weights, cheap, checkpoint, same, train
from tests.tiny import ROOT

STEPS = 24
SETTINGS = ["experiment=apt_dreambooth", "data.num_heldout=2", "optimizer.lr=1e-2", "trainer.val_check_interval=7"]


def command(tiny_sd: Path, run_dir: Path, *overrides: str) -> list[str]:
    few = [*cheap(tiny_sd, run_dir, steps=STEPS), *SETTINGS, "evaluation.max_prompts=1"]
    return [sys.executable, "run.py", *few, f"hydra.run.dir='{run_dir}'", *overrides]


def stopped(tiny_sd: Path, run_dir: Path, number: signal.Signals, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A run in a process of its own that gets the signal once it has taken a few steps."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(tiny_sd, run_dir, *overrides),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    began = time.monotonic()
    while not (run_dir / "metrics.csv").exists() or (run_dir / "metrics.csv").read_bytes().count(b"\n") < 3:
        assert process.poll() is None and time.monotonic() - began < 120, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="module")
def unbroken(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return train(monkeypatch, tiny_sd, tmp_path_factory.mktemp("unbroken") / "run", *SETTINGS, steps=STEPS)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_equals_unbroken(tiny_sd, tmp_path, unbroken, number):
    run_dir = tmp_path / "my run (1), a"
    result = stopped(tiny_sd, run_dir, number)
    last = run_dir / "checkpoints/last.ckpt"
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith(f"stopped by {number.name} after")]
    assert sentence.endswith(f"\"ckpt_path='{last}'\"")
    step = checkpoint(last)["global_step"]
    assert f"after step {step}:" in sentence and 0 < step < STEPS
    assert not (run_dir / "adapter").exists() and not list(last.parent.glob("*tmp*"))
    going_on = command(tiny_sd, run_dir, f"ckpt_path='{last}'")  # in its own folder
    again = subprocess.run(going_on, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert again.returncode == 0, again.stderr[-2000:]
    assert same(adapter_weights(run_dir), adapter_weights(unbroken))
    assert (run_dir / "metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()
    assert sorted(path.name for path in last.parent.iterdir()) == ["last.ckpt"]


def test_the_last_step_is_kept_where_it_is_no_multiple(monkeypatch, tiny_sd, tmp_path):
    every = "callbacks.model_checkpoint.every_n_train_steps=2"
    before = signal.getsignal(signal.SIGINT)
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", every, steps=5)
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == ["last.ckpt", "step_4.ckpt"]
    assert checkpoint(run_dir / "checkpoints/last.ckpt")["global_step"] == 5
    assert signal.getsignal(signal.SIGINT) is before  # ours are gone with the training


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_a_checkpoint_of_0_1_0_is_read_by_its_quoted_name(monkeypatch, tiny_sd, tmp_path):
    every = "callbacks.model_checkpoint.every_n_train_steps=2"
    first = train(monkeypatch, tiny_sd, tmp_path / "one", "experiment=dreambooth", every, steps=2)
    old = (first / "checkpoints/step_2.ckpt").rename(first / "checkpoints/step=2.ckpt")
    train(monkeypatch, tiny_sd, tmp_path / "two", "experiment=dreambooth", every, f"ckpt_path='{old}'", steps=4)
    assert (tmp_path / "two/checkpoints/step_4.ckpt").is_file()
