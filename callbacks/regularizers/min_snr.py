"""Min-SNR-γ weighting of the denoising loss (arXiv:2303.09556, §3.4)."""

from typing import ClassVar

from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import DiffusionStep


class MinSNR(Regularizer):
    """Weights the subject's rows by `NoiseProcess.min_snr_weight`.

    Args:
        gamma: the SNR above which a timestep gains no more weight; 5 in the paper.
    """

    step_type: ClassVar[type] = DiffusionStep

    def __init__(self, *, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def sample_weight(self, step: DiffusionStep) -> Tensor:
        return step.noise_process.min_snr_weight(step.snr[: step.num_instance], gamma=self.gamma)
