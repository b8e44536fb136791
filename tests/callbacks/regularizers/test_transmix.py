import math

import pytest
import torch

from callbacks.regularizer import Regularizer
from callbacks.regularizers.cross_entropy import CrossEntropy
from callbacks.regularizers.transmix import TransMix, attended_share, patch_grid
from callbacks.step import Mixing, Needs
from models.capture import Captured
from tests.steps import classification_step

LAST = "blocks.*.attn[last]"
SITES = {LAST: ("blocks.1.attn",), "blocks.*.attn": ("blocks.0.attn", "blocks.1.attn")}


def transmix(site: str = LAST, label_smoothing: float = 0.0) -> TransMix:
    return TransMix(weight=1.0, label_smoothing=label_smoothing, site=site)


def left_half(height: int = 4, width: int = 4) -> torch.Tensor:
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    return mask


def weights(*values: float) -> torch.Tensor:
    """Logits `[1, 1, N]` of one head whose softmax is `values`."""
    return torch.tensor(values).log()[None, None]


def test_attended_share_by_hand():
    """The 2 × 2 patches hold .1 .2 / .3 .2, of which the left ones are the row's own: .4 of .8."""
    logits = weights(0.15, 0.05, 0.1, 0.2, 0.3, 0.2)
    assert attended_share(logits, left_half(), num_prefix_tokens=2).item() == pytest.approx(0.5)


def test_heads_are_averaged_after_the_softmax():
    """.9 and .1 in the first head; in the second, [CLS] keeps .8, and .05 and .15 are left."""
    logits = torch.cat([weights(1e-9, 0.9, 0.1), weights(0.8, 0.05, 0.15)], 1)
    share = attended_share(logits, left_half(2, 4), num_prefix_tokens=1)
    assert share.item() == pytest.approx(0.95 / 1.2, rel=1e-5)


def test_a_mask_that_cuts_patches_is_averaged_in_them():
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, 0] = 1  # a quarter of the first patch
    assert attended_share(weights(0.2, 0.4, 0.2, 0.1, 0.1), mask, num_prefix_tokens=1).item() == pytest.approx(0.125)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_of_mixup_it_is_the_area(share):
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0))
    assert attended_share(logits, torch.full((1, 4, 4), share), num_prefix_tokens=1).item() == pytest.approx(share)


@pytest.mark.parametrize(
    ("patches", "height", "width", "grid"),
    [(196, 224, 224, (14, 14)), (6, 32, 48, (2, 3)), (12, 48, 64, (3, 4)), (4, 16, 64, (1, 4))],
)
def test_grid(patches, height, width, grid):
    assert patch_grid(patches, height=height, width=width) == grid


@pytest.mark.parametrize(("patches", "height", "width"), [(5, 32, 32), (4, 32, 48), (6, 32, 32)])
def test_refuses_patches_that_are_no_grid(patches, height, width):
    with pytest.raises(ValueError, match=rf"transmix: {patches} patches .* {height} × {width}"):
        patch_grid(patches, height=height, width=width)


def mixed_step(logits: torch.Tensor, attention: torch.Tensor):
    """Row 0 (class 0) owns a quarter of the area, row 1 (class 1) all of its picture."""
    masks = torch.ones(2, 4, 4)
    masks[0, :, 1:] = 0
    return classification_step(
        logits,
        labels=torch.tensor([0, 1]),
        mixing=Mixing(torch.tensor([1, 0]), masks),
        recorded={"cls_logits": Captured({"blocks.0.attn": -attention, "blocks.1.attn": attention}, SITES)},
    )


def test_loss_by_hand():
    """Attention is all on the left, whose patches are half the row's own: λ = (1/4 + 1/2) / 2."""
    attention = torch.tensor([[[-99.0, 9, -99, 9, -99]]]).expand(2, 1, 5).clone().requires_grad_()
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]], requires_grad=True)
    loss = transmix().loss(mixed_step(logits, attention)).loss
    first = 0.375 * math.log(4) + 0.625 * math.log(4 / 3)
    assert loss.item() == pytest.approx((first + math.log(2)) / 2)
    (through_attention,) = torch.autograd.grad(loss, attention, allow_unused=True, retain_graph=True)
    assert through_attention is None, "detached"
    assert torch.autograd.grad(loss, logits)[0].abs().max() > 0


def test_of_unmixed_pictures_it_is_cross_entropy():
    step = classification_step(torch.tensor([[1.0, 2, 3], [0, 0, 1]]), sample_weight=torch.tensor([0.5, 2]))
    plain = CrossEntropy(weight=1.0, label_smoothing=0.1).loss(step).loss
    assert transmix(label_smoothing=0.1).loss(step).loss.item() == plain.item()


def test_needs_and_is_the_data_term():
    term: Regularizer = transmix()
    assert term.primary and term.needs == Needs(mixing=True, cls_logits=frozenset({LAST}))


def test_refuses_a_pattern_of_several_layers():
    step = mixed_step(torch.zeros(2, 2), torch.zeros(2, 1, 5))
    with pytest.raises(ValueError, match=r'transmix.site="blocks.\*.attn": matches 2 modules; end it with'):
        transmix("blocks.*.attn").loss(step)
