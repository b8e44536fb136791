"""What a step costs: which forwards and hooks there are, and that leaving a plug-in out is the same as weight 0."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional as F

from callbacks.regularizers import attention_alignment
from callbacks.regularizers.denoising import Denoising, denoising_loss
from callbacks.regularizers.overfitting_indicator import OverfittingIndicator
from tests.runs import adapter_weights, same, train
from tests.steps import step_of_losses

STEPS = 3
PRIOR = ("+regularizer=prior_preservation", "regularizer.prior_preservation.num_class_images=2")
APT_TERMS = ["denoising", "overfitting_indicator", "representation_stabilization", "attention_alignment"]


@dataclass(frozen=True)
class Call:
    """One forward of a UNet while training."""

    rows: int
    frozen: bool
    hooks: frozenset[str]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every UNet forward of the training steps, in order; class images, which are drawn before, are left out."""
    seen: list[Call] = []
    forward = UNet2DConditionModel.forward

    def counted(self, sample, *args, **kwargs):
        if self.training:
            hooks = frozenset(name for name, module in self.named_modules() if module._forward_hooks)
            seen.append(Call(rows=len(sample), frozen=not torch.is_grad_enabled(), hooks=hooks))
        return forward(self, sample, *args, **kwargs)

    monkeypatch.setattr(UNet2DConditionModel, "forward", counted)
    return seen


def per_step(calls: list[Call]) -> list[tuple[int, bool]]:
    """Rows and kind of each call of one step; all steps must be alike."""
    each = len(calls) // STEPS
    steps = [[(call.rows, call.frozen) for call in calls[i * each : (i + 1) * each]] for i in range(STEPS)]
    assert len(calls) == each * STEPS and all(step == steps[0] for step in steps)
    return steps[0]


@pytest.mark.parametrize("extra", [(), ("+regularizer=min_snr",)])
def test_dreambooth_is_one_forward_without_hooks(calls, monkeypatch, tiny_sd, tmp_path, extra):
    train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", *extra, steps=STEPS)
    assert per_step(calls) == [(2, False)]
    assert not any(call.hooks for call in calls)


def test_prior_preservation_is_one_forward_over_both_kinds_of_rows(calls, monkeypatch, tiny_sd, tmp_path):
    overrides = "experiment=dreambooth_prior", "regularizer.prior_preservation.num_class_images=2"
    train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, steps=STEPS)
    assert per_step(calls) == [(4, False)]
    assert not any(call.hooks for call in calls)


def test_apt_adds_one_frozen_forward(calls, monkeypatch, tiny_sd, tmp_path):
    train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", steps=STEPS)
    assert per_step(calls) == [(2, False), (2, True)]
    assert {name.rpartition(".")[2] for name in calls[0].hooks} == {"attn1", "attn2"}
    assert all(name.startswith("up_blocks.") for name in calls[0].hooks)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_frozen_forward_leaves_the_class_images_out(calls, monkeypatch, tiny_sd, tmp_path, adapter):
    train(
        monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", f"adapter={adapter}", *PRIOR, steps=STEPS
    )
    assert per_step(calls) == [(4, False), (2, True)]


def test_no_hook_and_no_frozen_forward_when_nobody_needs_them(calls, monkeypatch, tiny_sd, tmp_path):
    ablated = [
        "~regularizer.overfitting_indicator",
        "regularizer.representation_stabilization.weight=0",
        "regularizer.attention_alignment.weight=0",
    ]
    train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", *ablated, steps=STEPS)
    assert per_step(calls) == [(2, False)]
    assert not any(call.hooks for call in calls)


def test_the_indicator_alone_needs_no_hook(calls, monkeypatch, tiny_sd, tmp_path):
    ablated = "~regularizer.representation_stabilization", "~regularizer.attention_alignment"
    train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", *ablated, steps=STEPS)
    assert per_step(calls) == [(2, False), (2, True)]
    assert not any(call.hooks for call in calls)


@pytest.mark.parametrize("term", ["representation_stabilization", "attention_alignment"])
def test_weight_zero_equals_removal_bit_for_bit(calls, monkeypatch, tiny_sd, tmp_path, term):
    apt = "experiment=apt_dreambooth"
    zero = train(monkeypatch, tiny_sd, tmp_path / "zero", apt, f"regularizer.{term}.weight=0", steps=STEPS)
    calls_with_zero = calls.copy()
    calls.clear()
    removed = train(monkeypatch, tiny_sd, tmp_path / "removed", apt, f"~regularizer.{term}", steps=STEPS)
    assert calls_with_zero == calls, "the needs were dropped"
    assert same(adapter_weights(zero), adapter_weights(removed))
    assert (zero / "metrics.csv").read_bytes() == (removed / "metrics.csv").read_bytes()

    kept = train(monkeypatch, tiny_sd, tmp_path / "kept", apt, f"regularizer.{term}.weight=10", steps=STEPS)
    assert not same(adapter_weights(kept), adapter_weights(removed)), "the term does something"


def test_the_order_of_the_plugins_does_not_matter(monkeypatch, tiny_sd, tmp_path):
    runs: list[Path] = []
    for number, order in enumerate((APT_TERMS, APT_TERMS[::-1])):
        chosen = f"regularizer=[{','.join(order)}]"
        runs.append(
            train(monkeypatch, tiny_sd, tmp_path / str(number), "experiment=apt_dreambooth", chosen, steps=STEPS)
        )
    assert same(*map(adapter_weights, runs))
    assert runs[0].joinpath("metrics.csv").read_bytes() == runs[1].joinpath("metrics.csv").read_bytes()


def test_two_runs_of_one_seed_are_one_run_and_another_seed_is_another(monkeypatch, tiny_sd, tmp_path):
    adapters = [
        adapter_weights(train(monkeypatch, tiny_sd, tmp_path / name, f"seed={seed}", steps=STEPS))
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    assert same(adapters[0], adapters[1])
    assert not same(adapters[0], adapters[2])


def test_under_mixed_precision_the_plugins_and_the_warp_compute_in_float32(monkeypatch, tiny_sd, tmp_path):
    dtypes = []
    original_loss, original_warp = attention_alignment.attention_alignment_loss, F.affine_grid

    def loss(student, reference, **kwargs):
        dtypes.append(("maps", student.dtype))
        return original_loss(student, reference, **kwargs)

    def affine_grid(*args, **kwargs):
        grid = original_warp(*args, **kwargs)
        dtypes.append(("grid", grid.dtype))
        return grid

    monkeypatch.setattr(attention_alignment, "attention_alignment_loss", loss)
    monkeypatch.setattr(F, "affine_grid", affine_grid)
    always = [f"regularizer.overfitting_indicator.{each}" for each in ("scale=1e6", "num_bins=1", "weighting=false")]
    precision = "trainer.precision=bf16-mixed"
    train(monkeypatch, tiny_sd, tmp_path / "run", precision, *always, "optimizer.lr=1e-2", steps=12)
    assert set(dtypes) == {("maps", torch.float32), ("grid", torch.float32)}


def test_a_loss_that_several_plugins_ask_for_is_computed_once(monkeypatch):
    asked = []

    def counted(*args):
        asked.append(args)
        return denoising_loss(*args)

    monkeypatch.setattr("callbacks.regularizers.denoising.denoising_loss", counted)
    settings = {"num_bins": 4, "ema_weight": 0.1, "scale": 1.0, "max_probability": 0.8}
    indicator = OverfittingIndicator(**settings, weighting=True, augmentation=False)
    step = step_of_losses([0.1, 0.3], [0.2, 0.4], [0, 900])
    weight = indicator.sample_weight(step)
    assert len(asked) == 2  # the student's and the frozen model's
    loss = Denoising(weight=1.0).loss(step).loss
    assert len(asked) == 2
    assert weight is not None and loss.item() == pytest.approx(0.2, rel=1e-5)
    other = step_of_losses([0.5, 0.7], [0.2, 0.4], [0, 900])
    assert Denoising(weight=1.0).loss(other).loss.item() == pytest.approx(0.6, rel=1e-5)  # nothing is kept of a step
    assert len(asked) == 3
