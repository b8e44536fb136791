"""Captured features and maps against an explicit softmax, with non-zero LoRA; checkpointed and compiled too."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F

from callbacks.regularizers.attention_alignment import AttentionAlignment
from callbacks.regularizers.representation_stabilization import RepresentationStabilization
from callbacks.step import DiffusionStep, ModelPass
from lightning_modules.captures import Captures
from models.adapters import LoRA
from models.attention import AttentionCapture, attention_maps
from models.capture import Capture
from models.columns import TokenColumns
from models.noise_process import Epsilon
from models.pipeline_weights import PipelineWeights

RANK, ALPHA = 4, 12
PATTERNS = ("*.attn1", "*.attn2")

# Inductor and AOT warn about themselves.
quiet_compiler = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)
backends = pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])


class Denoiser(PipelineWeights):
    """A UNet in a pipeline of nothing else."""

    denoiser_name = "unet"

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.pipeline = SimpleNamespace(unet=unet)


@pytest.fixture
def adapter() -> LoRA:
    """Alpha differs from the rank."""
    return LoRA(rank=RANK, alpha=ALPHA, target_modules=["to_q", "to_k", "to_v", "to_out.0"])


@pytest.fixture
def adapted(tiny_sd: Path, adapter: LoRA) -> UNet2DConditionModel:
    """A UNet whose LoRA matters."""
    unet = UNet2DConditionModel.from_pretrained(tiny_sd / "unet")
    adapter.inject(Denoiser(unet))
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


def captures(unet: nn.Module) -> tuple[Capture, AttentionCapture]:
    return Capture(unet, PATTERNS), AttentionCapture(unet, PATTERNS)


def assert_captured_equals_explicit(unet, both: tuple[Capture, AttentionCapture], inputs, expected) -> None:
    outputs, attention = both
    with outputs.recording() as captured, attention.recording() as records:
        unet(**inputs)
    assert expected and captured.keys() == records.keys() == expected.keys()
    for name, (output, maps) in expected.items():
        found = attention_maps(records[name].query, records[name].key, scale=records[name].scale)
        torch.testing.assert_close(captured[name].double(), output, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.double(), maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_captured_equals_an_explicit_softmax(adapted, inputs, checkpointing):
    expected = explicit(adapted, inputs)
    if checkpointing:
        adapted.enable_gradient_checkpointing()
    assert_captured_equals_explicit(adapted, captures(adapted), inputs, expected)


class Attending(nn.Module):
    """Attention that calls the fused one as often as it is told, with what it is told."""

    num_heads = 1

    def __init__(self, calls: int = 1, **settings: object) -> None:
        super().__init__()
        self.calls, self.settings = calls, settings

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.calls):
            x = F.scaled_dot_product_attention(x, 2 * x, x, **self.settings)
        return x


QUERIES = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0))


def test_two_captures_of_one_module_each_record_its_call_once():
    model = nn.Sequential(Attending(), Attending(scale=0.25))
    one, other = AttentionCapture(model, ["*"]), AttentionCapture(model, ["0"])
    with one.recording() as first, other.recording() as second:
        model(QUERIES)
    assert first.keys() == {"0", "1"} and second.keys() == {"0"}
    for record in (first["0"], second["0"]):
        assert record.query is QUERIES and torch.equal(record.key, 2 * QUERIES) and record.scale == 0.5
    assert first["1"].scale == 0.25 and not torch.equal(first["1"].query, QUERIES)
    assert not torch.overrides._get_current_function_mode_stack()


def test_the_functions_mode_is_open_in_matched_modules_only_and_only_while_recording():
    """Nobody pays who does not ask."""
    depths: list[int] = []
    model = nn.Sequential(nn.Identity(), Attending(), nn.Identity())
    for module in model:
        module.register_forward_pre_hook(
            lambda *_: depths.append(len(torch.overrides._get_current_function_mode_stack()))
        )
        module.forward = lambda x, forward=module.forward: (
            depths.append(len(torch.overrides._get_current_function_mode_stack())) or forward(x)
        )
    capture = AttentionCapture(model, ["1"])
    model(QUERIES)
    assert depths == [0] * 6
    depths.clear()
    with capture.recording():
        model(QUERIES)
    assert depths == [0, 0, 0, 1, 0, 0]
    unasked = nn.Sequential(Attending())
    with AttentionCapture(unasked, []).recording() as captured:
        unasked(QUERIES)
    assert captured == {} and not (unasked[0]._forward_pre_hooks or unasked[0]._forward_hooks)


def test_an_error_within_leaves_no_mode_open():
    model = nn.Sequential(Attending(), Attending())
    captures = AttentionCapture(model, ["0"]), AttentionCapture(model, ["0", "1"])
    for error in (ZeroDivisionError, KeyboardInterrupt):
        model[0].forward = lambda x, error=error: (_ for _ in ()).throw(error)
        with pytest.raises(error), captures[0].recording(), captures[1].recording():
            model(QUERIES)
        assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("calls", [0, 2])
def test_refuses_a_site_that_does_not_attend_exactly_once(calls):
    model = nn.Sequential(Attending(), Attending(calls))
    with (
        pytest.raises(RuntimeError, match=rf"^1 called scaled_dot_product_attention {calls} times"),
        AttentionCapture(model, ["*"]).recording(),
    ):
        model(QUERIES)


@pytest.mark.parametrize("settings", [{"is_causal": True}, {"attn_mask": torch.zeros(3, 3)}])
def test_refuses_attention_whose_map_is_not_of_query_and_key_alone(settings):
    model = nn.Sequential(Attending(**settings))
    with pytest.raises(ValueError, match=r"0 masks its attention"), AttentionCapture(model, ["0"]).recording():
        model(QUERIES)


def test_refuses_a_site_that_is_no_attention():
    with pytest.raises(ValueError, match="0 is a Linear, no attention with heads"):
        AttentionCapture(nn.Sequential(nn.Linear(2, 2)), ["0"])


def test_a_family_says_which_keys_are_text_and_which_queries_picture():
    model = nn.Sequential(Attending(), Attending())
    capture = AttentionCapture(
        model, ["text"], {"text": ("*",)},
        text_columns=lambda site: slice(int(site), 2), image_rows=lambda site: slice(2, None),
    )  # fmt: skip
    with capture.recording() as captured:
        model(QUERIES)
    assert [record.text_columns for record in captured.at(["text"]).values()] == [slice(0, 2), slice(1, 2)]
    assert all(record.image_rows == slice(2, None) and record.is_joint for record in captured.values())


@pytest.mark.parametrize("pattern", ["text", "up_blocks.*.attn2"])
def test_attention_under_autocast_is_softmaxed_in_float32(adapted, inputs, pattern):
    capture = AttentionCapture(adapted, [pattern], {"text": ("up_blocks.*.attn2",)})
    with torch.autocast("cpu", torch.bfloat16), capture.recording() as captured:
        adapted(**inputs)
        record = next(iter(captured.at([pattern]).values()), None)
        assert record is None, "filled on leaving"
    for record in captured.at([pattern]).values():
        maps = attention_maps(record.query, record.key, scale=record.scale)
        assert record.query.dtype == torch.bfloat16 and maps.dtype == torch.float32
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))


def test_the_lora_matters(adapted, inputs):
    """Otherwise the comparison above would prove nothing about hooks that miss the adapter."""
    capture = AttentionCapture(adapted, PATTERNS)
    with capture.recording() as tuned:
        adapted(**inputs)
    adapted.disable_adapters()
    with capture.recording() as base:
        adapted(**inputs)
    for part in ("query", "key"):
        assert all((getattr(tuned[n], part) - getattr(base[n], part)).abs().max() > 1e-2 for n in capture.names)


@quiet_compiler
@backends
def test_compiled_captures_the_same_and_disabled_is_the_pretrained_model(tiny_sd, adapter, adapted, inputs, backend):
    """One test, since compiling is what takes the time."""
    expected = explicit(adapted, inputs)
    capture = captures(adapted)
    adapted.compile(backend=backend)
    pretrained = UNet2DConditionModel.from_pretrained(tiny_sd / "unet").train()
    with torch.no_grad(), adapter.disabled():  # unrecorded: the flag must not be baked into the graph
        torch.testing.assert_close(adapted(**inputs).sample, pretrained(**inputs).sample, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert_captured_equals_explicit(adapted, capture, inputs, expected)


TERMS = (
    RepresentationStabilization(weight=1.0, sites=["up_blocks.*.attn1"]),
    AttentionAlignment(weight=1.0, sites=["up_blocks.*.attn2"], divergence="kl"),
)


def gradients_of_the_terms(unet: UNet2DConditionModel, inputs: dict[str, Tensor], captures: Captures) -> list[Tensor]:
    """Of `L_RS + L_AA` between student and frozen model, one for each LoRA weight."""
    with captures.recording() as student:
        prediction = unet(**inputs).sample
    unet.disable_adapters()
    with torch.no_grad(), captures.recording() as frozen:
        reference = unet(**inputs).sample
    unet.enable_adapters()
    columns = torch.arange(32).expand(2, -1)
    step = DiffusionStep(
        student=ModelPass(prediction, **student),
        reference=ModelPass(reference, **frozen),
        target=torch.zeros_like(prediction),
        t=torch.zeros(2),
        snr=torch.ones(2),
        noise_process=Epsilon(DDPMScheduler()),
        num_instance=2,
        token_columns=TokenColumns(columns, columns),
    )
    trained = [p for p in unet.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(sum(term.loss(step).loss for term in TERMS), trained, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, gradients, strict=True)]


@pytest.mark.parametrize("wrapped", ["checkpointing", "compiled"])
@quiet_compiler
def test_features_captured_within_a_wrapper_carry_the_same_gradient(adapted, inputs, wrapped):
    """Under reentrant checkpointing the captured features would have no gradient, and the terms would vanish."""
    twin = deepcopy(adapted)
    needs = TERMS[0].needs | TERMS[1].needs
    plain = gradients_of_the_terms(adapted, inputs, Captures(adapted, needs))
    assert sum(bool(gradient.abs().max() > 0) for gradient in plain) > len(plain) / 2
    captures = Captures(twin, needs)
    if wrapped == "checkpointing":
        twin.enable_gradient_checkpointing()
    else:
        twin.compile(backend="aot_eager")
    for one, other in zip(plain, gradients_of_the_terms(twin, inputs, captures), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)


def test_disabled_adapters_give_exactly_the_pretrained_model(tiny_sd, adapter, adapted, inputs):
    pretrained = UNet2DConditionModel.from_pretrained(tiny_sd / "unet").train()
    with torch.no_grad():
        expected = pretrained(**inputs).sample
        with adapter.disabled():
            assert torch.equal(adapted(**inputs).sample, expected)
        assert not torch.allclose(adapted(**inputs).sample, expected, atol=1e-3), "the adapter is back"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_reference_pass_leaves_the_students_gradients_bit_identical(adapter, adapted, inputs, checkpointing):
    if checkpointing:
        adapted.enable_gradient_checkpointing()

    def gradients(*, reference: bool) -> list[Tensor]:
        loss = adapted(**inputs).sample.square().mean()
        if reference:
            with torch.no_grad(), adapter.disabled():
                adapted(**inputs)
        return list(torch.autograd.grad(loss, [p for p in adapted.parameters() if p.requires_grad]))

    pairs = zip(gradients(reference=False), gradients(reference=True), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
