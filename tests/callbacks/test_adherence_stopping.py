"""The rule of when to stop, by hand; and that a run keeps, resumes and tells what the rule chose."""

import json
import math
from pathlib import Path

import pytest
import torch

from callbacks.adherence_stopping import AdherenceStopping, last_step_before_drop, paired_difference, reason
from callbacks.sample_evaluation import SampleEvaluation
from tests.runs import adapter_weights, checkpoint, compose, same, train

SETTINGS = {"num_standard_errors": 2.0, "patience": 1, "stop": True, "keep": "best"}


def test_paired_difference_by_hand():
    """Differences −0.2, 0, −0.4, −0.2: mean −0.2, deviation √(0.08 / 3), error half of it."""
    mean, error = paired_difference([0.9, 0.5, 0.8, 0.7], [0.7, 0.5, 0.4, 0.5])
    assert mean == pytest.approx(-0.2)
    assert error == pytest.approx(math.sqrt(0.08 / 3) / 2)


def test_pairing_takes_out_what_makes_prompts_hard():
    _, error = paired_difference([0.1, 0.5, 0.9], [0.0, 0.4, 0.8])
    assert error == pytest.approx(0, abs=1e-12)


CURVE = [  # of 4 prompts; differences to the best check before, and t = mean / error, beside
    [0.8, 0.6, 1.0, 0.6],
    [1.0, 0.6, 1.0, 0.8],  # +0.10 to step 0, the new best
    [1.0, 0.6, 0.8, 0.8],  # −0.05, t = −1
    [0.8, 0.4, 0.8, 0.6],  # −0.20, error 0: below
    [0.8, 0.5, 0.8, 0.7],  # −0.15, error 0.0289: t = −5.2, below
    [1.0, 0.6, 1.0, 0.8],  # 0
]
STEPS = [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    ("errors", "patience", "chosen", "dropped_at"),
    [
        (2, 1, 20, 30),
        (2, 2, 20, 30),  # two in a row are there, and the drop begins with the first
        (2, 3, 50, None),
        (0.5, 1, 10, 20),
        (0.5, 3, 10, 20),
        (6, 1, 20, 30),  # an error of 0 leaves no room for noise
        (6, 2, 50, None),
    ],
)
def test_last_step_before_drop_by_hand(errors, patience, chosen, dropped_at):
    choice = last_step_before_drop(STEPS, CURVE, num_standard_errors=errors, patience=patience)
    assert (choice.step, choice.dropped_at) == (chosen, dropped_at)


def test_the_curve_holds_every_check_against_the_best_before_it():
    choice = last_step_before_drop(STEPS, CURVE, num_standard_errors=2, patience=1)
    assert [check.step for check in choice.curve] == STEPS
    assert [check.adherence for check in choice.curve] == pytest.approx([0.75, 0.85, 0.8, 0.65, 0.7, 0.85])
    assert [check.difference for check in choice.curve] == pytest.approx([0, 0.1, -0.05, -0.2, -0.15, 0], abs=1e-12)
    assert choice.curve[2].standard_error == pytest.approx(0.05)
    assert choice.curve[4].standard_error == pytest.approx(math.sqrt(0.01 / 3) / 2)
    assert [check.is_below for check in choice.curve] == [False, False, False, True, True, False]


def test_the_reason_says_where_and_by_how_much():
    choice = last_step_before_drop(STEPS, CURVE, num_standard_errors=0.5, patience=1)
    said = reason(choice, num_standard_errors=0.5, patience=1)
    assert "step 10, the last before" in said and "first at step 20 by 0.050 ± 0.050" in said
    rising = last_step_before_drop([0, 10], [[0.1, 0.2], [0.2, 0.4]], num_standard_errors=2, patience=1)
    assert reason(rising, num_standard_errors=2, patience=1).startswith("step 10, the last: ")


@pytest.mark.parametrize(
    "wrong", [{"num_standard_errors": -1}, {"patience": 0}, {"keep": "first"}, {"num_standard_errors": math.nan}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdherenceStopping(**{**SETTINGS, **wrong})


# Runs. A model of random weights draws nothing that could be judged, so the judge's figures are put in its place:
# adherence rises, and drops at step 6 and behind it.

EVERY = [
    "experiment=dreambooth_early_stopped",
    "callbacks.sample_evaluation.every_n_steps=2",
    "callbacks.sample_evaluation.num_prompts=3",
    "callbacks.sample_evaluation.num_inference_steps=1",
    "callbacks.model_checkpoint.every_n_train_steps=2",
    "+callbacks.model_checkpoint.save_top_k=-1",
    "data.num_heldout=1",
    "evaluation.identity=null",
    "optimizer.lr=1e-2",
]
LEVELS = {0: 0.7, 2: 0.8, 4: 0.9, 6: 0.4, 8: 0.3, 10: 0.3}


@pytest.fixture(autouse=True)
def judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The adherence of step 6 and later is low, with a little noise."""
    check = SampleEvaluation._check

    def at_step(self, trainer, pl_module):
        level = LEVELS[trainer.global_step]
        monkeypatch.setattr(
            "callbacks.sample_evaluation.shares_right", lambda *_: [level, level + 0.1, level - 0.05 * level]
        )
        check(self, trainer, pl_module)

    monkeypatch.setattr(SampleEvaluation, "_check", at_step)


def weights_at(run_dir: Path, step: int) -> list[torch.Tensor]:
    """Of a checkpoint, in the order of the names in the adapter's file, which differ by their prefix."""
    return [value for _, value in sorted(checkpoint(run_dir / f"checkpoints/step_{step}.ckpt")["state_dict"].items())]


def saved(run_dir: Path) -> list[torch.Tensor]:
    return [value for _, value in sorted(adapter_weights(run_dir).items())]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_a_run_stops_keeps_the_chosen_step_and_resumes_to_the_same(monkeypatch, tiny_sd, tmp_path):
    stopped = train(monkeypatch, tiny_sd, tmp_path / "stopped", *EVERY, steps=10)
    assert not (stopped / "checkpoints/step_10.ckpt").exists()  # the drop was sure at step 8
    assert equal(saved(stopped), weights_at(stopped, 4)) and not equal(saved(stopped), weights_at(stopped, 8))
    # From behind the chosen step the weights to keep come out of the checkpoint.
    path = f"ckpt_path='{stopped}/checkpoints/step_6.ckpt'"
    resumed = train(monkeypatch, tiny_sd, tmp_path / "resumed", *EVERY, path, steps=10)
    assert same(adapter_weights(stopped), adapter_weights(resumed))
    assert (stopped / "metrics.csv").read_bytes() == (resumed / "metrics.csv").read_bytes()
    assert (stopped / "samples/training.png").read_bytes() == (resumed / "samples/training.png").read_bytes()
    # A run that had found its drop has nothing left to train.
    path = f"ckpt_path='{stopped}/checkpoints/last.ckpt'"
    again = train(monkeypatch, tiny_sd, tmp_path / "again", *EVERY, path, steps=10)
    assert same(adapter_weights(stopped), adapter_weights(again))
    assert (stopped / "metrics.csv").read_bytes() == (again / "metrics.csv").read_bytes()


@pytest.mark.parametrize("keep", ["best", "last"])
def test_without_stop_the_training_goes_on_and_is_told(monkeypatch, tiny_sd, tmp_path, keep):
    told = {}
    monkeypatch.setattr("tasks.fit.judge", lambda *args, info, **kwargs: told.update(info) or tmp_path / "report.html")
    import run
    from tests.runs import cheap

    run_dir = tmp_path / "run"
    stopping = [f"callbacks.adherence_stopping.{each}" for each in ("stop=false", f"keep={keep}")]
    run.fit(compose(run_dir, *cheap(tiny_sd, run_dir, steps=10), *EVERY, *stopping), run_dir)
    assert equal(saved(run_dir), weights_at(run_dir, 4 if keep == "best" else 10))
    record = json.loads(json.dumps(told["stopping"]))
    assert (record["chosen_step"], record["keep"], told["steps"]) == (4, keep, 4 if keep == "best" else 10)
    assert [check["step"] for check in record["curve"]] == list(LEVELS)
    assert record["reason"].startswith("keeps step 4" if keep == "best" else "keeps the end of the training")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~callbacks.sample_evaluation", "callbacks.sample_evaluation"),
        ("evaluation.judge=null", "no judge reads these"),
        ("callbacks.sample_evaluation.num_prompts=1", "1 prompt"),
    ],
)
def test_what_cannot_tell_adherence_is_refused(monkeypatch, tiny_sd, tmp_path, override, message):
    clash = override.partition("=")[0].removeprefix("~")
    overrides = [each for each in EVERY if not each.startswith(clash)]
    with pytest.raises(ValueError, match=message):
        train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, override)
