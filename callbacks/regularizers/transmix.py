"""TransMix (arXiv:2111.09833): a mixed picture's labels count by how much [CLS] attends to each of its two parts."""

from torch import Tensor
from torch.nn import functional as F

from callbacks.regularizers.cross_entropy import CrossEntropy
from callbacks.step import ClassificationStep, Needs


def attended_share(logits: Tensor, mask: Tensor, *, num_prefix_tokens: int) -> Tensor:
    """`λ_attn = Σ mask · attention / Σ attention` over the patches, `[B]` in [0, 1], float32.

    The attention is softmaxed over all tokens, averaged over heads and cut to the patches; the mask is averaged over
    each patch.

    Args:
        logits: `[B, heads, N]`, the [CLS] row before the softmax.
        mask: `[B, H, W]` in [0, 1], see `Mixing`.
        num_prefix_tokens: how many of the `N` tokens are no patches.

    Raises:
        ValueError: the patches are no grid of square cells over the mask.
    """
    attention = logits.float().softmax(-1).mean(1)[:, num_prefix_tokens:]
    grid = patch_grid(attention.shape[1], height=mask.shape[1], width=mask.shape[2])
    own = F.adaptive_avg_pool2d(mask.float()[:, None], grid).flatten(1)
    return (own * attention).sum(1) / attention.sum(1)


def patch_grid(patches: int, *, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the grid that cuts `height × width` pixels into `patches` square cells.

    Raises:
        ValueError: there is none.
    """
    rows = round((patches * height / width) ** 0.5)
    columns = patches // rows if rows else 0
    if rows * columns != patches or rows * width != columns * height:
        raise ValueError(
            f"regularizer.transmix: {patches} patches are no grid of square cells on pictures of {height} × {width} "
            "pixels: take a ViT with square patches and without patch dropout, or cross_entropy instead"
        )
    return rows, columns


class TransMix(CrossEntropy):
    """Cross-entropy in which a mixed row's own label counts `(λ_area + λ_attn) / 2`; takes cross_entropy's place.

    Written for a `ClassificationStep`. The share is detached: attention is not trained to fit it.

    Args:
        label_smoothing: in [0, 1]; 0 is plain cross-entropy.
        site: pattern of one attention module; the paper's is the last, "blocks.*.attn[last]".

    Raises:
        ValueError: in the first step, `site` matches several modules.
    """

    def __init__(self, *, weight: float, label_smoothing: float, site: str) -> None:
        super().__init__(weight=weight, label_smoothing=label_smoothing)
        self.site = site
        self.needs = Needs(mixing=True, cls_logits=frozenset({site}))

    def share(self, step: ClassificationStep) -> Tensor:
        assert step.mixing is not None
        captured = step.student.cls_logits.at(self.needs.cls_logits)
        if len(captured) > 1:
            raise ValueError(
                f'regularizer.transmix.site="{self.site}": matches {len(captured)} modules; end it with "[last]"'
            )
        (logits,) = captured.values()
        attended = attended_share(logits.detach(), step.mixing.mask, num_prefix_tokens=step.num_prefix_tokens)
        return (super().share(step) + attended) / 2
