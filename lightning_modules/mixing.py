"""CutMix (arXiv:1905.04899) and mixup (arXiv:1710.09412), drawn for every picture from its position in the stream."""

import torch
from torch import Tensor

from callbacks.step import Mixing
from datamodules.draws import DrawStream, generator


class Mix:
    """Mixes every picture of a batch with another one.

    Args:
        cutmix_alpha: `α` of CutMix's `λ ~ Beta(α, α)`; 0 leaves CutMix out.
        mixup_alpha: `α` of mixup's; 0 leaves mixup out.
        switch_probability: chance in [0, 1] of CutMix rather than mixup where both are in (timm's `switch_prob`).

    Raises:
        ValueError: a number out of its range, or both alphas 0.
    """

    def __init__(self, *, cutmix_alpha: float, mixup_alpha: float, switch_probability: float) -> None:
        for name, alpha in (("cutmix_alpha", cutmix_alpha), ("mixup_alpha", mixup_alpha)):
            if alpha < 0:
                raise ValueError(f"module.mixing.{name}={alpha}: at least 0, which leaves it out")
        if cutmix_alpha == mixup_alpha == 0:
            raise ValueError(
                "module.mixing.cutmix_alpha=0 and mixup_alpha=0 mix nothing: raise one, or set module.mixing=null"
            )
        if not 0 <= switch_probability <= 1:
            raise ValueError(f"module.mixing.switch_probability={switch_probability}: between 0 and 1")
        if cutmix_alpha == 0 or mixup_alpha == 0:
            switch_probability = float(mixup_alpha == 0)
        self.cutmix_alpha, self.mixup_alpha, self.switch_probability = cutmix_alpha, mixup_alpha, switch_probability

    def __call__(self, pictures: Tensor, positions: Tensor, *, seed: int) -> tuple[Tensor, Mixing]:
        """`mix` with this node's settings."""
        return mix(
            pictures,
            positions,
            seed=seed,
            cutmix_alpha=self.cutmix_alpha,
            mixup_alpha=self.mixup_alpha,
            switch_probability=self.switch_probability,
        )


def mix(
    pictures: Tensor,
    positions: Tensor,
    *,
    seed: int,
    cutmix_alpha: float,
    mixup_alpha: float,
    switch_probability: float,
) -> tuple[Tensor, Mixing]:
    """Every row mixed with the next row of the batch, the last with the first; of the same process.

    What a row draws depends on (seed, position) alone, its partner on the batch.

    Args:
        pictures: `[B, 3, H, W]`.
        positions: int64 `[B]`, of the samples in the stream.
        cutmix_alpha, mixup_alpha: above 0 where the switch lets them be drawn.
        switch_probability: chance in [0, 1] of CutMix rather than mixup.

    Returns:
        The mixed pictures, in the dtype of `pictures`, and how they were mixed, on their device.

    Raises:
        ValueError: a batch of one, which has no partner.
    """
    count, _, height, width = pictures.shape
    if count < 2:
        raise ValueError(
            "datamodule.batch_size=1: pictures are mixed within a process's batch, so give each process 2 or more"
        )
    masks = []
    for position in positions.tolist():
        rng = generator(seed, DrawStream.MIXING, position)
        is_cutmix = rng.random() < switch_probability
        alpha = cutmix_alpha if is_cutmix else mixup_alpha
        share = rng.beta(alpha, alpha)
        centre = int(rng.integers(height)), int(rng.integers(width))
        masks.append(box_mask(share, centre, height, width) if is_cutmix else torch.full((height, width), share))
    mask = torch.stack(masks).float().to(pictures.device)
    partner = torch.arange(count, device=pictures.device).roll(-1)
    own = mask[:, None]
    mixed = own * pictures.float() + (1 - own) * pictures[partner].float()
    return mixed.to(pictures.dtype), Mixing(partner=partner, mask=mask)


def box_mask(share: float, centre: tuple[int, int], height: int, width: int) -> Tensor:
    """CutMix's mask `[height, width]`: 0 in a box of `√(1 − share)` of both sides around `centre`, and 1 elsewhere.

    The box is cut off at the borders, so that the mask's mean is `share` or more.

    Args:
        share: `λ` in [0, 1].
        centre: row and column.
    """
    rows, columns = (
        slice(max(0, middle - extent // 2), middle - extent // 2 + extent)
        for middle, extent in zip(centre, (int(side * (1 - share) ** 0.5) for side in (height, width)), strict=True)
    )
    mask = torch.ones(height, width)
    mask[rows, columns] = 0
    return mask
