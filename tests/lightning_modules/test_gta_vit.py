"""GTA's own module and its plug-in, end to end on a random-weight ViT."""

import math

import pytest
import torch
from hydra.errors import InstantiationException

from lightning_modules.gta_vit import attention_divergence
from report.metrics_csv import read_metrics
from tests.runs import VIT, compose, fit_vit, same, vit_weights


def test_transfer_is_exactly_0_before_the_first_step(tiny_vit, tmp_path):
    curves = read_metrics(fit_vit(tiny_vit, tmp_path / "run") / "metrics.csv")
    losses = [value for _, value in curves["loss/spatial_attention_transfer"]]
    assert losses[0] == 0 and min(losses[1:]) > 0


def test_attention_divergence_by_hand():
    """Over two patches the source looks by 3/4 and 1/4, the student evenly: 3/4 ln 3/2 + 1/4 ln 1/2; heads average."""
    source = torch.tensor([[[9.0, -9.0, math.log(3), 0.0], [9.0, -9.0, 0.0, 0.0]]])
    student = torch.tensor([[[0.0, 5.0, 2.0, 2.0], [1.0, 2.0, -3.0, -3.0]]])
    expected = (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2
    assert attention_divergence(student, source, num_prefix_tokens=2).item() == pytest.approx(expected, rel=1e-6)
    assert attention_divergence(source + 7, source, num_prefix_tokens=2).item() == pytest.approx(0, abs=1e-6)


HELD_OUT = ["data.validation_share=0.25", "trainer.val_check_interval=2"]
DRIFT = "validation/attention_divergence/block_{:02d}"


@pytest.mark.parametrize("adapter", ["full", "vit_lora"])
def test_where_both_look_is_logged_block_by_block(tiny_vit, tmp_path, adapter):
    """Exactly 0 while nothing has moved, and more afterwards; without a plug-in that compares attention as well."""
    overrides = [*HELD_OUT, f"adapter={adapter}", "regularizer=[cross_entropy]", "~callbacks.trainable_check"]
    for rate in (0, 1e-2):
        run_dir = fit_vit(tiny_vit, tmp_path / str(rate), *overrides, f"optimizer.lr={rate}", steps=2)
        drifts = {
            name: points for name, points in read_metrics(run_dir / "metrics.csv").items() if "divergence" in name
        }
        assert list(drifts) == [DRIFT.format(0), DRIFT.format(1)]
        for ((_, value),) in drifts.values():
            assert value > 0 if rate else value == 0


def test_a_held_back_student_looks_where_the_source_does(tiny_vit, tmp_path):
    weights = {"free": 0, "held": 1000}
    drifts = {}
    for name, weight in weights.items():
        overrides = [*HELD_OUT, f"regularizer.spatial_attention_transfer.weight={weight}"]
        curves = read_metrics(fit_vit(tiny_vit, tmp_path / name, *overrides, steps=10) / "metrics.csv")
        drifts[name] = curves[DRIFT.format(1)][-1][1]
    assert 0 < drifts["held"] < drifts["free"] / 2


def test_looking_is_gta_s_own_and_changes_no_weight(tiny_vit, tmp_path):
    runs = {
        module: fit_vit(tiny_vit, tmp_path / module, f"module={module}", "regularizer=[cross_entropy]", *HELD_OUT)
        for module in ("classification", "gta_vit")
    }
    assert same(*map(vit_weights, runs.values()))
    curves = {module: read_metrics(run_dir / "metrics.csv") for module, run_dir in runs.items()}
    own = {name for name in curves["gta_vit"] if name not in curves["classification"]}
    assert own == {DRIFT.format(0), DRIFT.format(1)}
    assert {name: curves["gta_vit"][name] for name in curves["classification"]} == curves["classification"]


def test_nothing_is_looked_at_without_held_out_pictures(tiny_vit, tmp_path):
    curves = read_metrics(fit_vit(tiny_vit, tmp_path / "run") / "metrics.csv")
    assert not [name for name in curves if name.startswith("validation/")]


@pytest.mark.parametrize("experiment", VIT)
def test_only_gta_and_its_kin_take_the_module_that_captures_the_source(tmp_path, experiment):
    takes_gta = experiment in ("gta_vit", "gta_transmix_vit", "attention_kl_vit")
    target = compose(tmp_path, f"experiment={experiment}").module._target_.rpartition(".")[2]
    assert target == ("GTAViTModule" if takes_gta else "ClassificationModule")


def test_weight_0_equals_removal_bit_for_bit(tiny_vit, tmp_path):
    zero = fit_vit(tiny_vit, tmp_path / "zero", "regularizer.spatial_attention_transfer.weight=0")
    without = fit_vit(tiny_vit, tmp_path / "without", "~regularizer.spatial_attention_transfer")
    used = fit_vit(tiny_vit, tmp_path / "used", "regularizer.spatial_attention_transfer.weight=1")
    assert same(vit_weights(zero), vit_weights(without)) and not same(vit_weights(zero), vit_weights(used))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["regularizer.spatial_attention_transfer.sites=[blocks.9.attn]"], "blocks.9.attn"),
        (["adapter=vit_linear_probe"], "module=gta_vit compares .* trains the head alone"),
        (["adapter=linear_probe", "regularizer=[cross_entropy]"], "module=gta_vit compares .* trains the head alone"),
        (["module=classification"], r"regularizer\.spatial_attention_transfer .* not capture: module=gta_vit"),
    ],
)
def test_refused(tiny_vit, tmp_path, overrides, message):
    with pytest.raises((ValueError, OSError, InstantiationException), match=message):
        fit_vit(tiny_vit, tmp_path / "run", *overrides)
    assert not (tmp_path / "run/report.html").exists()
