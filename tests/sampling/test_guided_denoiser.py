"""A pipeline that guides itself: pictures, calls, adapters afterwards, and the command line."""

import copy
import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from peft import LoraConfig

import run
from datamodules.subject import PromptPair
from models.families.sd import StableDiffusion
from models.family import Condition
from sampling.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ConsistencyGuidance,
    ParallelRescaledGuidance,
)
from sampling.sampler import sample, sample_guided
from tests.runs import compose, fit, train

ROWS = ConsistencyGuidance.rows
W = 4.0


PAIRS = [
    PromptPair(instance="a photo of a sks heart", prior="a photo of a heart"),
    PromptPair(instance="a sks heart on a pink background", prior="a heart on a pink background"),
    PromptPair(instance="a blue sks star", prior="a blue star"),
]


def load(folder, **settings):
    defaults = {
        "resolution": 32,
        "dtype": "float32",
        "gradient_checkpointing": False,
        "compile": False,
        "inference_batch_size": 2,
        "guidance_scale": 4.0,
        "consistency_scale": 1.0,
        "num_inference_steps": 4,
        "loss_gap_scale": 16.0,
        "indicator_augmentation": False,
    }
    return StableDiffusion(pretrained=str(folder), **(defaults | settings))


def add_lora(model, name="default", seed=0):
    torch.manual_seed(seed)
    is_second = hasattr(model.denoiser, "peft_config")
    with pytest.warns(UserWarning, match="multiple adapters") if is_second else nullcontext():
        model.denoiser.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"]), adapter_name=name)
    for key, parameter in model.denoiser.named_parameters():
        if f".{name}." in key:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def draw(model, guidance, pairs=PAIRS):
    return sample_guided(model, pairs, guidance, seeds=list(range(len(pairs))), description="")


def by_the_pipeline(model, prompts):
    return sample(model, prompts, seeds=list(range(len(prompts))), guidance_scale=W, description="")


def same_pictures(one, other):
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def scales(model):
    return [
        (
            name,
            dict(module.scaling),
            tuple(module.active_adapters),
            module.disable_adapters,
            len(module._forward_pre_hooks),
        )
        for name, module in model.denoiser.named_modules()
        if hasattr(module, "scaling")
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_classifier_free_guidance_is_diffusers_own(tiny_sd, prediction_type, scheduler):
    model = add_lora(load(tiny_sd))
    config = dict(model.pipeline.scheduler.config) | {"prediction_type": prediction_type}
    model.pipeline.scheduler = scheduler.from_config(config)
    drawn, told = draw(model, ClassifierFreeGuidance(guidance_scale=W))
    plain = by_the_pipeline(model, [pair.instance for pair in PAIRS])
    assert same_pictures(drawn, plain)
    assert told == {}


def test_mixed_batches_guide_as_switched_adapters_do(tiny_sd):
    """The same pictures by hand: diffusers' own loop with the adapters switched off and on."""
    model = add_lora(load(tiny_sd))
    guidance = ParallelRescaledGuidance(
        guidance_scale=W, rule="constant", scale=0.5, kappa=0.2, consistency_scale=3.0, start=0.0, stop=1.0
    )
    mixed, told = draw(model, guidance)
    assert told["effective_cfg_scale"].shape == (4, 3)
    assert told["cosine"].abs().max() <= 1.001
    by_hand = [by_switching(model, guidance, pair, seed) for seed, pair in enumerate(PAIRS)]
    for one, other in zip(mixed, by_hand, strict=True):
        difference = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
        assert difference.max() <= 1  # rows of another batch size round otherwise
    base = by_the_pipeline(load(tiny_sd), [pair.prior for pair in PAIRS])
    assert not same_pictures(mixed, base)


@torch.no_grad()
def by_switching(model, guidance, pair, seed):
    pipeline, unet = model.pipeline, model.denoiser
    empty, prior, instance = (
        pipeline.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)[0]
        for text in ("", pair.prior, pair.instance)
    )
    pipeline.scheduler.set_timesteps(4)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    latents = latents * pipeline.scheduler.init_noise_sigma
    for t in pipeline.scheduler.timesteps:
        scaled = pipeline.scheduler.scale_model_input(latents, t)
        unet.disable_adapters()
        rows = [unet(scaled, t, states).sample for states in (empty, prior)]
        unet.enable_adapters()
        rows.append(unet(scaled, t, instance).sample)
        prediction = guidance(dict(zip(ROWS, rows, strict=True)), progress=0.0).prediction
        latents = pipeline.scheduler.step(prediction, t, latents).prev_sample
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return pipeline.image_processor.postprocess(decoded)[0]


def test_without_consistency_the_pretrained_model_draws(tiny_sd):
    model = add_lora(load(tiny_sd))
    drawn, _ = draw(model, ConsistencyGuidance(guidance_scale=W, consistency_scale=0.0, start=0.0, stop=1.0))
    base = by_the_pipeline(load(tiny_sd), [pair.prior for pair in PAIRS])
    for one, other in zip(drawn, base, strict=True):
        assert torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs().max() <= 1


def test_one_call_a_step_with_one_adapter_and_two_with_two(tiny_sd):
    model = add_lora(load(tiny_sd))
    rows = []
    model.denoiser.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    guidance = ConsistencyGuidance(guidance_scale=W, consistency_scale=3.0, start=0.0, stop=1.0)
    draw(model, guidance, PAIRS[:2])
    assert rows == [6] * 4
    add_lora(model, "style", seed=1).pipeline.set_adapters(["default", "style"], [1.0, 0.5])
    rows.clear()
    draw(model, guidance, PAIRS[:2])
    assert rows == [4, 2] * 4


def test_a_denoiser_compiled_for_training_draws_as_it_is(tiny_sd):
    """A compiled one would leave the hooks of a mixed batch out, once it has run without them at that size."""
    guidance = ConsistencyGuidance(guidance_scale=W, consistency_scale=3.0, start=0.0, stop=1.0)
    expected, _ = draw(add_lora(load(tiny_sd)), guidance, PAIRS[:2])
    model = add_lora(load(tiny_sd))
    calls = []
    model.denoiser.compile(backend=lambda module, inputs: calls.append(module) or module.forward)
    model.denoiser.eval()
    condition = Condition({"encoder_hidden_states": torch.zeros(6, 32, 32)})
    asked = dict.fromkeys(("timestep_cond", "cross_attention_kwargs", "added_cond_kwargs"))
    with torch.no_grad():  # as the pipeline asks, for so many rows as guidance does
        model.denoise_rows(model.denoiser, condition, (torch.zeros(2, 4, 8, 8), torch.tensor(1)), asked)
    assert calls
    drawn, _ = draw(model, guidance, PAIRS[:2])
    assert [each.tobytes() for each in drawn] == [each.tobytes() for each in expected]


@pytest.mark.parametrize("names", [["default"], ["default", "style"]])
def test_adapters_are_as_before_also_after_an_exception(tiny_sd, names, monkeypatch):
    model = load(tiny_sd)
    for number, name in enumerate(names):
        add_lora(model, name, seed=number)
    model.pipeline.set_adapters(names, [0.7] * len(names))
    weights, before, unet = copy.deepcopy(model.denoiser.state_dict()), scales(model), model.pipeline.unet
    trains = [parameter.requires_grad for parameter in model.denoiser.requires_grad_(False).parameters()]
    guidance = ConsistencyGuidance(guidance_scale=W, consistency_scale=3.0, start=0.0, stop=1.0)
    first, _ = draw(model, guidance)

    def unchanged():
        state = model.denoiser.state_dict()
        equal = all(torch.equal(state[key], value) for key, value in weights.items())
        same_training = [p.requires_grad for p in model.denoiser.parameters()] == trains
        return equal and same_training and scales(model) == before and model.pipeline.unet is unet

    assert unchanged()
    calls = []

    def fail(module, args):
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("in the middle")

    hook = model.denoiser.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        draw(model, guidance)
    hook.remove()
    assert unchanged()
    again, _ = draw(model, guidance)
    assert same_pictures(first, again)


def test_a_fully_tuned_unet_is_guided_by_its_pretrained_one(tiny_sd):
    model = load(tiny_sd)
    model.pipeline.unet = copy.deepcopy(model.denoiser)
    with torch.no_grad():
        for parameter in model.pipeline.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    guidance = ConsistencyGuidance(
        guidance_scale=W, consistency_scale=4.0, start=0.0, stop=1.0
    )  # = w: the student's condition
    drawn, _ = draw(model, guidance)
    tuned, _ = draw(model, ClassifierFreeGuidance(guidance_scale=W))
    assert not same_pictures(drawn, tuned)  # the unconditional row is the pretrained model's


def test_nothing_tuned_is_refused(tiny_sd):
    same = [PromptPair(instance="a heart", prior="a heart")]
    with pytest.raises(ValueError, match="nothing is tuned here: guidance=cfg"):
        draw(load(tiny_sd), ConsistencyGuidance(guidance_scale=W, consistency_scale=3.0, start=0.0, stop=1.0), same)


def test_apg_is_diffusers_guider(tiny_sd):
    """At eta 1, without threshold and momentum, it is classifier-free guidance."""
    model = add_lora(load(tiny_sd))
    plain, _ = draw(model, ClassifierFreeGuidance(guidance_scale=W))
    neutral, _ = draw(model, AdaptiveProjectedGuidance(guidance_scale=W, eta=1.0, norm_threshold=0.0, momentum=0.0))
    projected, _ = draw(model, AdaptiveProjectedGuidance(guidance_scale=W, eta=0.0, norm_threshold=1.0, momentum=-0.5))
    for one, other in zip(plain, neutral, strict=True):
        assert torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs().max() <= 1
    assert not same_pictures(plain, projected)
    assert isinstance(model.pipeline, StableDiffusionPipeline)


# By the command line.


def test_a_run_is_judged_and_sampled_with_any_guidance(monkeypatch, tiny_sd, tmp_path):
    run_dir = fit(tiny_sd, tmp_path / "run", "experiment=dco_rescale", "optimizer.lr=5e-2", "guidance.scale=0")
    told = json.loads((run_dir / "samples/guidance.json").read_text())
    assert np.asarray(told["effective_cfg_scale"]) == pytest.approx(4.0)  # the parallel part is dropped
    assert "Guidance" in (run_dir / "report.html").read_text()
    record = json.loads((run_dir / "metrics.json").read_text())
    assert record["evaluation"]["guidance"]["consistency_scale"] == 1.0

    command = ["task=sample", f"run='{run_dir}'", "prompts=['a sks heart','a heart']"]
    pictures = {}
    for guidance in ("parallel_rescaled", "consistency", "cfg", "apg"):
        out_dir = tmp_path / guidance
        settings = ["guidance.scale=0", "guidance.consistency_scale=1"] if guidance == "parallel_rescaled" else []
        run.sample(compose(out_dir, *command, f"guidance={guidance}", *settings), out_dir)
        pictures[guidance] = (out_dir / "00-0.png").read_bytes()
    assert len(set(pictures.values())) == 4
    out_dir = tmp_path / "own"  # the run's own guidance, where none is given
    run.sample(compose(out_dir, *command), out_dir)
    assert (out_dir / "00-0.png").read_bytes() == pictures["parallel_rescaled"]
    again = tmp_path / "again"
    run.evaluate(compose(again, "task=evaluate", f"run='{run_dir}'", "evaluation.max_prompts=1", "guidance=cfg"), again)
    assert not list(again.glob("samples/guidance*"))


def test_adapters_of_several_runs_are_merged(monkeypatch, tiny_sd, tmp_path):
    settings = ["experiment=dreambooth", "optimizer.lr=5e-2"]
    one = train(monkeypatch, tiny_sd, tmp_path / "one", *settings)
    two = train(monkeypatch, tiny_sd, tmp_path / "two", *settings, "seed=1", "adapter.rank=4")

    def drawn(name, *overrides):
        out_dir = tmp_path / name
        run.sample(compose(out_dir, "task=sample", "prompts=['a sks heart']", *overrides), out_dir)
        return (out_dir / "00-0.png").read_bytes()

    both = f"adapters=['{one}','{two}']"
    alone, merged = drawn("alone", f"run='{one}'"), drawn("merged", both, "weights=[1,1]")
    assert alone != merged
    assert drawn("first", both, "weights=[1,0]") == alone
    told = json.loads((tmp_path / "merged/samples.json").read_text())["runs"]
    assert [(each["run"], each["weight"]) for each in told] == [(str(one), 1), (str(two), 1)]
    assert drawn("guided", both, "weights=[1,1]", "guidance=consistency") not in (alone, merged)
    with pytest.raises(ValueError, match=r"weights=\[1\] for 2 different adapters"):
        drawn("few", both, "weights=[1]")
    with pytest.raises(ValueError, match=r"weights=\[0\.5\] belong to adapters"):
        drawn("weight", f"run='{one}'", "weights=[0.5]")
    with pytest.raises(ValueError, match="is no list"):
        drawn("text", f"adapters='{one}'", "weights=[1]")
    with pytest.raises(ValueError, match="name every run in adapters"):
        drawn("beside", both, "weights=[1,1]", f"run='{one}'")
    full = train(monkeypatch, tiny_sd, tmp_path / "full", *settings, "adapter=full")
    with pytest.raises(FileNotFoundError, match="has no adapter/ to merge"):
        drawn("full_merged", f"adapters=['{one}','{full}']", "weights=[1,1]")
