"""A run that was stopped in the middle of an epoch and resumed is the run that never stopped, bit for bit."""

import shutil
from pathlib import Path

import pytest

from report.metrics_csv import read_metrics
from tests.runs import adapter_weights, checkpoint, same, train

# A resumed run has a folder of its own, as every run has.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")

STEPS, STOP = 6, 3

# 5 pictures in batches of 2: step 3 lies in the second epoch. A tiny model's γ is near 0, so T is raised: augmentation
# then really occurs, and differs between a run that knows γ's history and one that does not.
OVERRIDES = [
    "experiment=apt_dreambooth",
    "data.num_train=5",
    "data.num_heldout=2",
    "regularizer.overfitting_indicator.scale=1e5",
    "regularizer.overfitting_indicator.num_bins=2",
    "lr_scheduler=cosine",
    "optimizer.lr=1e-2",
    f"callbacks.model_checkpoint.every_n_train_steps={STOP}",
    "+callbacks.model_checkpoint.save_top_k=-1",
    "trainer.val_check_interval=2",
]


@pytest.fixture(scope="module")
def unbroken(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        return train(monkeypatch, tiny_sd, tmp_path_factory.mktemp("unbroken") / "run", *OVERRIDES, steps=STEPS)


def test_something_is_at_stake(unbroken):
    curves = read_metrics(unbroken / "metrics.csv")
    share = dict(curves["augmentation/share"])
    assert len(share) == STEPS
    assert any(share[step] > 0 for step in range(STOP, STEPS)), "nothing was augmented behind the stop"
    assert any(value > 0 for name, points in curves.items() if "gamma" in name for _, value in points)
    assert any(name.startswith("heldout/relative_loss") for name in curves)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_equals_unbroken(monkeypatch, tiny_sd, tmp_path, unbroken, num_workers):
    resumed = train(
        monkeypatch,
        tiny_sd,
        tmp_path / "resumed",
        *OVERRIDES,
        f"ckpt_path='{unbroken}/checkpoints/step_{STOP}.ckpt'",
        f"datamodule.num_workers={num_workers}",
        steps=STEPS,
    )
    assert same(adapter_weights(unbroken), adapter_weights(resumed))
    assert (resumed / "metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()


def test_a_run_that_was_really_stopped_resumes(monkeypatch, tiny_sd, tmp_path, unbroken):
    """Killed in step 3, behind the checkpoint: rows that the dead run wrote after it are written again."""
    from callbacks.regularizers.denoising import Denoising

    loss, count = Denoising.loss, iter(range(100))

    def dying(self, step):
        if next(count) == STOP + 1:
            raise RuntimeError("killed")
        return loss(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Denoising, "loss", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(monkeypatch, tiny_sd, tmp_path / "stopped", *OVERRIDES, steps=STEPS)
    assert dict(read_metrics(tmp_path / "stopped/metrics.csv")["loss/total"]).keys() == set(range(STOP + 1))
    last = tmp_path / "stopped/checkpoints/last.ckpt"
    assert checkpoint(last)["global_step"] == STOP
    resumed = train(monkeypatch, tiny_sd, tmp_path / "resumed", *OVERRIDES, f"ckpt_path='{last}'", steps=STEPS)
    assert (resumed / "metrics.csv").read_bytes() == (unbroken / "metrics.csv").read_bytes()
    assert same(adapter_weights(unbroken), adapter_weights(resumed))


def test_a_checkpoint_holds_what_trains_and_plain_values(unbroken):
    saved = checkpoint(unbroken / "checkpoints" / f"step_{STOP}.ckpt")
    assert saved["state_dict"] and all("lora_" in name for name in saved["state_dict"])
    indicator = saved["callbacks"]["regularizer/overfitting_indicator"]
    assert all(isinstance(value, list | int | float) for value in indicator.values())


def test_a_finished_run_can_be_prolonged(monkeypatch, tiny_sd, tmp_path, unbroken):
    """With a schedule that does not depend on the length, the longer run is the one begun so."""
    constant = [*OVERRIDES, "lr_scheduler=constant"]
    short = train(monkeypatch, tiny_sd, tmp_path / "short", *constant, steps=STOP)
    path = f"ckpt_path='{short}/checkpoints/last.ckpt'"
    prolonged = train(monkeypatch, tiny_sd, tmp_path / "prolonged", *constant, path, steps=STEPS)
    long = train(monkeypatch, tiny_sd, tmp_path / "long", *constant, steps=STEPS)
    assert same(adapter_weights(prolonged), adapter_weights(long))
    assert (prolonged / "metrics.csv").read_bytes() == (long / "metrics.csv").read_bytes()


def test_a_checkpoint_of_another_adapter_is_refused(monkeypatch, tiny_sd, tmp_path, unbroken):
    path = f"ckpt_path='{unbroken}/checkpoints/last.ckpt'"
    with pytest.raises(ValueError, match=r"adapter\.target_modules is \['to_q'\]"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *OVERRIDES, path, "adapter.target_modules=[to_q]", steps=STEPS)
    # Taken out of its run, the checkpoint itself still tells.
    alone = tmp_path / "elsewhere/last.ckpt"
    alone.parent.mkdir()
    shutil.copy(unbroken / "checkpoints/last.ckpt", alone)
    path = f"ckpt_path='{alone}'"
    for number, other in enumerate(("adapter.target_modules=[to_q]", "adapter.rank=3")):
        with pytest.raises(ValueError, match="trains other weights"):
            train(monkeypatch, tiny_sd, tmp_path / f"run{number}", *OVERRIDES, path, other, steps=STEPS)
    alone.write_bytes(b"not a checkpoint at all")
    with pytest.raises(ValueError, match="is no checkpoint of a run"):
        train(monkeypatch, tiny_sd, tmp_path / "garbage", *OVERRIDES, path, steps=STEPS)


@pytest.mark.parametrize(
    "other", ["seed=3", "data.subject=star_badge", "optimizer.lr=1", "~regularizer.attention_alignment"]
)
def test_a_checkpoint_does_not_go_on_as_another_run(monkeypatch, tiny_sd, tmp_path, unbroken, other):
    path = f"ckpt_path='{unbroken}/checkpoints/last.ckpt'"
    with pytest.raises(ValueError, match="resume it under its own settings"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *OVERRIDES, path, other, steps=STEPS)
