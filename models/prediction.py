"""What a prediction says of the clean latent, and how far two predictions are apart in the space of the noise."""

import torch
from torch import Tensor


def predicted_x0(prediction: Tensor, noisy: Tensor, alphas_cumprod: Tensor, *, prediction_type: str) -> Tensor:
    """The clean latent that `prediction` stands for, `[B, …]`: diffusers' formulas, without its clipping.

    `x0 = (x_t − √(1 − ᾱ) ε) / √ᾱ` (arXiv:2006.11239, equation 15), `x0 = √ᾱ x_t − √(1 − ᾱ) v` (arXiv:2202.00512).

    Args:
        prediction, noisy: `[B, …]`; `noisy` is `x_t = √ᾱ x0 + √(1 − ᾱ) ε`.
        alphas_cumprod: `ᾱ` of each row, `[B]` in (0, 1]; 0 as well for "v_prediction".
        prediction_type: "epsilon" or "v_prediction".
    """
    alpha, sigma = (_rows(each.sqrt(), noisy) for each in (alphas_cumprod, 1 - alphas_cumprod))
    if prediction_type == "epsilon":
        return (noisy - sigma * prediction) / alpha
    return alpha * noisy - sigma * prediction


def prediction_difference(
    student: Tensor, reference: Tensor, alphas_cumprod: Tensor, *, prediction_type: str
) -> Tensor:
    """Mean `|ε_θ − ε_ref|` of each row, float32 `[B]`: the mean difference between predicted noise that APT draws.

    With `ε = √ᾱ v + √(1 − ᾱ) x_t` two predictions of v on the same `x_t` differ by `√ᾱ |v_θ − v_ref|` in the noise.
    That the difference is an absolute one is not stated in the sources (APT, arXiv:2507.02687).

    Args:
        student, reference: predictions on the same noisy latents, `[B, …]`.
        alphas_cumprod: `ᾱ` of each row, `[B]` in [0, 1].
        prediction_type: "epsilon" or "v_prediction".
    """
    difference = (student.float() - reference.float()).abs().flatten(1).mean(1)
    return difference if prediction_type == "epsilon" else alphas_cumprod.sqrt() * difference


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.dim() - 1))


def min_snr_weight(snr: Tensor, *, gamma: float, prediction_type: str) -> Tensor:
    """Weight of each row: `min(SNR, γ) / SNR` for ε-prediction, `min(SNR, γ) / (SNR + 1)` for v-prediction.

    Args:
        snr: `[B]`, ≥ 0. At SNR 0 (zero terminal SNR) the ε weight is its limit, 1, and the v weight is 0.

    Raises:
        ValueError: an unknown prediction type.
    """
    clamped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(snr > 0, clamped / snr, 1.0)
    if prediction_type == "v_prediction":
        return clamped / (snr + 1)
    raise ValueError(f"min-SNR is defined for epsilon and v_prediction, not for {prediction_type!r}")
