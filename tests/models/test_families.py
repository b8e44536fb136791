"""What every family promises, one contract over all of them; and that nothing else names an architecture.

That two steps of DreamBooth, APT, DCO and textual inversion move what they should is held by tests/test_experiments.py,
tests/models/test_adapter.py and tests/models/tokens/test_learned_token.py.
"""

import copy
import io
import re
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from datamodules.subject import PromptPair
from models.adapters import FullFineTuning, LoRA
from models.families.sd import StableDiffusion
from models.family import Condition, DiffusionFamily
from models.tokens.rows import TokenRows, save_rows
from models.tokens.settings import LearnedToken
from sampling.guidance import ClassifierFreeGuidance, ConsistencyGuidance
from sampling.sampler import sample, sample_guided
from tests.tiny import ROOT

SETTINGS: dict[str, Any] = {
    "resolution": 32,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "compile": False,
    "inference_batch_size": 2,
    "guidance_scale": 3.0,
    "consistency_scale": 1.0,
    "num_inference_steps": 3,
    "loss_gap_scale": 16.0,
    "indicator_augmentation": False,
}
PROMPTS = ["a red heart", "a heart on a pink background", "a star"]
SEEDS = [3, 4, 5]


@dataclass(frozen=True)
class Kind:
    """One family as the contract is held to it.

    Args:
        folder: fixture of a tiny pipeline.
        family: of it.
        load: the stock pipeline.
        latents: `(C, h, w)` of a picture of 32 px.
        condition: shape of each tensor of one prompt.
    """

    folder: str
    family: Callable[..., DiffusionFamily]
    load: Callable[[Path], Any]
    latents: tuple[int, int, int]
    condition: dict[str, tuple[int, ...]]


def stock_sd(folder: Path) -> Any:
    return StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)


OF_SD = {"encoder_hidden_states": (32, 32)}
KINDS = {
    "sd": Kind("tiny_sd", StableDiffusion, stock_sd, (4, 8, 8), OF_SD),
    "sd_v": Kind("tiny_sd_v", StableDiffusion, stock_sd, (4, 8, 8), OF_SD),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def folder(kind: Kind, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(kind.folder)
    return path


@pytest.fixture
def model(kind: Kind, folder: Path) -> DiffusionFamily:
    return kind.family(pretrained=str(folder), **SETTINGS)


@pytest.fixture
def stock(kind: Kind, folder: Path) -> Any:
    return quiet(kind.load(folder))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any, prompt: str, seed: int) -> np.ndarray:
    """By the stock pipeline itself, one picture at a time."""
    size = {"num_inference_steps": 3, "guidance_scale": 3.0, "height": 32, "width": 32}
    return np.asarray(pipeline(prompt, generator=torch.Generator().manual_seed(seed), **size).images[0])


def own(model: DiffusionFamily, prompts: list[str], seeds: list[int]) -> list[np.ndarray]:
    return [np.asarray(each) for each in sample(model, prompts, seeds=seeds, guidance_scale=3.0, description=None)]


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Up to one level, by which rows of another batch size round otherwise."""
    return bool(np.abs(one.astype(int) - other).max() <= 1)


def move_lora(denoiser: Any) -> None:
    torch.manual_seed(1)
    for name, parameter in denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)


def guided(model: DiffusionFamily, guidance: Any) -> list[np.ndarray]:
    pairs = [PromptPair(instance=each, prior=each) for each in PROMPTS]
    return [np.asarray(each) for each in sample_guided(model, pairs, guidance, seeds=SEEDS, description=None)[0]]


# ---- the contract


def test_prompts_become_conditions_row_by_row(model: DiffusionFamily, kind: Kind) -> None:
    condition = model.encode_prompts(PROMPTS)
    assert len(condition) == 3
    shapes = {name: tuple(tensor.shape) for name, tensor in condition.tensors.items()}
    assert shapes == {name: (3, *shape) for name, shape in kind.condition.items()}
    alone = [model.encode_prompts([prompt]) for prompt in PROMPTS]
    for name, tensor in Condition.cat(alone).tensors.items():
        torch.testing.assert_close(condition.tensors[name], tensor)
    assert condition[1:2].expand(2).equals(Condition.cat([condition[1:2]] * 2))
    assert not condition[:1].equals(condition[1:2])
    as_drawn = model.encode_for_drawing(PROMPTS)
    assert as_drawn.tensors.keys() == condition.tensors.keys() and as_drawn.equals(condition)
    assert not any(tensor.requires_grad for tensor in condition.tensors.values())


def test_tokens_are_padded_for_every_encoder_and_too_long_ones_refused(model: DiffusionFamily) -> None:
    tokens = model.tokenize(PROMPTS)
    assert set(tokens) == {each.name for each in model.encoders}
    for each in model.encoders:
        ids, mask = tokens[each.name]
        assert tuple(ids.shape) == (3, each.max_length) and (mask is None or mask.shape == ids.shape)
        assert getattr(model.pipeline, each.name) is each.module
    first = model.encoders[0]
    inner = model.token_ids(PROMPTS[1])
    assert tokens[first.name][0][1, 1 : len(inner) + 1].tolist() == inner  # behind the start
    assert model.num_text_columns >= first.max_length and first.first_column == 0
    with pytest.raises(ValueError, match=r"has \d+ tokens, \d+ are read"):
        model.tokenize(["a heart" + " on the left" * 200])


def test_pictures_become_latents_and_come_back(model: DiffusionFamily, kind: Kind, stock: Any) -> None:
    pictures = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    channels, *size = kind.latents
    moments = model.encode_pictures(pictures)
    assert moments.shape == (3, 2 * channels, *size) and moments.dtype == torch.float32
    noise = torch.randn(3, *kind.latents, generator=torch.Generator().manual_seed(1))
    latents = model.latents(moments, noise)
    assert latents.shape == noise.shape
    mean = model.latents(moments, torch.zeros_like(noise))
    with torch.no_grad():
        posterior = stock.vae.encode(pictures / 127.5 - 1).latent_dist
    shift, scale = getattr(stock.vae.config, "shift_factor", None) or 0.0, stock.vae.config.scaling_factor
    torch.testing.assert_close(mean, (posterior.mean - shift) * scale, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latents - mean, posterior.std * noise * scale, atol=1e-5, rtol=1e-4)
    (picture,) = model.decode(mean[:1])
    assert picture.size == (32, 32) and picture.mode == "RGB"
    features = model.picture_features(pictures)
    assert features.ndim == 2 and len(features) == 3 and features.dtype == torch.float32
    assert not torch.allclose(features[0], features[1])


class Calls:
    """What a pipeline asks of its denoiser, and what it is answered."""

    def __init__(self, denoiser: Any) -> None:
        self.kept: list[tuple[tuple[Any, ...], dict[str, Any], Tensor]] = []
        denoiser.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.kept.append((args, kwargs, output[0]))


def test_a_prediction_is_that_of_the_pipelines_own_call(model: DiffusionFamily, stock: Any) -> None:
    """Two steps of the stock pipeline, without guidance, so that its rows are the prompt's."""
    calls = Calls(getattr(stock, model.denoiser_name).to(memory_format=torch.channels_last))  # which rounds otherwise
    drawn_latents = stock(
        PROMPTS[1], guidance_scale=1.0, num_inference_steps=2, height=32, width=32, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert len(calls.kept) == 2
    num_steps = stock.scheduler.config.num_train_timesteps
    condition = model.encode_prompts([PROMPTS[1]])
    for args, kwargs, answered in calls.kept:
        noisy, timestep = args
        t = (timestep.reshape(1).float() + 0.5) / num_steps
        with torch.no_grad():
            prediction = model.denoise(model.denoiser, noisy, t, condition)
            rows = model.denoise_rows(model.denoiser, Condition.cat([condition] * 3), args, kwargs)
        assert torch.equal(prediction, answered)
        torch.testing.assert_close(rows, answered.expand(3, -1, -1, -1))
    assert drawn_latents.shape == answered.shape


def test_draw_is_the_pipelines_own_picture(model: DiffusionFamily, stock: Any) -> None:
    for seed, prompt in zip(SEEDS, PROMPTS, strict=True):
        (alone,) = own(model, [prompt], [seed])
        assert np.array_equal(alone, drawn(stock, prompt, seed))


@pytest.mark.parametrize("adapter", ["none", "lora", "full"])
def test_guided_by_cfg_is_draw_bit_for_bit(model: DiffusionFamily, adapter: str) -> None:
    base = own(model, PROMPTS, SEEDS)
    tune(model, adapter)
    plain, by_cfg = own(model, PROMPTS, SEEDS), guided(model, ClassifierFreeGuidance(guidance_scale=3.0))
    assert all(map(np.array_equal, plain, by_cfg))
    assert any(map(np.array_equal, plain, base)) == (adapter == "none")


def tune(model: DiffusionFamily, adapter: str) -> None:
    """As a training leaves the model."""
    if adapter == "lora":
        LoRA(rank=4, alpha=8, target_modules=list(model.lora_targets)).inject(model)
        move_lora(model.denoiser)
    elif adapter == "full":
        model.pretrained_denoiser = FullFineTuning().inject(model)
        add_noise(model.denoiser)


@torch.no_grad()
def add_noise(module: Any) -> None:
    torch.manual_seed(1)
    for parameter in module.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_the_pretrained_pipeline_is_there_after_a_training(model: DiffusionFamily, stock: Any, adapter: str) -> None:
    tune(model, adapter)
    own_denoiser, fingerprint = model.network, model.fingerprint
    tuned = own(model, PROMPTS[:1], SEEDS[:1])[0]
    with model.pretrained_pipeline() as pipeline:
        assert np.array_equal(drawn(quiet(pipeline), PROMPTS[0], SEEDS[0]), drawn(stock, PROMPTS[0], SEEDS[0]))
        assert (model.fingerprint == fingerprint) == (adapter == "lora")  # a LoRA leaves the weights as they are
    assert model.network is own_denoiser
    assert np.array_equal(own(model, PROMPTS[:1], SEEDS[:1])[0], tuned)
    assert not np.array_equal(tuned, drawn(stock, PROMPTS[0], SEEDS[0]))


def test_the_tuned_model_is_back_after_an_exception(model: DiffusionFamily) -> None:
    tune(model, "lora")
    tuned = own(model, PROMPTS[:1], SEEDS[:1])[0]
    with pytest.raises(RuntimeError, match="in the middle"), model.pretrained_pipeline():
        raise RuntimeError("in the middle")
    assert np.array_equal(own(model, PROMPTS[:1], SEEDS[:1])[0], tuned)


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_is_saved_here_loads_in_a_stock_pipeline(
    model: DiffusionFamily, kind: Kind, folder: Path, stock: Any, tmp_path: Path, adapter: str
) -> None:
    base = drawn(stock, PROMPTS[0], SEEDS[0])
    tune(model, adapter)
    tuned = own(model, PROMPTS[:1], SEEDS[:1])[0]
    settings = LoRA(rank=4, alpha=8, target_modules=list(model.lora_targets)) if adapter == "lora" else FullFineTuning()
    saved = settings.save(model, tmp_path)
    if adapter == "lora":
        stock.load_lora_weights(saved)
    else:
        denoiser = getattr(stock, model.denoiser_name)
        setattr(stock, model.denoiser_name, type(denoiser).from_pretrained(saved))
    assert np.array_equal(drawn(stock, PROMPTS[0], SEEDS[0]), tuned) and not np.array_equal(tuned, base)

    again = kind.family(pretrained=str(folder), **SETTINGS)
    settings.load(again, tmp_path)
    assert np.array_equal(own(again, PROMPTS[:1], SEEDS[:1])[0], tuned)
    with again.pretrained_pipeline() as pipeline:
        assert np.array_equal(drawn(pipeline, PROMPTS[0], SEEDS[0]), base)


def test_learned_rows_load_in_a_stock_pipeline(model: DiffusionFamily, stock: Any, tmp_path: Path) -> None:
    token = LearnedToken(placeholder="<subject>", initializer="heart", num_vectors=2, lr=1e-2, others={})
    rows: Any = torch.nn.ModuleDict()
    for each in model.encoders:
        if each.learns_tokens:
            rows[each.name] = TokenRows(token, each.tokenizer, each.module, class_word="heart", seed=0)
    add_noise(rows)
    save_rows(token, rows, tmp_path)
    prompt = "a <subject> on a pink background"
    stock.load_textual_inversion(tmp_path / "learned_embeds.safetensors")
    found = drawn(stock, prompt, 3)
    assert close(own(model, [prompt], [3])[0], found)
    assert not np.array_equal(found, drawn(stock, prompt.replace("<subject>", "heart"), 3))
    assert len(model.token_ids("<subject>")) == 2


def test_a_trajectory_is_recorded_and_its_end_is_the_picture(model: DiffusionFamily) -> None:
    scheduler, expected = model.pipeline.scheduler, own(model, PROMPTS[:1], SEEDS[:1])[0]
    with model.record_trajectory() as recorded:
        found = own(model, PROMPTS[:1], SEEDS[:1])[0]
    assert model.pipeline.scheduler is scheduler
    assert np.array_equal(found, expected) and len(recorded.predicted) == 3
    timesteps = [timestep for timestep, _ in recorded.predicted]
    assert timesteps == sorted(timesteps, reverse=True)
    (end,) = model.decode(recorded.predicted[-1][1])
    assert close(np.asarray(end), expected)


def test_consistency_guides_a_full_fine_tuning_by_its_frozen_twin(model: DiffusionFamily) -> None:
    base = own(model, PROMPTS, SEEDS)
    tune(model, "full")
    away = ConsistencyGuidance(guidance_scale=3.0, consistency_scale=0.0, start=0.0, stop=1.0)
    assert all(map(close, guided(model, away), base))
    towards = ConsistencyGuidance(guidance_scale=3.0, consistency_scale=3.0, start=0.0, stop=1.0)
    assert not any(map(close, guided(model, towards), base))


@pytest.mark.parametrize("scale", [0.5, float("nan")])
def test_a_scale_that_leaves_guidance_out_is_refused(kind: Kind, folder: Path, scale: float) -> None:
    with pytest.raises(ValueError, match=r"model\.guidance_scale="):
        kind.family(pretrained=str(folder), **SETTINGS | {"guidance_scale": scale})


def test_a_side_that_the_latents_cannot_have_is_refused(kind: Kind, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.resolution=33 is no multiple of 4"):
        kind.family(pretrained=str(folder), **SETTINGS | {"resolution": 33})


def test_a_prediction_that_no_family_knows_is_refused(folder: Path, kind: Kind, tmp_path: Path) -> None:
    pipeline = copy.copy(kind.load(folder))
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, prediction_type="sample")
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="predicts 'sample': epsilon and v_prediction are supported"):
        kind.family(pretrained=str(tmp_path), **SETTINGS)


# ---- the only place

NAMES = re.compile(r"unet|UNet|text_encoder|transformer_blocks|prediction_type|epsilon|v_prediction|StableDiffusion")
ELSEWHERE = (
    "run.py", "tasks/*.py", "lightning_modules/*.py", "callbacks/**/*.py", "evaluation/**/*.py", "sampling/*.py",
    "models/*.py", "models/tokens/*.py", "metrics/**/*.py", "checks/*.py", "datamodules/**/*.py", "report/*.py",
)  # fmt: skip
OLD_NAMES = ROOT / "checks/moved.py"  # what 0.1.0 called its modules


def code_lines(path: Path) -> dict[int, str]:
    """Code by line number: without comments and docstrings, but with every other string."""
    lines: dict[int, str] = {}
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        layout = (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)
        is_docstring = token.type == tokenize.STRING and previous in layout[:4]
        if token.type not in layout and not is_docstring:
            lines[token.start[0]] = lines.get(token.start[0], "") + " " + token.string
        previous = token.type if token.type != tokenize.COMMENT else previous
    return lines


def named(path: Path) -> list[str]:
    lines = code_lines(path).items()
    return [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for number, line in lines if NAMES.search(line)]


def sources() -> list[Path]:
    return sorted({path for pattern in ELSEWHERE for path in ROOT.glob(pattern)} - {OLD_NAMES})


def test_nothing_but_a_family_names_an_architecture() -> None:
    assert all(list(ROOT.glob(pattern)) for pattern in ELSEWHERE)
    paths = sources()
    assert len(paths) > 100
    wrong = [line for path in paths for line in named(path)]
    assert not wrong, "\n".join(wrong)


def test_names_are_found_in_code_and_not_in_prose(tmp_path: Path) -> None:
    path = ROOT / "models/families/unet.py"
    assert any("unet" in line for line in named(path))
    source = tmp_path / "source.py"
    source.write_text('"""A UNet."""\n\nx = 1  # of the unet\n\n\ndef f():\n    """Of a UNet."""\n    return "unet"\n')
    assert [number for number, line in code_lines(source).items() if NAMES.search(line)] == [8]
