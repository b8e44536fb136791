"""The guider inside diffusers' own modular pipeline, on an SDXL of random weights."""

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler, StableDiffusionXLPipeline
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from lightning_modules.pretraining.tokenizer import build_tokenizer
from models.families.unet import UNetFamily
from models.family import Condition
from sampling.guidance import ConsistencyGuidance, ParallelRescaledGuidance
from sampling.guided_denoiser import GuidedDenoiser
from sampling.modular_guider import ParallelRescaledGuider
from tests.tiny import tiny_text_config, tiny_unet, tiny_vae

PROMPTS = ["a sks heart on a pink background", "a photo of a blue sks star"]
PRIORS = ["a heart on a pink background", "a photo of a blue star"]
SETTINGS = {"consistency_scale": 3.0, "rule": "constant", "kappa": 0.2}


@pytest.fixture(scope="module")
def sdxl():
    torch.manual_seed(0)
    tokenizer = build_tokenizer(max_length=32)
    text = tiny_text_config(tokenizer, num_hidden_layers=2, projection_dim=32)
    unet = tiny_unet(
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=32 + 6 * 8,
        transformer_layers_per_block=(1, 1),
    )
    unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"]))
    for name, parameter in unet.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(text),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet.eval(),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call(pipeline, **arguments):
    return pipeline(
        num_inference_steps=4,
        height=32,
        width=32,
        output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
        **arguments,
    )


def modular(sdxl, guider):
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    pipeline = StableDiffusionXLAutoBlocks().init_pipeline()
    pipeline.update_components(guider=guider, **{name: getattr(sdxl, name) for name in names})
    pipeline.set_progress_bar_config(disable=True)
    states, _, pooled, _ = sdxl.encode_prompt(PRIORS, do_classifier_free_guidance=False)
    guider.set_prior(states, pooled)
    return call(pipeline, prompt=PROMPTS, output="images")


class TinySDXL(UNetFamily):
    """What guided drawing asks of a family, of a pipeline that is there already."""

    def __init__(self, pipeline):
        self.pipeline, self.pretrained_denoiser = pipeline, pipeline.unet


TinySDXL.__abstractmethods__ = frozenset()  # how it encodes prompts and draws is not asked


def condition(states, pooled):
    return Condition({"encoder_hidden_states": states, "text_embeds": pooled})


def ours(sdxl, guidance):
    """The project's own sampling, in the pipeline that is not modular."""
    states, empty, pooled, empty_pooled = sdxl.encode_prompt(PROMPTS, do_classifier_free_guidance=True)
    prior, _, prior_pooled, _ = sdxl.encode_prompt(PRIORS, do_classifier_free_guidance=False)
    rows = ConsistencyGuidance.rows
    given = (condition(empty, empty_pooled), condition(prior, prior_pooled), condition(states, pooled))
    model = TinySDXL(sdxl)
    denoiser = GuidedDenoiser(model, guidance, conditions=dict(zip(rows, given, strict=True)))
    with model.drawing_with(denoiser), denoiser.open():
        return call(sdxl, prompt_embeds=states, pooled_prompt_embeds=pooled, guidance_scale=1.0).images


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' Heun
@pytest.mark.parametrize("scheduler", [DDIMScheduler, HeunDiscreteScheduler])
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_it_draws_what_we_draw(sdxl, scale, scheduler, monkeypatch):
    monkeypatch.setattr(sdxl, "scheduler", scheduler.from_config(sdxl.scheduler.config))
    drawn = modular(sdxl, ParallelRescaledGuider(guidance_scale=5.0, scale=scale, **SETTINGS))
    guidance = ParallelRescaledGuidance(guidance_scale=5.0, scale=scale, start=0.0, stop=1.0, **SETTINGS)
    assert np.abs(drawn - ours(sdxl, guidance)).max() < 1e-5


def test_at_one_it_is_plain_consistency_guidance(sdxl):
    drawn = modular(sdxl, ParallelRescaledGuider(guidance_scale=5.0, scale=1.0, **SETTINGS))
    plain = ours(sdxl, ConsistencyGuidance(guidance_scale=5.0, consistency_scale=3.0, start=0.0, stop=1.0))
    assert np.abs(drawn - plain).max() < 1e-5
    rescaled = modular(sdxl, ParallelRescaledGuider(guidance_scale=5.0, scale=0.0, **SETTINGS))
    assert np.abs(drawn - rescaled).max() > 1e-3


def test_the_documented_use_with_weights_from_a_folder(sdxl, tmp_path):
    sdxl.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(sdxl.unet),
        unet_lora_adapter_metadata=sdxl.unet.peft_config["default"].to_dict(),
    )
    untuned = copy.deepcopy(sdxl.unet)
    untuned.delete_adapters("default")
    plain = StableDiffusionXLPipeline(**sdxl.components | {"unet": untuned}, add_watermarker=False)
    guider = ParallelRescaledGuider(guidance_scale=5.0, scale=0.5, **SETTINGS)
    states, _, pooled, _ = plain.encode_prompt(PRIORS, do_classifier_free_guidance=False)
    guider.set_prior(states, pooled)
    pipeline = StableDiffusionXLAutoBlocks().init_pipeline()
    pipeline.update_components(guider=guider, **plain.components)
    pipeline.load_lora_weights(tmp_path)
    drawn = call(pipeline, prompt=PROMPTS, output="images")
    expected = modular(sdxl, ParallelRescaledGuider(guidance_scale=5.0, scale=0.5, **SETTINGS))
    assert np.abs(drawn - expected).max() < 1e-5


def test_adapters_are_on_again_after_an_exception(sdxl):
    guider = ParallelRescaledGuider(guidance_scale=5.0, scale=0.0, **SETTINGS)
    layers = [
        module for module in sdxl.unet.modules() if hasattr(module, "disable_adapters") and module is not sdxl.unet
    ]
    off = []
    trains = [parameter.requires_grad for parameter in sdxl.unet.parameters()]

    def fail(module, args):
        off.append(layers[0].disable_adapters)
        if len(off) == 5:  # a prediction of the pretrained model, in the second step
            raise RuntimeError("in the middle")

    hook = sdxl.unet.conv_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        modular(sdxl, guider)
    hook.remove()
    assert off == [False, True, True, False, True]
    assert not any(layer.disable_adapters for layer in layers)
    assert [parameter.requires_grad for parameter in sdxl.unet.parameters()] == trains
    assert len(sdxl.unet._forward_hooks) == 0


def test_it_can_be_saved_as_every_guider(tmp_path):
    guider = ParallelRescaledGuider(guidance_scale=5.0, scale=0.25, start=0.2, **SETTINGS)
    guider.save_pretrained(tmp_path)
    loaded = ParallelRescaledGuider.from_pretrained(tmp_path)
    assert (loaded.config.scale, loaded.config.start, loaded.config.guidance_scale) == (0.25, 0.2, 5.0)


def test_a_denoiser_without_adapters_is_refused():
    guider = ParallelRescaledGuider(guidance_scale=5.0, scale=0.0, **SETTINGS)
    model = torch.nn.Linear(2, 2)
    guider.prepare_models(model)
    with pytest.raises(ValueError, match="Linear has no active adapter"):
        guider.prepare_models(model)


def test_switched_off_it_asks_for_one_prediction():
    guider = ParallelRescaledGuider(guidance_scale=5.0, scale=0.0, **SETTINGS)
    assert guider.num_conditions == 3
    guider.disable()
    assert guider.num_conditions == 1
    prediction = torch.randn(1, 4, 2, 2)
    assert guider.forward(student_conditional=prediction).pred is prediction
