"""The captured [CLS] rows against explicit products, within every wrapper that a training run may put around a ViT."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers.attention import Attention
from torch import Tensor, nn

from models.attention import ClsAttentionCapture, cls_logits, matching_attention

# Inductor and AOT warn about themselves.
quiet_compiler = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
MODELS = {
    "plain": ("vit_tiny_patch16_224", {}),
    "distilled": ("deit_tiny_distilled_patch16_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 28}),
    "normed": ("vit_tiny_patch16_224", {"qk_norm": True}),
}


def build(kind: str = "plain", *, fused: bool = True) -> nn.Module:
    name, settings = MODELS[kind]
    torch.manual_seed(0)
    model = timm.create_model(name, **{"img_size": 32, "depth": 3, "num_classes": 3} | settings)
    for block in model.blocks:
        block.attn.fused_attn = fused
        if kind == "normed":  # otherwise the two norms would be alike
            for norm in (block.attn.q_norm, block.attn.k_norm):
                nn.init.normal_(norm.weight)
                nn.init.normal_(norm.bias)
        nn.init.normal_(block.attn.qkv.weight, std=0.1)
    return model.eval()


def pictures(model: nn.Module) -> Tensor:
    return torch.randn(2, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(1))


def explicit(kind: str) -> dict[str, Tensor]:
    """Whole maps of logits of an unfused twin `[B, heads, N, N]` by name, from what reaches each `qkv`, in float64."""
    model, maps = build(kind, fused=False), {}
    inputs: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            module.qkv.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]}))
    with torch.no_grad():
        model(pictures(model))
        for name, x in inputs.items():
            attention = deepcopy(model.get_submodule(name)).double()
            heads = attention.num_heads
            q, k, _ = (x.double() @ attention.qkv.weight.T + attention.qkv.bias).chunk(3, -1)
            q, k = (part.unflatten(-1, (heads, -1)) for part in (q, k))
            q, k = attention.q_norm(q), attention.k_norm(k)
            maps[name] = torch.einsum("bihd,bjhd->bhij", q, k) / q.shape[-1] ** 0.5
    return maps


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_captured_equals_the_first_row_of_an_explicit_product(kind, grad):
    model = build(kind)
    capture = ClsAttentionCapture(model, ["blocks.*.attn"])
    with torch.set_grad_enabled(grad), capture.recording() as captured:
        model(pictures(model))
    expected = explicit(kind)
    assert captured.keys() == expected.keys() == set(capture.names) and len(captured) == 3
    for name, maps in expected.items():
        assert captured[name].dtype == torch.float32 and captured[name].requires_grad == grad
        torch.testing.assert_close(captured[name].double(), maps[:, :, 0], rtol=0, atol=1e-5)
        assert (maps[:, :, 0] - maps[:, :, 1]).abs().max() > 1e-2, "otherwise any row would do"


def test_captured_logits_softmaxed_are_what_an_unfused_vit_drops_out():
    model, unfused = build(), build(fused=False)
    seen: dict[str, Tensor] = {}
    unfused.blocks[1].attn.attn_drop.register_forward_hook(lambda _, args, output: seen.update(attention=output))
    unfused(pictures(unfused))
    with ClsAttentionCapture(model, ["blocks.1.attn"]).recording() as captured:
        model(pictures(model))
    torch.testing.assert_close(captured["blocks.1.attn"].softmax(-1), seen["attention"][:, :, 0], rtol=0, atol=1e-5)


def test_logits_of_half_precision_are_float32():
    query, key = (torch.randn(2, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0)).bfloat16()).unbind()
    with torch.autocast("cpu", torch.bfloat16):
        logits = cls_logits(query, key, scale=0.5)
    torch.testing.assert_close(logits, (query.float() @ key.float().mT)[:, :, 0] * 0.5)
    assert logits.dtype == torch.float32


def loss_and_gradients(model: nn.Module, capture: ClsAttentionCapture) -> tuple[float, dict[str, Tensor]]:
    """Of a loss of the captured logits alone, by the name of each parameter; 0 of what it does not depend on."""
    model.train().zero_grad()
    with capture.recording() as captured:
        model(pictures(model))
    loss = sum(logits.square().mean() for logits in captured.values())
    loss.backward()
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
    return loss.item(), gradients


def test_gradients_reach_query_and_key_of_every_block():
    model = build()
    _, gradients = loss_and_gradients(model, ClsAttentionCapture(model, ["blocks.*.attn"]))
    for block in range(3):
        query, key, _ = gradients[f"blocks.{block}.attn.qkv.weight"].chunk(3)
        assert query.abs().max() > 0 and key.abs().max() > 0
    *_, value = gradients["blocks.2.attn.qkv.weight"].chunk(3)
    assert value.abs().max() == 0, "nothing comes after the last block's logits"


@pytest.mark.parametrize(
    "wrapper", ["checkpointing", "eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)
@quiet_compiler
def test_wrapped_gives_the_same_loss_and_gradients(wrapper):
    plain, wrapped = build(), build()
    capture = ClsAttentionCapture(wrapped, ["blocks.*.attn"])
    if wrapper == "checkpointing":
        wrapped.set_grad_checkpointing(True)
    else:
        torch._dynamo.reset()
        wrapped.compile(backend=wrapper)
        with torch.no_grad():  # unrecorded: the flag must not be baked into the graph
            wrapped(pictures(wrapped))
    loss, gradients = loss_and_gradients(plain, ClsAttentionCapture(plain, ["blocks.*.attn"]))
    for _ in range(2):
        wrapped_loss, wrapped_gradients = loss_and_gradients(wrapped, capture)
        assert wrapped_loss == pytest.approx(loss, rel=1e-4)
        for name, gradient in wrapped_gradients.items():
            torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-5)


def test_nothing_is_kept_outside_of_recording():
    model = build()
    capture = ClsAttentionCapture(model, ["blocks.0.attn"])
    with capture.recording() as captured:
        model(pictures(model))
    first = captured["blocks.0.attn"].clone()
    model(pictures(model) + 1)
    assert captured.keys() == {"blocks.0.attn"} and torch.equal(captured["blocks.0.attn"], first)
    assert not (capture._noted or capture._found)


def test_a_frozen_pass_keeps_neither_queries_nor_keys():
    model = build()
    capture = ClsAttentionCapture(model, ["blocks.*.attn"])
    with torch.no_grad(), capture.recording():
        model(pictures(model))
        assert not capture._noted and len(capture._found) == 3
        assert all(logits.shape == (2, 3, 5) for logits in capture._found.values())


@pytest.mark.parametrize(
    ("name", "settings"),
    [("eva02_tiny_patch14_224", {"img_size": 28}), ("vit_small_patch16_rope_224", {"img_size": 32})],
)
def test_rotary_embeddings_are_in_the_logits(name, settings):
    """A rotary ViT against its unfused twin, whose maps are there to be looked at."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, num_classes=3, **settings).eval()
    for block in model.blocks:
        for projection in (block.attn.qkv, block.attn.q_proj, block.attn.k_proj):
            if projection is not None:
                nn.init.normal_(projection.weight, std=0.3)
    twin = deepcopy(model)
    seen: dict[str, Tensor] = {}
    for number, block in enumerate(twin.blocks):
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(
            lambda _, args, out, n=number: seen.update({f"blocks.{n}.attn": out})
        )
    capture = ClsAttentionCapture(model, ["blocks.*.attn"])
    assert model.cls_token is not None
    with torch.no_grad():
        twin(pictures(model))
        with capture.recording() as captured:
            model(pictures(model))
        rope = model.rope.get_embed((2, 2))
        assert rope.abs().max() > 0, "otherwise nothing is rotated"
    assert captured.keys() == seen.keys() and len(seen) == 2
    for name, maps in seen.items():
        torch.testing.assert_close(captured[name].softmax(-1), maps[:, :, 0], rtol=0, atol=1e-5)
        assert (maps[:, :, 0] - maps[:, :, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("patterns", "blocks"),
    [
        (["blocks.*.attn"], [0, 1, 2]),
        (["blocks.*.attn[last]"], [2]),
        (["blocks.[01].attn[last]"], [1]),
        (["blocks.*.attn[last]", "blocks.0.attn"], [0, 2]),
        ([], []),
    ],
)
def test_patterns(patterns, blocks):
    assert matching_attention(build(), patterns) == [f"blocks.{block}.attn" for block in blocks]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "vit_relpos_small_patch16_224",
            {"img_size": 32},
            r"blocks.0.attn is a RelPosAttention, not the self-attention",
        ),
        ("vit_medium_patch16_reg4_gap_256", {"img_size": 32}, r"VisionTransformer has no \[CLS\] token"),
    ],
)
def test_refuses_a_vit_whose_cls_logits_cannot_be_captured(name, settings, message):
    model = timm.create_model(name, depth=1, **settings)
    with pytest.raises(ValueError, match=message):
        ClsAttentionCapture(model, ["blocks.*.attn"])


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("layers.*.attn[last]", r"site 'layers.\*.attn' matches no submodule of VisionTransformer"),
        ("blocks.0.mlp", "blocks.0.mlp is a Mlp, not the self-attention"),
    ],
)
def test_refuses_a_site(site, message):
    with pytest.raises(ValueError, match=message):
        ClsAttentionCapture(build(), [site])


def test_refuses_unfused_attention():
    with pytest.raises(
        ValueError, match=r"blocks.0.attn attends without scaled_dot_product_attention.*TIMM_FUSED_ATTN"
    ):
        ClsAttentionCapture(build(fused=False), ["blocks.0.attn"])


def test_refuses_a_module_that_never_fires():
    model = build()
    model.spare = nn.ModuleDict({"attn": Attention(192, num_heads=3)})
    capture = ClsAttentionCapture(model, ["*.attn"])
    with pytest.raises(RuntimeError, match=r"spare.attn called \w+ 0 times"), capture.recording():
        model(pictures(model))
