"""Noise processes: how a clean latent is noised, and what a denoiser predicts of it.

Everywhere outside `models/` a time is `t` in [0, 1), the share of the family's draws that have less noise: uniform by
construction, so that equal bins of `t` have equal mass under the density that the family trains with.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NoiseProcess(ABC):
    """One noise process with one kind of prediction. All methods are per row: `x0`, `noise`, … `[B, …]`, `t` `[B]`."""

    def draw_time(self, generator: np.random.Generator) -> float:
        """A time `t` in [0, 1), uniform."""
        return float(generator.random())

    @abstractmethod
    def model_time(self, t: Tensor) -> Tensor:
        """What the denoiser takes as its time, `[B]`, on the device of `t`."""

    @abstractmethod
    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x_t`, `[B, …]`; `t` on the device of the others."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What a perfect prediction would be, `[B, …]`."""

    @abstractmethod
    def x0(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """The clean latent that `prediction` stands for, `[B, …]`."""

    @abstractmethod
    def noise_scale(self, t: Tensor) -> Tensor:
        """By how much two predictions on one `x_t` differ in the noise, where they differ by 1; float32 `[B]`, CPU."""

    @abstractmethod
    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio α²/σ², float32 `[B]` on the CPU."""

    @staticmethod
    @abstractmethod
    def min_snr_weight(snr: Tensor, *, gamma: float) -> Tensor:
        """Min-SNR-γ weight of each row (arXiv:2303.09556), `[B]`: `min(SNR, γ)` on the loss of x0.

        Args:
            snr: `[B]`, 0 or more.
            gamma: the SNR above which a time gains no more weight; 5 in the paper.
        """


class Discrete(NoiseProcess):
    """A schedule of so many steps, `x_t = √ᾱ x0 + √(1 − ᾱ) ε` (arXiv:2006.11239), by diffusers' own scheduler.

    Args:
        scheduler: a `DDPMScheduler`.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.num_steps = int(scheduler.config.num_train_timesteps)
        self._alphas_cumprod: Tensor = scheduler.alphas_cumprod.clone()  # stays on the CPU; the scheduler's own moves

    def draw_time(self, generator: np.random.Generator) -> float:
        return (int(generator.integers(self.num_steps)) + 0.5) / self.num_steps

    def model_time(self, t: Tensor) -> Tensor:
        # The margin is for times on the edge of a step: 0.35 · 1000 is 349.99999 in float32.
        return (t * self.num_steps + 1e-3).long()

    def noisy(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        noisy: Tensor = self.scheduler.add_noise(x0, noise, self.model_time(t))
        return noisy

    def snr(self, t: Tensor) -> Tensor:
        alphas = self.alphas_cumprod(t)
        return alphas / (1 - alphas)

    def alphas_cumprod(self, t: Tensor) -> Tensor:
        """ᾱ, float32 `[B]` in [0, 1], on the CPU."""
        return self._alphas_cumprod[self.model_time(t).cpu()]

    def _alpha_sigma(self, noisy: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """`√ᾱ` and `√(1 − ᾱ)` of each row, shaped to be multiplied with `noisy`."""
        alphas = self.alphas_cumprod(t).to(noisy.device).view(-1, *[1] * (noisy.dim() - 1))
        return alphas.sqrt(), (1 - alphas).sqrt()


class Epsilon(Discrete):
    """The denoiser predicts the noise."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return noise

    def x0(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """`(x_t − √(1 − ᾱ) ε) / √ᾱ` (arXiv:2006.11239, equation 15), without diffusers' clipping."""
        alpha, sigma = self._alpha_sigma(noisy, t)
        return (noisy - sigma * prediction) / alpha

    def noise_scale(self, t: Tensor) -> Tensor:
        return torch.ones(len(t))

    @staticmethod
    def min_snr_weight(snr: Tensor, *, gamma: float) -> Tensor:
        """`min(SNR, γ) / SNR`; 1 where the SNR is 0."""
        return torch.where(snr > 0, snr.clamp(max=gamma) / snr, 1.0)


class Velocity(Discrete):
    """The denoiser predicts `v = √ᾱ ε − √(1 − ᾱ) x0` (arXiv:2202.00512)."""

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        velocity: Tensor = self.scheduler.get_velocity(x0, noise, self.model_time(t))
        return velocity

    def x0(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """`√ᾱ x_t − √(1 − ᾱ) v` (arXiv:2202.00512)."""
        alpha, sigma = self._alpha_sigma(noisy, t)
        return alpha * noisy - sigma * prediction

    def noise_scale(self, t: Tensor) -> Tensor:
        """`√ᾱ`: with `ε = √ᾱ v + √(1 − ᾱ) x_t` two predictions of v differ by that much in the noise."""
        return self.alphas_cumprod(t).sqrt()

    @staticmethod
    def min_snr_weight(snr: Tensor, *, gamma: float) -> Tensor:
        """`min(SNR, γ) / (SNR + 1)`."""
        return snr.clamp(max=gamma) / (snr + 1)


def prediction_difference(student: Tensor, reference: Tensor, noise_scale: Tensor) -> Tensor:
    """Mean `|ε_θ − ε_ref|` of each row, float32 `[B]`: the mean difference between predicted noise that APT draws.

    That the difference is an absolute one is not stated in the sources (APT, arXiv:2507.02687).

    Args:
        student, reference: predictions on the same noisy latents, `[B, …]`.
        noise_scale: `[B]`, see `NoiseProcess.noise_scale`.
    """
    return noise_scale * (student.float() - reference.float()).abs().flatten(1).mean(1)
