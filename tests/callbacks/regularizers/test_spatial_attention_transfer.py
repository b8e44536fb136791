import math

import pytest
import timm
import torch

from callbacks.regularizers.spatial_attention_transfer import (
    SpatialAttentionTransfer,
    attention_transfer_loss,
    patch_and_cls_rows,
)
from callbacks.step import Needs
from lightning_modules.captures import Captures
from models.capture import Captured
from tests.steps import classification_step

DEFAULTS = {"include_cls": False, "center": False, "divergence": "mse"}
# [CLS], one register token, two patches.
STUDENT = torch.tensor([[[10.0, 50, 1, 3]]])
SOURCE = torch.tensor([[[7.0, -50, 0, 0]]])


def transfer(student=STUDENT, source=SOURCE, **settings) -> float:
    return attention_transfer_loss(student, source, num_prefix_tokens=2, **DEFAULTS | settings).item()


def plugin(**settings) -> SpatialAttentionTransfer:
    return SpatialAttentionTransfer(**{"weight": 1.0, "sites": ["blocks.*.attn"], "rows": "cls"} | DEFAULTS | settings)


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({}, (1 + 9) / 2),
        ({"include_cls": True}, (9 + 1 + 9) / 3),
        ({"center": True}, 1),  # -1 and 1 against 0
        ({"center": True, "include_cls": True}, (4 + 16 + 4) / 9 / 3),  # 3, 1, 3 less their mean, 7/3
    ],
)
def test_squared_difference_by_hand(settings, loss):
    assert transfer(**settings) == pytest.approx(loss)


@pytest.mark.parametrize(
    ("divergence", "loss"),
    [("softmax_mse", (0.75 - 0.5) ** 2), ("kl", 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))],
)
def test_divergences_of_weights_by_hand(divergence, loss):
    """The patches' weights are 1/4 and 3/4 against 1/2 and 1/2."""
    student = torch.tensor([[[4.0, 5, 0, math.log(3)]]])
    assert transfer(student, divergence=divergence) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("divergence", ["softmax_mse", "kl"])
def test_a_shift_of_a_row_counts_in_logits_only(divergence):
    assert transfer(SOURCE + 2, divergence=divergence) == pytest.approx(0, abs=1e-6)
    assert transfer(SOURCE + 2) == pytest.approx(4)
    assert transfer(SOURCE + 2, center=True) == pytest.approx(0, abs=1e-6)


def test_kl_is_towards_the_source():
    """KL(source ‖ student) of a source that looks at one patch alone is minus the student's log weight there."""
    source = torch.tensor([[[0.0, 0, 90, 0]]])
    assert transfer(source=source, divergence="kl") == pytest.approx(math.log(1 + math.e**2), rel=1e-5)


@pytest.mark.parametrize("divergence", ["mse", "softmax_mse", "kl"])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equal_logits_cost_exactly_nothing(divergence, center, dtype):
    logits = torch.randn(2, 3, 18, generator=torch.Generator().manual_seed(0)).to(dtype)
    loss = attention_transfer_loss(
        logits, logits.clone(), num_prefix_tokens=2, include_cls=True, center=center, divergence=divergence
    )
    assert loss.item() == 0 and loss.dtype == torch.float32


def test_it_averages_over_rows_and_layers():
    rows = torch.stack([SOURCE[0], SOURCE[0] + 2])  # differences of 0 and 2
    term = plugin()
    sites = {"blocks.*.attn": ("blocks.0.attn", "blocks.1.attn")}
    source = SOURCE.expand(2, 1, 4)
    step = classification_step(
        torch.zeros(2, 3),
        recorded={"cls_logits": Captured({"blocks.0.attn": rows, "blocks.1.attn": source + 4}, sites)},
        reference_recorded={"cls_logits": Captured(dict.fromkeys(sites["blocks.*.attn"], source), sites)},
        num_prefix_tokens=2,
    )
    assert term.loss(step).loss.item() == pytest.approx(((0 + 4) / 2 + 16) / 2)


def test_rows_are_cls_and_patches():
    rng = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 3, 6, 4, generator=rng)
    logits = patch_and_cls_rows(query, key, scale=0.5, num_prefix_tokens=2)
    torch.testing.assert_close(logits, torch.einsum("bhid,bhjd->bhij", query, key)[:, :, [0, 2, 3, 4, 5]] * 0.5)


@pytest.mark.parametrize("pattern", ["blocks.*.attn", "blocks.*.attn[last]"])
def test_all_rows_of_two_models_against_the_whole_products(pattern):
    torch.manual_seed(0)
    models = [timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=2).eval() for _ in range(2)]
    term = plugin(rows="all", sites=[pattern])
    captured, expected = [], []
    pictures = torch.randn(2, 3, 32, 32)
    for model in models:
        inputs = {}
        for name, block in model.blocks.named_children():
            block.attn.register_forward_pre_hook(lambda _, args, name=name, to=inputs: to.update({name: args[0]}))
        captures = Captures(model, term.needs)
        with torch.no_grad(), captures.recording() as recorded:
            model(pictures)
        captured.append(recorded)
        maps = []
        for name in ["1"] if "last" in pattern else ["0", "1"]:
            with torch.no_grad():
                query, key, _ = model.blocks[int(name)].attn.qkv(inputs[name]).chunk(3, -1)
            maps.append(torch.einsum("bihd,bjhd->bhij", *(x.unflatten(-1, (3, 64)) for x in (query, key))) / 64**0.5)
        expected.append(torch.stack(maps)[..., [0, 2, 3, 4, 5], 2:])
    step = classification_step(
        torch.zeros(2, 3), recorded=captured[0], reference_recorded=captured[1], num_prefix_tokens=2
    )
    torch.testing.assert_close(term.loss(step).loss, (expected[0] - expected[1]).square().mean())


def test_the_cls_rows_of_two_models():
    torch.manual_seed(0)
    models = [timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval() for _ in range(2)]
    term = plugin()
    captured = []
    pictures = torch.randn(2, 3, 32, 32)
    for model in models:
        with Captures(model, term.needs).recording() as recorded:
            model(pictures)
        captured.append(recorded)
    same = classification_step(torch.zeros(2, 3), recorded=captured[0], reference_recorded=captured[0])
    other = classification_step(torch.zeros(2, 3), recorded=captured[0], reference_recorded=captured[1])
    assert term.loss(same).loss.item() == 0 and term.loss(other).loss.item() > 0


def test_needs():
    assert plugin().needs == Needs(reference=True, cls_logits=frozenset({"blocks.*.attn"}))
    last = "blocks.*.attn[last]"
    assert plugin(rows="all", sites=[last]).needs == Needs(reference=True, attention=frozenset({last}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "l1"}, "divergence=l1: choose one of mse, softmax_mse, kl"),
        ({"rows": "patches"}, "rows=patches: choose one of cls, all"),
        ({"sites": []}, "sites=.*name a layer"),
    ],
)
def test_refuses(settings, message):
    with pytest.raises(ValueError, match=f"spatial_attention_transfer.{message}"):
        plugin(**settings)
