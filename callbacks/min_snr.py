"""Min-SNR-γ weighting of the denoising loss (arXiv:2303.09556, §3.4)."""

from typing import ClassVar

import torch
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep


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


class MinSNR(Regularizer):
    """Weights the subject's rows by `min_snr_weight`.

    Args:
        gamma: the SNR above which a timestep gains no more weight; 5 in the paper.
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def sample_weight(self, step: DiffusionStep) -> Tensor:
        return min_snr_weight(step.snr[: step.num_instance], gamma=self.gamma, prediction_type=step.prediction_type)
