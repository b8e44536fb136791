"""Noise processes: what is noised, aimed at and read back, by hand; and one of another kind, which trains as it is."""

import math
from collections.abc import Callable

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from datamodules import draws
from datamodules.draws import DrawStream
from lightning_modules.diffusion import DiffusionModule
from models.families.sd import StableDiffusion
from models.noise_process import Discrete, Epsilon, NoiseProcess, Velocity, prediction_difference
from tests.runs import adapter_weights, same, train
from tests.steps import middles

SCHEDULER = DDPMScheduler()
STEPS = torch.tensor([0, 400, 999])
T = middles(STEPS.tolist())
ALPHAS = SCHEDULER.alphas_cumprod[STEPS]
LATENTS, NOISE, PREDICTION = torch.randn(3, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
NOISY = SCHEDULER.add_noise(LATENTS, NOISE, STEPS)
ZERO_SNR = DDPMScheduler(rescale_betas_zero_snr=True)
HAND = DDPMScheduler(num_train_timesteps=2, trained_betas=[0.36, 0.75])  # ᾱ = 0.64 and 0.16


def rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


# ---- discrete schedules


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_it_noises_and_aims_as_diffusers_does(kind: type[Discrete]) -> None:
    process = kind(SCHEDULER)
    assert torch.equal(process.noisy(LATENTS, NOISE, T), NOISY)
    expected = NOISE if kind is Epsilon else SCHEDULER.get_velocity(LATENTS, NOISE, STEPS)
    assert torch.equal(process.target(LATENTS, NOISE, T), expected)


@pytest.mark.parametrize(
    ("kind", "target", "scale", "weights"),
    [
        (Epsilon, [1.0, 1.0], [1.0, 1.0], [0.5625, 1.0]),  # min(SNR, 1) / SNR
        (Velocity, [0.8 - 0.6 * 2, 0.4 - math.sqrt(0.84) * 2], [0.8, 0.4], [0.36, 0.16]),  # min(SNR, 1) / (SNR + 1)
    ],
)
def test_by_hand(kind: type[Discrete], target: list[float], scale: list[float], weights: list[float]) -> None:
    """ᾱ = 0.64 and 0.16, clean latent 2 and noise 1: SNR = 16 / 9 and 4 / 21."""
    process, t = kind(HAND), torch.tensor([0.25, 0.75])
    x0, noise = torch.full((2, 1, 1, 1), 2.0), torch.ones(2, 1, 1, 1)
    noisy = process.noisy(x0, noise, t)
    torch.testing.assert_close(noisy.flatten(), torch.tensor([2.2, 0.8 + math.sqrt(0.84)]))
    torch.testing.assert_close(process.target(x0, noise, t).flatten(), torch.tensor(target))
    torch.testing.assert_close(process.x0(rows(torch.tensor(target)), noisy, t), x0)
    torch.testing.assert_close(process.snr(t), torch.tensor([16 / 9, 4 / 21]))
    torch.testing.assert_close(process.noise_scale(t), torch.tensor(scale))
    torch.testing.assert_close(process.min_snr_weight(process.snr(t), gamma=1.0), torch.tensor(weights))


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_a_right_prediction_gives_the_clean_latent_back(kind: type[Discrete]) -> None:
    process = kind(SCHEDULER)
    found = process.x0(process.target(LATENTS, NOISE, T), NOISY, T)
    torch.testing.assert_close(found, LATENTS, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_any_prediction_stands_for_diffusers_own_clean_latent(kind: type[Discrete]) -> None:
    prediction_type = "epsilon" if kind is Epsilon else "v_prediction"
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    found = kind(scheduler).x0(PREDICTION, NOISY, T)
    for row, step in enumerate(STEPS):
        own = scheduler.step(PREDICTION[row : row + 1], int(step), NOISY[row : row + 1]).pred_original_sample
        torch.testing.assert_close(found[row : row + 1], own)


def test_without_a_signal_a_velocity_still_tells_the_latent() -> None:
    process, last = Velocity(ZERO_SNR), middles([999] * 3)
    assert process.snr(last).tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert process.noise_scale(last).tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert process.min_snr_weight(process.snr(last), gamma=5.0).tolist() == pytest.approx([0] * 3, abs=1e-12)
    torch.testing.assert_close(process.noisy(LATENTS, NOISE, last), NOISE)
    torch.testing.assert_close(process.target(LATENTS, NOISE, last), -LATENTS)
    torch.testing.assert_close(process.x0(-LATENTS, NOISE, last), LATENTS)


@pytest.mark.parametrize("kind", [Epsilon, Velocity])
def test_the_difference_is_one_of_noise_whatever_is_predicted(kind: type[Discrete]) -> None:
    """Predictions that stand for these noises on the same noisy latents: ε = √ᾱ v + √(1 − ᾱ) x_t."""
    other = NOISE + rows(torch.tensor([0.1, -0.2, 0.3]))
    alpha, sigma = (rows(each.sqrt()) for each in (ALPHAS, 1 - ALPHAS))
    given = [noise if kind is Epsilon else (noise - sigma * NOISY) / alpha for noise in (other, NOISE)]
    found = prediction_difference(*given, kind(SCHEDULER).noise_scale(T))
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.3]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stream", [DrawStream.TIMESTEP, DrawStream.CLASS_TIMESTEP])
@pytest.mark.parametrize("num_steps", [1000, 50, 999])
def test_a_time_is_the_integer_that_was_drawn_before(num_steps: int, stream: DrawStream) -> None:
    process, positions = Epsilon(DDPMScheduler(num_train_timesteps=num_steps)), torch.arange(2000)
    for seed in (0, 7):
        t = draws.times(seed, stream, positions, process.draw_time)
        assert t.dtype == torch.float32 and t.min() >= 0 and t.max() < 1
        assert torch.equal(process.model_time(t), draws.integers(seed, stream, positions, num_steps))


def test_every_step_has_a_time_of_its_own_in_its_middle() -> None:
    for num_steps in (1000, 50):
        process = Velocity(DDPMScheduler(num_train_timesteps=num_steps))
        steps = torch.arange(num_steps)
        assert torch.equal(process.model_time(middles(steps.tolist(), num_steps=num_steps)), steps)
        edges = steps / num_steps  # 0.35 · 1000 is 349.99999 in float32
        assert torch.equal(process.model_time(edges), steps)


@pytest.mark.parametrize("num_bins", [1, 4, 7, 10, 100])
def test_a_bins_middle_is_the_step_that_it_was(num_bins: int) -> None:
    bins = torch.arange(num_bins)
    expected = (2 * bins + 1) * 1000 // (2 * num_bins)
    assert torch.equal(Epsilon(SCHEDULER).model_time((bins + 0.5) / num_bins), expected)


def test_the_maths_stays_where_the_latents_are() -> None:
    """The schedule's numbers stay on the CPU as float32, whatever the scheduler has moved since."""
    process = Epsilon(DDPMScheduler())
    process.scheduler.alphas_cumprod = process.scheduler.alphas_cumprod.double()
    assert process.snr(T).dtype == process.noise_scale(T).dtype == torch.float32
    torch.testing.assert_close(process.snr(T), ALPHAS / (1 - ALPHAS))


# ---- rectified flow, which none of the families here has


class RectifiedFlow(NoiseProcess):
    """`x_t = (1 − σ) x0 + σ ε` with `σ = t`; the denoiser predicts `u = ε − x0` (arXiv:2209.03003)."""

    def model_time(self, t: Tensor) -> Tensor:
        return 1000 * t

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return (1 - rows(t)) * x0 + rows(t) * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise - x0

    def x0(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        return noisy - rows(t) * prediction

    def noise_scale(self, t: Tensor) -> Tensor:
        return 1 - t.cpu()

    def snr(self, t: Tensor) -> Tensor:
        return ((1 - t.cpu()) / t.cpu()) ** 2

    @staticmethod
    def min_snr_weight(snr: Tensor, *, gamma: float) -> Tensor:
        """`u = (x_t − x0) / σ`, so that the loss of u is `1 / σ²` of that of x0, and `1 / σ = √SNR + 1`."""
        return snr.clamp(max=gamma) / (snr.sqrt() + 1) ** 2


class FlowStableDiffusion(StableDiffusion):
    def make_noise_process(self) -> NoiseProcess:
        return RectifiedFlow()


def test_identities_of_rectified_flow() -> None:
    process, sigma = RectifiedFlow(), torch.tensor([0.1, 0.5, 0.9])
    noisy = process.noisy(LATENTS, NOISE, sigma)
    torch.testing.assert_close(process.x0(process.target(LATENTS, NOISE, sigma), noisy, sigma), LATENTS)
    torch.testing.assert_close(process.snr(sigma), torch.tensor([81.0, 1.0, 1 / 81]))
    # What a prediction says of the noise: ε = x_t + (1 − σ) u.
    one, other = PREDICTION, PREDICTION + rows(torch.tensor([0.1, -0.2, 0.3]))
    noises = [noisy + (1 - rows(sigma)) * each for each in (one, other)]
    expected = (noises[0] - noises[1]).abs().mean((1, 2, 3))
    torch.testing.assert_close(prediction_difference(one, other, process.noise_scale(sigma)), expected)
    torch.testing.assert_close(expected, torch.tensor([0.09, 0.1, 0.03]))
    # min(SNR, γ) on the loss of x0, at γ = 5, where the error of x0 is σ times that of u.
    weights = process.min_snr_weight(process.snr(sigma), gamma=5.0)
    torch.testing.assert_close(weights, torch.tensor([5 * 0.01, 1 * 0.25, 0.81 / 81]))


def test_its_times_are_uniform() -> None:
    t = draws.times(0, DrawStream.TIMESTEP, torch.arange(4000), RectifiedFlow().draw_time)
    assert t.min() >= 0 and t.max() < 1
    assert ((t * 10).long().bincount(minlength=10) - 400).abs().max() < 100  # 5 σ


@pytest.mark.parametrize("experiment", ["apt_dreambooth", "dco_dreambooth"])
def test_rectified_flow_trains_without_another_change(monkeypatch, tiny_sd, tmp_path, experiment) -> None:
    times, steps = asked_times(monkeypatch), made_steps(monkeypatch)
    flow = [f"model._target_={__name__}.FlowStableDiffusion", "optimizer.lr=1e-2", "data.num_heldout=1"]
    heldout = ["trainer.val_check_interval=1"]
    overrides = [f"experiment={experiment}", *flow, *heldout]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "flow", *overrides, steps=2)
    assert len(steps) == 2 and all(isinstance(step.noise_process, RectifiedFlow) for step in steps)
    for step in steps:
        torch.testing.assert_close(step.snr, ((1 - step.t) / step.t) ** 2)
    drawn = [time for time in times if len(time) == 2]  # the steps' own; a bin's middle may be a whole number
    assert drawn and all(time.is_floating_point() for time in times) and all((time % 1 > 0).any() for time in drawn)
    other = train(monkeypatch, tiny_sd, tmp_path / "epsilon", f"experiment={experiment}", *flow[1:], *heldout, steps=2)
    assert not same(adapter_weights(run_dir), adapter_weights(other))
    moved = [weight for name, weight in adapter_weights(run_dir).items() if "lora_B" in name or "lora.up" in name]
    assert moved and all(torch.isfinite(weight).all() and weight.abs().max() > 0 for weight in moved)


def asked_times(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    times: list[Tensor] = []
    plain: Callable[..., Tensor] = RectifiedFlow.model_time

    def recorded(self: RectifiedFlow, t: Tensor) -> Tensor:
        times.append(plain(self, t))
        return times[-1]

    monkeypatch.setattr(RectifiedFlow, "model_time", recorded)
    return times


def made_steps(monkeypatch: pytest.MonkeyPatch) -> list:
    steps: list = []
    plain = DiffusionModule.make_step

    def kept(self, batch):
        step = plain(self, batch)
        if isinstance(self.model, FlowStableDiffusion):
            steps.append(step)
        return step

    monkeypatch.setattr(DiffusionModule, "make_step", kept)
    return steps
