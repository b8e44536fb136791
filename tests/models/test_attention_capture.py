"""Captured features and maps against an explicit softmax, with non-zero LoRA; checkpointed and compiled too."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from callbacks.regularizers.attention_alignment import AttentionAlignment
from callbacks.regularizers.representation_stabilization import RepresentationStabilization
from callbacks.step import DiffusionStep, ModelPass
from models.adapters import LoRA
from models.attention import attention_maps
from models.capture import Capture
from models.columns import TokenColumns
from models.noise_process import Epsilon

RANK, ALPHA = 4, 12
PATTERNS = ("*.attn1", "*.attn2", "*.attn?.to_q", "*.attn?.to_k")

# Inductor and AOT warn about themselves.
quiet_compiler = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
backends = pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])


@pytest.fixture
def adapter() -> LoRA:
    """Alpha differs from the rank."""
    return LoRA(rank=RANK, alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture
def adapted(tiny_sd: Path, adapter: LoRA) -> UNet2DConditionModel:
    """A UNet whose LoRA matters."""
    unet = UNet2DConditionModel.from_pretrained(tiny_sd / "unet")
    adapter.inject(unet)
    rng = torch.Generator().manual_seed(1)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=rng)
    return unet.train()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(2)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=rng),
        "timestep": torch.tensor([10, 700]),
        "encoder_hidden_states": torch.randn(2, 32, 32, generator=rng),
    }


def dense_weight(layer: nn.Module) -> Tensor:
    """`W + alpha / rank · B A` in float64, written out."""
    update = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    return layer.base_layer.weight.double() + ALPHA / RANK * update


def explicit_attention(attention: nn.Module, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
    """Output and map of one attention layer in float64: softmax(q kᵀ / √d) v, head by head."""
    q, k, v = (
        source.double() @ dense_weight(getattr(attention, name)).T
        for source, name in ((x, "to_q"), (context, "to_k"), (context, "to_v"))
    )
    width = q.shape[-1] // attention.heads
    maps, mixed = [], []
    for head in range(attention.heads):
        columns = slice(head * width, (head + 1) * width)
        scores = q[..., columns] @ k[..., columns].transpose(1, 2) / width**0.5
        exponential = (scores - scores.amax(-1, keepdim=True)).exp()
        maps.append(exponential / exponential.sum(-1, keepdim=True))
        mixed.append(maps[-1] @ v[..., columns])
    out = attention.to_out[0]
    output = torch.cat(mixed, -1) @ dense_weight(out).T + out.base_layer.bias.double()
    return output, torch.stack(maps, 1)


def explicit(unet: UNet2DConditionModel, inputs: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """`explicit_attention` of each attention layer, on the inputs that reach it in an uncompiled forward of a copy."""
    twin, seen = deepcopy(unet), {}
    twin.disable_gradient_checkpointing()
    layers = {name: module for name, module in twin.named_modules() if name.endswith(("attn1", "attn2"))}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor | None]) -> None:
            context = kwargs.get("encoder_hidden_states")
            seen[name] = (args[0], args[0] if context is None else context)

        return hook

    for name, module in layers.items():
        module.register_forward_pre_hook(note(name), with_kwargs=True)
    with torch.no_grad():
        twin(**inputs)
        return {name: explicit_attention(layer, *seen[name]) for name, layer in layers.items()}


def assert_captured_equals_explicit(unet, capture: Capture, inputs, expected) -> None:
    with capture.recording() as captured:
        unet(**inputs)
    assert expected
    for name, (output, maps) in expected.items():
        attention = unet.get_submodule(name)
        found = attention_maps(
            captured[f"{name}.to_q"], captured[f"{name}.to_k"], heads=attention.heads, scale=attention.scale
        )
        torch.testing.assert_close(captured[name].double(), output, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.double(), maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_captured_equals_an_explicit_softmax(adapted, inputs, checkpointing):
    expected = explicit(adapted, inputs)
    if checkpointing:
        adapted.enable_gradient_checkpointing()
    assert_captured_equals_explicit(adapted, Capture(adapted, PATTERNS), inputs, expected)


def test_the_lora_matters(adapted, inputs):
    """Otherwise the comparison above would prove nothing about hooks that miss the adapter."""
    capture = Capture(adapted, ("*.to_q", "*.to_k"))
    with capture.recording() as tuned:
        adapted(**inputs)
    adapted.disable_adapters()
    with capture.recording() as base:
        adapted(**inputs)
    assert all((tuned[name] - base[name]).abs().max() > 1e-2 for name in capture.names)


@quiet_compiler
@backends
def test_compiled_captures_the_same_and_disabled_is_the_pretrained_model(tiny_sd, adapter, adapted, inputs, backend):
    """One test, since compiling is what takes the time."""
    expected = explicit(adapted, inputs)
    capture = Capture(adapted, PATTERNS)
    adapted.compile(backend=backend)
    pretrained = UNet2DConditionModel.from_pretrained(tiny_sd / "unet").train()
    with torch.no_grad(), adapter.disabled(adapted):  # unrecorded: the flag must not be baked into the graph
        torch.testing.assert_close(adapted(**inputs).sample, pretrained(**inputs).sample, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert_captured_equals_explicit(adapted, capture, inputs, expected)


def plugins(unet: UNet2DConditionModel) -> list[RepresentationStabilization | AttentionAlignment]:
    both = [
        RepresentationStabilization(weight=1.0, sites=["up_blocks.*.attn1"]),
        AttentionAlignment(weight=1.0, sites=["up_blocks.*.attn2"], divergence="kl"),
    ]
    for plugin in both:
        plugin.attach(unet)
    return both


def gradients_of_the_terms(
    unet: UNet2DConditionModel, inputs: dict[str, Tensor], capture: Capture, terms
) -> list[Tensor]:
    """Of `L_RS + L_AA` between student and frozen model, one for each LoRA weight."""
    with capture.recording() as student:
        prediction = unet(**inputs).sample
    unet.disable_adapters()
    with torch.no_grad(), capture.recording() as frozen:
        reference = unet(**inputs).sample
    unet.enable_adapters()
    columns = torch.arange(32).expand(2, -1)
    step = DiffusionStep(
        student=ModelPass(prediction, student),
        reference=ModelPass(reference, frozen),
        target=torch.zeros_like(prediction),
        t=torch.zeros(2),
        snr=torch.ones(2),
        noise_process=Epsilon(DDPMScheduler()),
        num_instance=2,
        token_columns=TokenColumns(columns, columns),
    )
    trained = [p for p in unet.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sum(term.loss(step).loss for term in terms), trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]


@pytest.mark.parametrize("wrapped", ["checkpointing", "compiled"])
@quiet_compiler
def test_features_captured_within_a_wrapper_carry_the_same_gradient(adapted, inputs, wrapped):
    """Under reentrant checkpointing the captured features would have no gradient, and the terms would vanish."""
    twin = deepcopy(adapted)
    terms = plugins(adapted)
    sites = [site for term in terms for site in term.needs.sites]
    plain = gradients_of_the_terms(adapted, inputs, Capture(adapted, sites), terms)
    assert sum(bool(gradient.abs().max() > 0) for gradient in plain) > len(plain) / 2
    capture = Capture(twin, sites)
    if wrapped == "checkpointing":
        twin.enable_gradient_checkpointing()
    else:
        twin.compile(backend="aot_eager")
    for one, other in zip(plain, gradients_of_the_terms(twin, inputs, capture, terms), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def test_disabled_adapters_give_exactly_the_pretrained_model(tiny_sd, adapter, adapted, inputs):
    pretrained = UNet2DConditionModel.from_pretrained(tiny_sd / "unet").train()
    with torch.no_grad():
        expected = pretrained(**inputs).sample
        with adapter.disabled(adapted):
            assert torch.equal(adapted(**inputs).sample, expected)
        assert not torch.allclose(adapted(**inputs).sample, expected, atol=1e-3), "the adapter is back"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_reference_pass_leaves_the_students_gradients_bit_identical(adapter, adapted, inputs, checkpointing):
    if checkpointing:
        adapted.enable_gradient_checkpointing()

    def gradients(*, reference: bool) -> list[Tensor]:
        loss = adapted(**inputs).sample.square().mean()
        if reference:
            with torch.no_grad(), adapter.disabled(adapted):
                adapted(**inputs)
        return list(torch.autograd.grad(loss, [p for p in adapted.parameters() if p.requires_grad]))

    pairs = zip(gradients(reference=False), gradients(reference=True), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
