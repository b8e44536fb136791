"""The overfitting indicator γ of APT (arXiv:2507.02687): how much better than the prior the student fits these images.

It weights the denoising loss and decides the augmentation; each use has a switch, and with both off it only measures.
"""

from collections import deque
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from callbacks.regularizer import Regularizer
from callbacks.regularizers.denoising import instance_loss, reference_loss
from callbacks.step import DiffusionStep, Needs


def overfitting_indicator(student: Tensor, reference: Tensor, *, scale: float) -> Tensor:
    """`γ = 1 − exp(−T (EMA[ℓ_ref] − EMA[ℓ_θ]))`, clamped to [0, 1]; 0 where a bin was not seen yet (NaN).

    The formula is APT's; the clamp and the unseen bins are not stated in the sources.

    Args:
        student, reference: moving averages of the two losses per bin, `[bins]`.
        scale: T, 1000 in APT: the length of the noise schedule.
    """
    gamma = (1 - torch.exp(-scale * (reference - student))).clamp(0, 1)
    return torch.where(student.isnan(), torch.zeros_like(gamma), gamma)


def bin_means(bins: Tensor, values: Tensor, *, num_bins: int) -> tuple[Tensor, Tensor]:
    """Sum and count of `values` `[rows, n]` in each bin, over all processes: `[num_bins, rows]`, `[num_bins]`.

    Args:
        bins: int64 `[n]`, the bin of each value.
    """
    totals = values.new_zeros(num_bins, len(values) + 1)
    totals.index_add_(0, bins, torch.cat([values, torch.ones_like(values[:1])]).T)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(totals)
    return totals[:, :-1], totals[:, -1]


def update_moving_average(average: Tensor, sums: Tensor, counts: Tensor, *, weight: float) -> Tensor:
    """One step of the moving average of each bin that was seen; the first observation seeds it.

    Args:
        average: `[bins, rows]`, NaN where nothing was seen yet.
        sums, counts: `[bins, rows]` and `[bins]`.
        weight: α, of the new value; 0.1 in APT.
    """
    seen = (counts > 0)[:, None]
    mean = sums / counts.clamp(min=1)[:, None]
    blended = torch.where(average.isnan(), mean, (1 - weight) * average + weight * mean)
    return torch.where(seen, blended, average)


class OverfittingIndicator(Regularizer):
    """γ per bin of `t`; `1 − γ` weights the loss (APT's adaptive loss weighting), γ is the chance of augmentation.

    Within a step γ from the past decides the augmentation, then the moving averages are updated, then the updated γ
    weights the loss. γ is read back to the host without waiting, so the decision of step `k` uses γ after step `k − 2`,
    on every device alike.

    Args:
        num_bins: equal bins of `t`, and so of the training's draws; 10 in APT.
        ema_weight: α, weight of the new value in the moving averages; 0.1 in APT.
        scale: T of the indicator; 1000 in APT. Another loss scale (v-prediction, flow matching) wants another one.
        weighting: whether `1 − γ` multiplies the denoising loss.
        augmentation: whether γ decides the augmentation.
        max_probability: upper bound of the augmentation's chance; not stated in the sources.
    """

    step_type: ClassVar[type] = DiffusionStep

    needs = Needs(reference=True)

    def __init__(
        self,
        *,
        num_bins: int,
        ema_weight: float,
        scale: float,
        weighting: bool,
        augmentation: bool,
        max_probability: float,
    ) -> None:
        super().__init__()
        self.num_bins, self.ema_weight, self.scale = num_bins, ema_weight, scale
        self.weighting, self.augmentation, self.max_probability = weighting, augmentation, max_probability
        self._averages = torch.full((num_bins, 2), torch.nan)  # student, reference
        self._snapshots: deque[tuple[Tensor, torch.cuda.Event | None]] = deque(maxlen=2)

    @property
    def gamma(self) -> Tensor:
        """γ of each bin after the last step, `[num_bins]`, on the device of the losses."""
        return overfitting_indicator(self._averages[:, 0], self._averages[:, 1], scale=self.scale)

    def augmentation_probability(self, t: Tensor) -> Tensor | None:
        if not self.augmentation:
            return None
        if len(self._snapshots) < 2:
            return torch.zeros(len(t))
        gamma, event = self._snapshots[0]
        if event is not None:
            event.synchronize()  # of the step before last: no queue is drained
        return gamma[self._bins(t)].clamp(max=self.max_probability)

    @property
    def gives_sample_weight(self) -> bool:
        return self.weighting

    def sample_weight(self, step: DiffusionStep) -> Tensor | None:
        losses = torch.stack([instance_loss(step), reference_loss(step)]).detach()
        bins = self._bins(step.t[: step.num_instance]).to(losses.device, non_blocking=True)
        sums, counts = bin_means(bins, losses, num_bins=self.num_bins)
        averages = self._averages.to(losses.device)
        self._averages = update_moving_average(averages, sums, counts, weight=self.ema_weight)
        gamma = self.gamma
        self._snapshots.append(_copy_to_host(gamma))
        return 1 - gamma[bins] if self.weighting else None

    def metrics(self) -> dict[str, Any]:
        return {f"gamma/bin_{number:02d}": value for number, value in enumerate(self.gamma.tolist())}

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": self._averages.tolist(),
            "snapshots": [gamma.tolist() for gamma, _ in self._snapshots],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averages = torch.tensor(state_dict["averages"])
        if self._averages.shape != (self.num_bins, 2):
            raise ValueError(
                f"regularizer.{self.name}.num_bins={self.num_bins}, the checkpoint has {len(self._averages)}: use that"
            )
        self._snapshots.extend((torch.tensor(gamma), None) for gamma in state_dict["snapshots"])

    def _bins(self, t: Tensor) -> Tensor:
        return (t * self.num_bins).long()


def _copy_to_host(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    if not values.is_cuda:
        return values.cpu(), None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
