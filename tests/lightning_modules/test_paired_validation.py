"""Student and frozen model compared in a validation, and the two formulas that it and the trajectory use."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from models.prediction import predicted_x0, prediction_difference

from callbacks.regularizers.denoising import denoising_loss
from report.metrics_csv import read_metrics
from tests.runs import train

SCHEDULER = DDPMScheduler()
TIMESTEPS = torch.tensor([0, 400, 999])
ALPHAS = SCHEDULER.alphas_cumprod[TIMESTEPS]
LATENTS, NOISE = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
NOISY = SCHEDULER.add_noise(LATENTS, NOISE, TIMESTEPS)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_right_prediction_gives_the_clean_latent_back(prediction_type):
    right = NOISE if prediction_type == "epsilon" else SCHEDULER.get_velocity(LATENTS, NOISE, TIMESTEPS)
    found = predicted_x0(right, NOISY, ALPHAS, prediction_type=prediction_type)
    torch.testing.assert_close(found, LATENTS, atol=2e-4, rtol=1e-4)


def test_without_a_signal_a_velocity_still_tells_the_latent():
    found = predicted_x0(-LATENTS, NOISE, torch.zeros(3), prediction_type="v_prediction")
    assert torch.equal(found, LATENTS)


def test_the_difference_is_one_of_noise_whatever_is_predicted():
    other = NOISE + torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1, 1)
    expected = torch.tensor([0.1, 0.2, 0.3])
    found = prediction_difference(other, NOISE, ALPHAS, prediction_type="epsilon")
    torch.testing.assert_close(found, expected)
    # The velocities that stand for these noises on the same noisy latents: ε = √ᾱ v + √(1 − ᾱ) x_t.
    alpha, sigma = (each.sqrt().view(3, 1, 1, 1) for each in (ALPHAS, 1 - ALPHAS))
    velocities = [(noise - sigma * NOISY) / alpha for noise in (other, NOISE)]
    found = prediction_difference(*velocities, ALPHAS, prediction_type="v_prediction")
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


VALIDATED = ["experiment=dreambooth", "optimizer.lr=1e-2", "data.num_train=3", "trainer.val_check_interval=2"]


@pytest.fixture
def students(monkeypatch):
    from lightning_modules.diffusion import DiffusionModule

    kept = []
    epoch_end = DiffusionModule.on_validation_epoch_end

    def keep(self):
        epoch_end(self)
        kept.append(self)

    monkeypatch.setattr(DiffusionModule, "on_validation_epoch_end", keep)
    return kept


def test_both_sets_are_what_a_pass_over_each_picture_gives(monkeypatch, tiny_sd_v, tmp_path, students):
    """By hand: one picture at one bin at a time, against the batched figures that were logged."""
    run_dir = train(
        monkeypatch, tiny_sd_v, tmp_path / "run", *VALIDATED, "data.num_heldout=2", "datamodule.num_bins=4", steps=2
    )
    curves = read_metrics(run_dir / "metrics.csv")
    module = students[-1]
    validation, model = module._validation, module.model
    pictures = torch.cat([module.trainer.datamodule.heldout_pictures, module.trainer.datamodule.train_pictures])
    pairs = [p.prompts for p in (*module.trainer.datamodule.subject.heldout, *module.trainer.datamodule.subject.train)]
    differences, losses = np.zeros((5, 4)), np.zeros((5, 4, 2))
    with torch.no_grad():
        for number, (picture, pair) in enumerate(zip(pictures, pairs, strict=True)):
            moments = model.encode_pictures(picture[None])
            latent = model.latents(moments, torch.zeros_like(moments[:, :4]))
            for bin_number in range(4):
                timestep = torch.tensor([250 * bin_number + 125])
                noise = validation.rows(torch.tensor([number]), torch.tensor([bin_number])).noise
                noisy = model.noise_scheduler.add_noise(latent, noise, timestep)
                velocity = model.noise_scheduler.get_velocity(latent, noise, timestep)
                student = module.unet(noisy, timestep, model.encode_prompts([pair.instance])).sample
                with module.adapter.disabled(module.unet):
                    frozen = module.unet(noisy, timestep, model.encode_prompts([pair.prior])).sample
                losses[number, bin_number] = [denoising_loss(each, velocity).item() for each in (student, frozen)]
                signal = model.alphas_cumprod[timestep].sqrt().item()
                differences[number, bin_number] = signal * (student - frozen).abs().mean().item()
    for name, rows in (("heldout", slice(0, 2)), ("train", slice(2, 5))):
        expected = losses[rows, :, 0].sum(0) / losses[rows, :, 1].sum(0)
        found = [curves[f"{name}/relative_loss/bin_{number:02d}"][-1][1] for number in range(4)]
        assert found == pytest.approx(expected, rel=1e-4)
        assert curves[f"{name}/prediction_difference"][-1][1] == pytest.approx(differences[rows].mean(), rel=1e-4)
        assert differences[rows].mean() > 0
    student, frozen = losses[2:5].mean(0).T
    gamma = 1 - np.exp(-model.indicator_scale * (frozen - student))
    found = [curves[f"train/gamma/bin_{number:02d}"][-1][1] for number in range(4)]
    assert found == pytest.approx(np.clip(gamma, 0, 1), rel=1e-3, abs=1e-6)
    assert max(found) > 0
    assert not any(name.startswith("heldout/gamma") for name in curves)


def test_training_pictures_are_measured_where_none_are_held_out(monkeypatch, tiny_sd, tmp_path):
    overrides = [*VALIDATED, "data.num_heldout=0", "datamodule.val_train_pictures=1"]
    curves = read_metrics(train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, steps=2) / "metrics.csv")
    assert sum(name.startswith("train/relative_loss/") for name in curves) == 10
    assert not any(name.startswith("heldout/") for name in curves)


def test_none_of_the_training_pictures_is_refused(monkeypatch, tiny_sd, tmp_path):
    with pytest.raises(Exception, match=r"datamodule\.val_train_pictures=0: at least 1"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *VALIDATED, "datamodule.val_train_pictures=0")
