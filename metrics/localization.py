"""Where a ViT's [CLS] token looks, against where the object is: the Jaccard index of DINO's thresholded attention."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


def kept_patches(attention: Tensor, *, mass: float) -> Tensor:
    """The fewest patches that hold the share `mass` of each row's total, bool `[..., P]`; DINO's rule.

    The patch with which the share is reached counts. The total is the row's own: it need not be 1, as the [CLS] token's
    attention to itself is left out. A patch without attention is never kept; of equal ones, the first.

    Args:
        attention: `[..., P]`, 0 or more.
        mass: in (0, 1]; .6 and .9 are both in use.

    Raises:
        ValueError: `mass` is outside of (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"mass={mass}: a share of the attention, above 0, at most 1")
    values, order = attention.float().sort(dim=-1, descending=True, stable=True)
    held = values.cumsum(-1)
    before = F.pad(held[..., :-1], (1, 0))  # without the patch itself, so that the one that crosses is kept
    keep = before < mass * held[..., -1:]
    return torch.zeros_like(keep).scatter(-1, order, keep)


def jaccard(prediction: Tensor, target: Tensor) -> Tensor:
    """`|∩| / |∪|` in [0, 1] over the last two dimensions of bool `[..., H, W]`, which broadcast; `[...]`.

    Two empty masks give 0 (not stated in the sources): nothing was found.
    """
    shared = (prediction & target).sum((-2, -1))
    return shared / (prediction | target).sum((-2, -1)).clamp(min=1)


def attention_jaccard(attention: Tensor, masks: Tensor, *, mass: float) -> tuple[Tensor, Tensor]:
    """Jaccard index of each picture's best head, and that of its heads' mean, `[B]` each.

    The best head is chosen by the mask, picture by picture: an oracle, but the usual figure. The heads' mean is
    averaged first and thresholded then.

    Args:
        attention: `[B, heads, h, w]`, 0 or more, of the [CLS] token to the patches.
        masks: bool `[B, H, W]`, where the object is; the patches kept are brought to this size by nearest neighbours.
        mass: see `kept_patches`.
    """

    def score(maps: Tensor) -> Tensor:
        kept = kept_patches(maps.flatten(2), mass=mass).view(maps.shape)
        # On whole multiples the same as "nearest", else not shifted.
        return jaccard(F.interpolate(kept.float(), masks.shape[-2:], mode="nearest-exact").bool(), masks[:, None])

    return score(attention).amax(1), score(attention.mean(1, keepdim=True))[:, 0]


def random_attention(shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Softmax over the last two dimensions of standard normal noise `[..., h, w]` (not stated in the sources)."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return noise.flatten(-2).softmax(-1).view(shape)


def centred_square(height: int, width: int, *, area_share: float) -> Tensor:
    """bool `[height, width]`, True on a centred rectangle of the picture's proportions and the share of its area.

    Args:
        area_share: in [0, 1]; met as nearly as whole pixels on both sides of the centre allow.
    """
    rows, columns = (((torch.arange(n) + 0.5) * 2 / n - 1).abs() < area_share**0.5 for n in (height, width))
    return rows[:, None] & columns


class AttentionJaccard(Metric):
    """Means over the pictures of `attention_jaccard` and of two controls that did not look; sums over processes.

    Random attention has as many heads as the model and is judged in both ways, as the best of several is more than
    one. The noise is seeded by the area of the picture's mask, so that batches and processes do not matter. The square
    has the mean area of all masks, in whole percents, at least one (not stated in the sources).

    Args:
        mass: share in (0, 1] of the attention that the patches hold which count as the object.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    _SCORES = ("best_head", "head_mean", "random_best_head", "random")
    scores: Tensor
    squares: Tensor
    area: Tensor
    count: Tensor

    def __init__(self, *, mass: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mass = mass
        self.add_state("scores", torch.zeros(len(self._SCORES)), dist_reduce_fx="sum")
        # One for each percent of area, as the masks' mean area is not known before the end.
        self.add_state("squares", torch.zeros(100), dist_reduce_fx="sum")
        self.add_state("area", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, attention: Tensor, masks: Tensor) -> None:
        """Takes `[B, heads, h, w]` and bool `[B, H, W]`, see `attention_jaccard`."""
        areas = masks.sum((1, 2))
        noise = torch.stack([random_attention(tuple(attention.shape[1:]), seed=seed) for seed in areas.tolist()])
        pairs = [attention_jaccard(maps, masks, mass=self.mass) for maps in (attention, noise.to(masks.device))]
        self.scores += torch.stack([score.sum() for pair in pairs for score in pair])
        height, width = masks.shape[1:]
        squares = torch.stack([centred_square(height, width, area_share=percent / 100) for percent in range(1, 101)])
        squares = squares.to(masks.device).flatten(1).float()
        shared = masks.flatten(1).float() @ squares.T  # [B, 100]
        self.squares += (shared / (areas[:, None] + squares.sum(1) - shared).clamp(min=1)).sum(0)
        self.area += areas.sum() / (height * width)
        self.count += len(masks)

    def compute(self) -> dict[str, Tensor]:
        """Scalars in [0, 1]: `best_head`, `head_mean`, `random_best_head`, `random` (heads' mean), `centred_square`."""
        percent = (100 * self.area / self.count).round().long().clamp(1, 100)
        square = self.squares[percent - 1] / self.count
        return dict(zip(self._SCORES, self.scores / self.count, strict=True)) | {"centred_square": square}
