"""Guidance: the identities of the maths, and a pipeline that guides itself by it."""

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
from torch.testing import assert_close

import run
from datamodules.subject import PromptPair, without_identifier
from lightning_modules.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ConsistencyGuidance,
    ParallelRescaledGuidance,
    cosine,
    dot,
    parallel_coefficient,
    parallel_scale,
)
from lightning_modules.sampling import sample, sample_guided
from lightning_modules.stable_diffusion import StableDiffusion
from tests.runs import compose, fit, train

W, W_CON = 7.5, 3.0
ROWS = ConsistencyGuidance.rows


def predictions(dtype=torch.float64, batch=3):
    generator = torch.Generator().manual_seed(0)
    return {row: torch.randn(batch, 4, 5, 6, generator=generator, dtype=dtype) for row in ROWS}


def rescaled(rule="constant", scale=0.0, kappa=0.2, consistency_scale=W_CON, start=0.0, stop=1.0):
    return ParallelRescaledGuidance(
        rule=rule, scale=scale, kappa=kappa, consistency_scale=consistency_scale, start=start, stop=stop
    )


def guided(guidance, given, w=W, progress=0.0):
    return guidance(given, guidance_scale=w, progress=progress).prediction


def test_a_full_parallel_part_is_consistency_guidance():
    given = predictions()
    unconditional, conditional, student = given.values()
    expected = unconditional + W * (conditional - unconditional) + W_CON * (student - conditional)
    plain = ConsistencyGuidance(consistency_scale=W_CON, start=0.0, stop=1.0)
    assert_close(guided(plain, given), expected)
    assert_close(guided(rescaled(scale=1.0), given), expected)


@pytest.mark.parametrize("rule", ["constant", "cfg_clamp", "negative_only"])
def test_without_consistency_it_is_cfg_of_the_pretrained_model(rule):
    given = predictions()
    unconditional, conditional, _ = given.values()
    assert_close(
        guided(rescaled(rule, consistency_scale=0.0), given), unconditional + W * (conditional - unconditional)
    )


def test_equal_scales_are_cfg_with_the_students_condition():
    given = predictions()
    unconditional, _, student = given.values()
    assert_close(guided(rescaled(scale=1.0, consistency_scale=W), given), unconditional + W * (student - unconditional))


def test_without_the_parallel_part_what_is_added_is_orthogonal_to_cfg():
    given = predictions()
    unconditional, conditional, _ = given.values()
    cfg = conditional - unconditional
    added = guided(rescaled(scale=0.0), given) - unconditional - W * cfg
    assert_close(dot(added, cfg), torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)
    assert dot(added, added).min() > 1


def test_the_parallel_part_only_moves_the_effective_cfg_scale():
    given = predictions()
    unconditional, conditional, student = given.values()
    cfg, consistency = conditional - unconditional, student - conditional
    a = parallel_coefficient(consistency, cfg)
    told = rescaled(scale=0.25)(given, guidance_scale=W, progress=0.0)
    assert_close(told.diagnostics["effective_cfg_scale"], W + 0.25 * W_CON * a)
    orthogonal = consistency - a.view(-1, 1, 1, 1) * cfg
    expected = unconditional + (W + 0.25 * W_CON * a).view(-1, 1, 1, 1) * cfg + W_CON * orthogonal
    assert_close(told.prediction, expected)


def test_a_student_that_ignores_the_prompt_lowers_the_effective_scale_to_four_and_a_half():
    given = predictions()
    given[ROWS[2]] = given[ROWS[0]].clone()
    told = ConsistencyGuidance(consistency_scale=W_CON, start=0.0, stop=1.0)(given, guidance_scale=W, progress=0.0)
    assert_close(told.diagnostics["effective_cfg_scale"], torch.full((3,), 4.5, dtype=torch.float64))
    assert_close(told.diagnostics["cosine"], torch.full((3,), -1.0, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["constant", "cfg_clamp", "negative_only"])
def test_noise_and_v_and_clean_latent_are_guided_alike(rule):
    given = predictions()
    alpha, sigma = 0.6, 0.8
    noisy = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def clean(noise):
        return (noisy - sigma * noise) / alpha

    def velocity(noise):
        return alpha * noise - sigma * clean(noise)

    guidance = rescaled(rule, scale=0.3)
    noise = guided(guidance, given)
    assert_close(guided(guidance, {row: clean(each) for row, each in given.items()}), clean(noise))
    assert_close(guided(guidance, {row: velocity(each) for row, each in given.items()}), velocity(noise))


def test_rows_do_not_depend_on_one_another():
    given = predictions()
    guidance = rescaled("cfg_clamp", kappa=0.1)
    alone = [guided(guidance, {row: each[i : i + 1] for row, each in given.items()}) for i in range(3)]
    assert_close(torch.cat(alone), guided(guidance, given))


def test_where_the_prompt_changes_nothing_the_coefficient_is_zero():
    direction = torch.ones(2, 3)
    assert parallel_coefficient(direction, torch.zeros(2, 3)).tolist() == [0, 0]
    assert cosine(direction, torch.zeros(2, 3)).tolist() == [0, 0]
    assert_close(parallel_coefficient(direction, 2 * direction), torch.tensor([0.5, 0.5]))


def test_rules_by_hand():
    a = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0])
    settings = {"scale": 0.25, "kappa": 0.2, "guidance_scale": 5.0, "consistency_scale": 2.0}
    assert parallel_scale(a, rule="constant", **settings).tolist() == [0.25] * 5
    assert parallel_scale(a, rule="negative_only", **settings).tolist() == [0.25, 0.25, 1, 1, 1]
    # 5 (1 ± 0.2) allows the scale to move by 1: |2 a| is 4, so a quarter of it.
    assert parallel_scale(a, rule="cfg_clamp", **settings).tolist() == [0.25, 1, 1, 1, 0.25]
    settings |= {"guidance_scale": 0.0}
    assert parallel_scale(a, rule="cfg_clamp", **settings).tolist() == [0, 0, 1, 0, 0]


def test_consistency_counts_between_start_and_stop():
    given = predictions()
    unconditional, conditional, _ = given.values()
    base = unconditional + W * (conditional - unconditional)
    guidance = rescaled(start=0.25, stop=0.75)
    assert_close(guided(guidance, given, progress=0.2), base)
    assert_close(guided(guidance, given, progress=0.75), base)
    assert not torch.allclose(guided(guidance, given, progress=0.25), base)


def test_half_precision_is_computed_in_float32():
    given = predictions()
    exact = guided(rescaled(scale=0.5), {row: each.bfloat16().double() for row, each in given.items()})
    half = guided(rescaled(scale=0.5), {row: each.bfloat16() for row, each in given.items()})
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.float().bfloat16())


def test_apg_at_scale_one_is_the_conditional_prediction():
    given = dict(zip(AdaptiveProjectedGuidance.rows, predictions().values(), strict=False))
    guidance = AdaptiveProjectedGuidance(eta=0.0, norm_threshold=0.0, momentum=0.0)
    guidance.begin()
    assert_close(guided(guidance, given, w=1.0), given["student_conditional"])


def test_to_the_end_means_to_the_end():
    given = predictions()  # second-order schedulers have more steps than were asked for
    assert_close(guided(rescaled(), given, progress=1.5), guided(rescaled(), given))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"guidance\.kappa=nan"):
        rescaled(kappa=float("nan"))
    with pytest.raises(ValueError, match="norm_threshold=-1"):
        AdaptiveProjectedGuidance(eta=0.0, norm_threshold=-1, momentum=0.0)
    with pytest.raises(ValueError, match=r"guidance\.rule='clamp': choose constant, cfg_clamp or negative_only"):
        rescaled("clamp")
    with pytest.raises(ValueError, match=r"guidance\.scale=-0\.5"):
        rescaled(scale=-0.5)
    with pytest.raises(ValueError, match=r"guidance\.kappa=-1"):
        rescaled(kappa=-1)
    with pytest.raises(ValueError, match=r"guidance\.start=0\.5 guidance\.stop=0\.5"):
        rescaled(start=0.5, stop=0.5)
    with pytest.raises(ValueError, match=r"guidance\.consistency_scale=nan"):
        rescaled(consistency_scale=float("nan"))


def test_a_prompt_without_the_identifier_is_its_own_prior():
    assert without_identifier("a sks heart on pink", "sks", replacement="") == "a heart on pink"
    assert without_identifier("two hearts", "sks", replacement="") == "two hearts"


# With a pipeline.

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
        "num_inference_steps": 4,
        "indicator_scale": 16.0,
    }
    return StableDiffusion(pretrained=str(folder), **(defaults | settings))


def add_lora(model, name="default", seed=0):
    torch.manual_seed(seed)
    is_second = hasattr(model.unet, "peft_config")
    with pytest.warns(UserWarning, match="multiple adapters") if is_second else nullcontext():
        model.unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"]), adapter_name=name)
    for key, parameter in model.unet.named_parameters():
        if f".{name}." in key:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def draw(model, guidance, pairs=PAIRS):
    return sample_guided(model, pairs, guidance, seeds=list(range(len(pairs))), description="")


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
        for name, module in model.unet.named_modules()
        if hasattr(module, "scaling")
    ]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Euler
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_classifier_free_guidance_is_diffusers_own(tiny_sd, prediction_type, scheduler):
    model = add_lora(load(tiny_sd))
    config = dict(model.pipeline.scheduler.config) | {"prediction_type": prediction_type}
    model.pipeline.scheduler = scheduler.from_config(config)
    drawn, told = draw(model, ClassifierFreeGuidance())
    plain = sample(
        model.pipeline, [pair.instance for pair in PAIRS], seeds=[0, 1, 2], guidance_scale=4.0,
        num_inference_steps=4, batch_size=2, resolution=32, description="",
    )  # fmt: skip
    assert same_pictures(drawn, plain)
    assert told == {}


def test_mixed_batches_guide_as_switched_adapters_do(tiny_sd):
    """The same pictures by hand: diffusers' own loop with the adapters switched off and on."""
    model = add_lora(load(tiny_sd))
    guidance = rescaled(scale=0.5)
    mixed, told = draw(model, guidance)
    assert told["effective_cfg_scale"].shape == (4, 3)
    assert told["cosine"].abs().max() <= 1.001
    by_hand = [by_switching(model, guidance, pair, seed) for seed, pair in enumerate(PAIRS)]
    for one, other in zip(mixed, by_hand, strict=True):
        difference = torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs()
        assert difference.max() <= 1  # rows of another batch size round otherwise
    base = sample(
        load(tiny_sd).pipeline, [pair.prior for pair in PAIRS], seeds=[0, 1, 2], guidance_scale=4.0,
        num_inference_steps=4, batch_size=2, resolution=32, description="",
    )  # fmt: skip
    assert not same_pictures(mixed, base)


@torch.no_grad()
def by_switching(model, guidance, pair, seed):
    pipeline, unet = model.pipeline, model.unet
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
        prediction = guidance(dict(zip(ROWS, rows, strict=True)), guidance_scale=4.0, progress=0.0).prediction
        latents = pipeline.scheduler.step(prediction, t, latents).prev_sample
    decoded = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
    return pipeline.image_processor.postprocess(decoded)[0]


def test_without_consistency_the_pretrained_model_draws(tiny_sd):
    model = add_lora(load(tiny_sd))
    drawn, _ = draw(model, ConsistencyGuidance(consistency_scale=0.0, start=0.0, stop=1.0))
    base = sample(
        load(tiny_sd).pipeline, [pair.prior for pair in PAIRS], seeds=[0, 1, 2], guidance_scale=4.0,
        num_inference_steps=4, batch_size=2, resolution=32, description="",
    )  # fmt: skip
    for one, other in zip(drawn, base, strict=True):
        assert torch.tensor(list(one.tobytes())).sub(torch.tensor(list(other.tobytes()))).abs().max() <= 1


def test_one_call_a_step_with_one_adapter_and_two_with_two(tiny_sd):
    model = add_lora(load(tiny_sd))
    rows = []
    model.unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    guidance = ConsistencyGuidance(consistency_scale=3.0, start=0.0, stop=1.0)
    draw(model, guidance, PAIRS[:2])
    assert rows == [6] * 4
    add_lora(model, "style", seed=1).pipeline.set_adapters(["default", "style"], [1.0, 0.5])
    rows.clear()
    draw(model, guidance, PAIRS[:2])
    assert rows == [4, 2] * 4


@pytest.mark.parametrize("names", [["default"], ["default", "style"]])
def test_adapters_are_as_before_also_after_an_exception(tiny_sd, names, monkeypatch):
    model = load(tiny_sd)
    for number, name in enumerate(names):
        add_lora(model, name, seed=number)
    model.pipeline.set_adapters(names, [0.7] * len(names))
    weights, before, unet = copy.deepcopy(model.unet.state_dict()), scales(model), model.pipeline.unet
    trains = [parameter.requires_grad for parameter in model.unet.requires_grad_(False).parameters()]
    guidance = ConsistencyGuidance(consistency_scale=3.0, start=0.0, stop=1.0)
    first, _ = draw(model, guidance)

    def unchanged():
        state = model.unet.state_dict()
        equal = all(torch.equal(state[key], value) for key, value in weights.items())
        same_training = [p.requires_grad for p in model.unet.parameters()] == trains
        return equal and same_training and scales(model) == before and model.pipeline.unet is unet

    assert unchanged()
    calls = []

    def fail(module, args):
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("in the middle")

    hook = model.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        draw(model, guidance)
    hook.remove()
    assert unchanged()
    again, _ = draw(model, guidance)
    assert same_pictures(first, again)


def test_a_fully_tuned_unet_is_guided_by_its_pretrained_one(tiny_sd):
    model = load(tiny_sd)
    model.pipeline.unet = copy.deepcopy(model.unet)
    with torch.no_grad():
        for parameter in model.pipeline.unet.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    guidance = ConsistencyGuidance(consistency_scale=4.0, start=0.0, stop=1.0)  # = w: the student's condition
    drawn, _ = draw(model, guidance)
    tuned, _ = draw(model, ClassifierFreeGuidance())
    assert not same_pictures(drawn, tuned)  # the unconditional row is the pretrained model's


def test_nothing_tuned_is_refused(tiny_sd):
    same = [PromptPair(instance="a heart", prior="a heart")]
    with pytest.raises(ValueError, match="nothing is tuned here: guidance=cfg"):
        draw(load(tiny_sd), ConsistencyGuidance(consistency_scale=3.0, start=0.0, stop=1.0), same)


def test_apg_is_diffusers_guider(tiny_sd):
    """At eta 1, without threshold and momentum, it is classifier-free guidance."""
    model = add_lora(load(tiny_sd))
    plain, _ = draw(model, ClassifierFreeGuidance())
    neutral, _ = draw(model, AdaptiveProjectedGuidance(eta=1.0, norm_threshold=0.0, momentum=0.0))
    projected, _ = draw(model, AdaptiveProjectedGuidance(eta=0.0, norm_threshold=1.0, momentum=-0.5))
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
    assert not (again / "samples/guidance.json").exists()


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


def test_dco_apt_scales_apts_weights(tmp_path):
    cfg = compose(tmp_path, "experiment=dco_apt", "regularizer.direct_consistency.beta=100")
    assert cfg.regularizer.representation_stabilization.weight == pytest.approx(0.03 * 50)
    assert cfg.regularizer.attention_alignment.weight == pytest.approx(0.1 * 50)
