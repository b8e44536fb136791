"""Batch Spectral Shrinkage, BSS (Chen et al., NeurIPS 2019): press out the directions that hardly carry a feature."""

from typing import ClassVar

import torch
from torch import Tensor

from callbacks.regularizer import Regularizer
from callbacks.step import ClassificationStep, Needs, TermOutput
from checks.values import at_least


def spectral_shrinkage(features: Tensor, *, k: int) -> Tensor:
    """`Σ_{i≤k} σ²_{−i}`: the `k` smallest singular values of a feature matrix, squared and summed; `L_bss` without `η`.

    Args:
        features: `[B, D]`.
        k: between 1 and min(B, D).

    Returns:
        A scalar in float32.

    Raises:
        ValueError: there are fewer than `k` singular values.
    """
    rows, width = features.shape
    if not 1 <= k <= min(rows, width):
        raise ValueError(
            f"regularizer.bss.k={k}: {rows} pictures of {width} features have {min(rows, width)} singular values; "
            "choose a k between 1 and that, or raise datamodule.batch_size"
        )
    return torch.linalg.svdvals(features.float())[-k:].square().sum()  # in descending order


class BatchSpectralShrinkage(Regularizer):
    """`spectral_shrinkage` of the batch's features, the [CLS] tokens after the final norm.

    Written for a `ClassificationStep`. With several processes, each one's batch is a matrix of its own.

    Args:
        weight: `η`; the paper's is 0.001.
        k: how many singular values; the paper's is 1.
    """

    step_type: ClassVar[type] = ClassificationStep

    needs = Needs(sites=frozenset({"norm"}))

    def __init__(self, *, weight: float, k: int) -> None:
        super().__init__(weight=weight)
        at_least("regularizer.bss.k", k, 1)
        self.k = k

    def loss(self, step: ClassificationStep) -> TermOutput:
        return TermOutput(spectral_shrinkage(step.student.captured["norm"][:, 0], k=self.k))
