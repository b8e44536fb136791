import math
from functools import partial

import pytest
import torch

from callbacks.regularizers.denoising import denoising_loss
from callbacks.regularizers.direct_consistency import DirectConsistency, direct_consistency_loss
from callbacks.regularizers.min_snr import MinSNR
from callbacks.regularizers.overfitting_indicator import OverfittingIndicator
from lightning_modules.regularized import active_regularizers
from report.metrics_csv import read_metrics
from tests.runs import compose, train
from tests.steps import step_of_losses


def term(**changes):
    return DirectConsistency(**{"weight": 1.0, "beta": 10.0, "min_snr_gamma": None} | changes)


def test_log_2_where_student_and_frozen_model_agree():
    losses = torch.tensor([0.3, 0.0, 7.0])
    torch.testing.assert_close(direct_consistency_loss(losses, losses, beta=1e3), torch.full((3,), math.log(2)))


def test_by_hand():
    # d = -0.1 and 0.2 at β = 10: log(1 + e⁻¹) and log(1 + e²).
    step = step_of_losses([0.2, 0.5], [0.3, 0.3], [0, 0])
    expected = (math.log1p(math.exp(-1)) + math.log1p(math.exp(2))) / 2
    assert term().loss(step).loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_does_not_depend_on_how_a_batch_is_split():
    student, reference = torch.rand(8), torch.rand(8)
    whole = direct_consistency_loss(student, reference, beta=5.0).mean()
    halves = zip(student.split(4), reference.split(4), strict=True)
    parts = [direct_consistency_loss(one, other, beta=5.0).mean() for one, other in halves]
    torch.testing.assert_close(whole, torch.stack(parts).mean())


def test_gradient_is_that_of_denoising_times_beta_sigma():
    beta, target = 50.0, torch.zeros(3, 1, 2, 2)
    prediction = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reference = torch.tensor([0.5, 1.0, 0.1])
    losses = denoising_loss(prediction, target)
    (plain,) = torch.autograd.grad(losses.sum(), prediction, retain_graph=True)
    (ours,) = torch.autograd.grad(direct_consistency_loss(losses, reference, beta=beta).sum(), prediction)
    factor = beta * torch.sigmoid(beta * (losses.detach() - reference))
    torch.testing.assert_close(ours, factor[:, None, None, None] * plain)


def test_large_gaps_stay_finite():
    loss = direct_consistency_loss(torch.tensor([9.0, 0.0]), torch.tensor([0.0, 9.0]), beta=2000.0)
    torch.testing.assert_close(loss, torch.tensor([18000.0, 0.0]))


def test_min_snr_lies_inside_the_sigmoid():
    step = step_of_losses([0.2], [0.3], [0], snr=torch.tensor([10.0]))
    expected = math.log1p(math.exp(-0.5))  # min(10, 5) / 10 halves βd = -1
    assert term(min_snr_gamma=5.0).loss(step).loss.item() == pytest.approx(expected, rel=1e-5)


def test_nothing_else_weights_the_rows():
    settings = {"num_bins": 4, "ema_weight": 0.1, "scale": 1.0, "augmentation": True}
    indicator = partial(OverfittingIndicator, **settings, max_probability=0.8)
    with pytest.raises(ValueError, match=r"regularizer\.overfitting_indicator does too.*\.weighting=false"):
        active_regularizers({"direct_consistency": term(), "overfitting_indicator": indicator(weighting=True)})
    with pytest.raises(ValueError, match=r"regularizer\.min_snr does too"):
        active_regularizers({"direct_consistency": term(), "min_snr": MinSNR(gamma=5.0)})
    active_regularizers({"direct_consistency": term(), "overfitting_indicator": indicator(weighting=False)})


def test_a_run_starts_near_log_2(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dco_dreambooth")
    curves = read_metrics(run_dir / "metrics.csv")
    # Not 0: the identifier embeds differently from the bare class word.
    assert curves["direct_consistency/difference"][0][1] == pytest.approx(0, abs=0.02)
    losses = [value for _, value in curves["loss/direct_consistency"]]
    assert losses[0] == pytest.approx(math.log(2), abs=0.02) and len(set(losses)) == 4


def test_dco_apt_scales_apts_weights(tmp_path):
    apt = compose(tmp_path / "apt", "experiment=apt_dreambooth").regularizer
    scaled = compose(tmp_path / "dco", "experiment=dco_apt", "regularizer.direct_consistency.beta=100").regularizer
    for part in ("representation_stabilization", "attention_alignment"):
        assert scaled[part].weight == pytest.approx(50 * apt[part].weight)
