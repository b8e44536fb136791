"""What `DCORescaleModule` has that its base has not: its primary term, its guidance, its curves and its scale."""

import os
import subprocess
import sys
from itertools import pairwise

import lightning.pytorch as L
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from datamodules.prompts import prompt_loader
from datamodules.subject import PromptPair
from lightning_modules import APTDiffusionModule, DCORescaleModule, DiffusionModule
from lightning_modules.dco_apt import DCOAPTModule
from lightning_modules.dco_rescale import CURVES, PROPOSED
from report.metrics_csv import read_metrics
from sampling.guidance import ParallelRescaledGuidance, parallel_share, proposed_scale
from sampling.sampler import sample_guided
from tests.runs import cheap, compose, fit, train
from tests.tiny import ROOT

DCO = "experiment=dco_rescale"
PAIRS = [
    PromptPair(instance=f"a sks heart on a {color} background", prior=f"a heart on a {color} background")
    for color in ("red", "green")
]


def module_of(tiny_sd, tmp_path, *overrides):
    return instantiate(compose(tmp_path, *cheap(tiny_sd, tmp_path), *overrides).module)


def guidance(**settings):
    own = {"guidance_scale": 4.0, "rule": "constant", "scale": 0.5, "kappa": 0.2, "consistency_scale": 2.0}
    return ParallelRescaledGuidance(**own | {"start": 0.0, "stop": 1.0} | settings)


def test_the_three_methods_are_named_as_the_card_names_them(tiny_sd, tmp_path):
    assert isinstance(module_of(tiny_sd, tmp_path, DCO), DCORescaleModule)
    both = module_of(tiny_sd, tmp_path, "experiment=dco_apt")
    assert type(both) is DCOAPTModule and isinstance(both, APTDiffusionModule) and isinstance(both, DCORescaleModule)


def test_another_primary_term_is_refused_by_name(tiny_sd, tmp_path):
    with pytest.raises(Exception, match=r"regularizer\.denoising is a Denoising: take regularizer=direct_consistency"):
        module_of(tiny_sd, tmp_path, DCO, "regularizer=denoising")
    assert isinstance(module_of(tiny_sd, tmp_path, "regularizer=denoising", "module=diffusion"), DiffusionModule)


def test_the_frozen_pass_is_always_there(tiny_sd, tmp_path):
    assert module_of(tiny_sd, tmp_path, DCO).needs.reference
    assert not module_of(tiny_sd, tmp_path, "experiment=dreambooth").needs.reference


def test_share_by_hand():
    cfg, consistency = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 4.0]])
    assert parallel_share(consistency, cfg).item() == pytest.approx(9 / 25)


@pytest.mark.parametrize(
    ("coefficients", "scale"),
    [([-1.0, -0.6], 0.5), ([0.1, -0.1], 1.0), ([0.05], 1.0), ([2.0], 0.2)],  # 0.2 · 4 = 0.8 is allowed of 2 · mean a
)
def test_proposed_scale_by_hand(coefficients, scale):
    settings = {"kappa": 0.2, "guidance_scale": 4.0, "consistency_scale": 2.0}
    assert proposed_scale(torch.tensor(coefficients), **settings) == pytest.approx(scale)


def test_negative_only_proposes_from_what_it_shrinks():
    coefficients = torch.tensor([-2.0, 3.0])
    assert guidance(rule="negative_only").propose_scale(coefficients) == pytest.approx(0.2)
    assert guidance().propose_scale(coefficients) == pytest.approx(0.8)


@pytest.mark.parametrize(("rule", "scale"), [("cfg_clamp", "auto"), ("constant", "much"), ("constant", 1.5)])
def test_scales_that_cannot_be_are_refused(rule, scale):
    with pytest.raises(ValueError, match=r"guidance\.scale"):
        guidance(rule=rule, scale=scale)


def test_curves_are_what_the_three_predictions_say(tiny_sd, tmp_path, monkeypatch):
    """Recomputed from a second call of the models on what the validation asked."""
    asked = []
    once = DCORescaleModule.validated

    def recording(self, index, bins):
        rows = once(self, index, bins)
        unconditional = self.reference_pass(rows.noisy, rows.t, self.model.encode_prompts([""] * len(index))).prediction
        cfg, consistency = rows.reference - unconditional, rows.student - rows.reference
        square, product = cfg.square().sum((1, 2, 3)), (cfg * consistency).sum((1, 2, 3))
        share = product.square() / (square * consistency.square().sum((1, 2, 3)))
        asked.append((index, bins, product / square, share))
        return rows

    monkeypatch.setattr(DCORescaleModule, "validated", recording)
    settings = [DCO, "data.num_heldout=2", "trainer.val_check_interval=4", "optimizer.lr=1e-1"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *settings, steps=4)
    curves = read_metrics(run_dir / "metrics.csv")
    index, bins, coefficient, share = (torch.cat(each) for each in zip(*asked, strict=True))
    for number in (0, 5, 9):
        rows = (bins == number) & (index < 2)
        for name, expected in (("parallel_coefficient", coefficient), ("parallel", share)):
            found = curves[f"heldout/{name}/bin_{number:02d}"][-1][1]
            assert found == pytest.approx(expected[rows].mean().item(), rel=1e-3, abs=1e-5)
    assert all(f"{curve}/bin_09" in curves for curve in CURVES) and 0 <= curves[PROPOSED][-1][1] <= 1


def test_the_base_has_no_such_curves(tiny_sd, tmp_path, monkeypatch):
    settings = ["experiment=dreambooth", "data.num_heldout=1", "trainer.val_check_interval=4"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *settings, steps=4)
    assert not [name for name in read_metrics(run_dir / "metrics.csv") if "parallel" in name]


def test_an_automatic_scale_becomes_a_number(tiny_sd, tmp_path):
    """In the run's config for later, and in the pictures of this run's evaluation."""
    settings = [DCO, "guidance.scale=auto", "guidance.kappa=1e-6", "data.num_heldout=1", "trainer.val_check_interval=4"]
    run_dir = fit(tiny_sd, tmp_path / "run", *settings, "optimizer.lr=1e-1", steps=4)
    proposed = read_metrics(run_dir / "metrics.csv")[PROPOSED][-1][1]
    cfg = OmegaConf.load(run_dir / "config.yaml")
    assert cfg.guidance.scale == pytest.approx(proposed, rel=1e-4) and cfg.guidance.scale < 1
    assert cfg.evaluation.guidance.scale == cfg.guidance.scale and cfg.module.guidance.scale == "auto"
    judged = OmegaConf.load(run_dir / "metrics.json").evaluation.guidance
    assert judged.scale == pytest.approx(cfg.guidance.scale)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("every", [2, 100])
def test_an_automatic_scale_is_of_the_last_weights(tiny_sd, tmp_path, monkeypatch, every):
    """However often is validated, and also of a run that goes on behind a validation, or has none."""
    settings = [DCO, "guidance.scale=auto", "guidance.kappa=1e-6", "data.num_heldout=1", "optimizer.lr=1e-1"]
    settings += ["callbacks.model_checkpoint.every_n_train_steps=2", f"trainer.val_check_interval={every}"]
    whole = train(monkeypatch, tiny_sd, tmp_path / "whole", *settings, steps=3)
    again = [*settings, f"ckpt_path='{whole}/checkpoints/step_2.ckpt'"]
    resumed = train(monkeypatch, tiny_sd, tmp_path / "again", *again, steps=3)
    one, two = (OmegaConf.load(each / "config.yaml").guidance.scale for each in (whole, resumed))
    assert one == two < 1


def test_an_automatic_scale_needs_held_out_pictures(tiny_sd, tmp_path, monkeypatch):
    with pytest.raises(Exception, match=r"guidance\.scale=auto is read off held-out pictures"):
        train(monkeypatch, tiny_sd, tmp_path / "run", DCO, "guidance.scale=auto", "data.num_heldout=0", steps=2)


def test_predict_draws_by_the_modules_guidance(tiny_sd, tmp_path):
    module = module_of(tiny_sd, tmp_path, DCO)
    with torch.no_grad():
        for name, parameter in module.denoiser.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    loader = prompt_loader(PAIRS, images_per_prompt=2, seed=7, batch_size=3)
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    batches = trainer.predict(module, loader)
    assert batches is not None
    drawn = [picture for batch in batches for picture in batch]
    repeated = [pair for pair in PAIRS for _ in range(2)]
    expected, _ = sample_guided(module.model, repeated, module.guidance, seeds=[7, 8, 7, 8], description=None)
    assert [each.tobytes() for each in drawn] == [each.tobytes() for each in expected]
    assert all(one.tobytes() != other.tobytes() for one, other in pairwise(drawn))


@pytest.mark.filterwarnings("ignore:.*Precision.*bf16:UserWarning")
def test_a_fully_tuned_model_in_bfloat16_draws_too(tiny_sd, tmp_path):
    """It is float32, and its encoders are not."""
    module = module_of(tiny_sd, tmp_path, DCO, "adapter=full", "model.dtype=bfloat16")
    trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    batches = trainer.predict(module, prompt_loader(PAIRS, images_per_prompt=1, seed=7, batch_size=2))
    assert batches is not None and len(batches[0]) == len(PAIRS)


SCRIPT = """
import sys
from pathlib import Path
import lightning.pytorch as L
from tests.lightning_modules.test_dco_rescale import DCO, PAIRS
from tests.runs import cheap, compose
from hydra.utils import instantiate
from datamodules.prompts import prompt_loader

tiny, out, devices = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
L.seed_everything(0, verbose=False)  # an adapter starts at random
module = instantiate(compose(out, *cheap(tiny, out), DCO).module)
for name, parameter in module.denoiser.named_parameters():
    if "lora_B" in name:
        parameter.data.fill_(0.05)
trainer = L.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                    devices=devices, strategy="ddp" if devices > 1 else "auto")
loader = prompt_loader(PAIRS, images_per_prompt=1, seed=3, batch_size=1)
for number, batch in enumerate(trainer.predict(module, loader)):
    batch[0].save(out / f"{number * devices + trainer.global_rank}.png")
"""


def test_two_devices_draw_what_one_does(tiny_sd, tmp_path):
    (tmp_path / "predict.py").write_text(SCRIPT)
    for devices in (1, 2):
        out = tmp_path / str(devices)
        out.mkdir()
        command = [sys.executable, str(tmp_path / "predict.py"), str(tiny_sd), str(out), str(devices)]
        result = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=240)
        assert result.returncode == 0, result.stderr[-2000:]
    for number in range(len(PAIRS)):
        assert (tmp_path / f"1/{number}.png").read_bytes() == (tmp_path / f"2/{number}.png").read_bytes()


def environment() -> dict[str, str]:
    return {**os.environ} | {"PYTHONPATH": str(ROOT)}


def test_another_module_finds_no_scale(tiny_sd, tmp_path):
    with pytest.raises(Exception, match=r"guidance\.scale=auto is found by module=dco_rescale"):
        module_of(tiny_sd, tmp_path, "experiment=dreambooth", "guidance=parallel_rescaled", "guidance.scale=auto")
