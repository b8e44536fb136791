"""Plain diffusers draws with a finished run's adapter what `run.py task=sample` draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from hydra.utils import get_class
from numpy.typing import NDArray
from PIL import Image

import models.adapters
import run
from checks.moved import moved
from tests.runs import compose, fit_vit, train

PROMPT, SEED, STEPS, GUIDANCE = "a photo of a sks heart on a pink background", 5, 4, 3.0


def array(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture) / 255


def draw(pipeline: StableDiffusionPipeline) -> NDArray[np.float64]:
    """What anyone would write with diffusers alone."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    picture = pipeline(
        PROMPT, generator=generator, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=32, width=32
    ).images[0]
    return array(picture)


def plain_pipeline(tiny_sd: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None, requires_safety_checker=False)


def sampled(run_dir: Path, out_dir: Path) -> NDArray[np.float64]:
    """`python run.py task=sample run=<run_dir> prompts=[…]`."""
    cfg = compose(
        out_dir, "task=sample", f"run='{run_dir}'", f"prompts=['{PROMPT}']",
        f"evaluation.seed={SEED}", "evaluation.images_per_prompt=1",
    )  # fmt: skip
    run.sample(cfg, out_dir)
    return array(Image.open(out_dir / "00-0.png"))


@pytest.mark.parametrize(
    ("experiment", "adapter"),
    [
        ("dreambooth", ["adapter.rank=8"]),
        ("dreambooth", ["adapter.rank=8", "adapter.alpha=4"]),
        ("apt_dreambooth", ["adapter.rank=4", "adapter.alpha=16", "adapter.target_modules=[to_q,to_v]"]),
    ],
)
def test_plain_diffusers_draws_the_same_picture(monkeypatch, tiny_sd, tmp_path, experiment, adapter):
    run_dir = train(
        monkeypatch,
        tiny_sd,
        tmp_path / "run",
        f"experiment={experiment}",
        *adapter,
        "optimizer.lr=5e-2",
        f"model.num_inference_steps={STEPS}",
        f"model.guidance_scale={GUIDANCE}",
    )
    pipeline = plain_pipeline(tiny_sd)
    base = draw(pipeline)
    pipeline.load_lora_weights(run_dir / "adapter")
    tuned = draw(pipeline)
    from_run = sampled(run_dir, tmp_path / "sampled")
    assert np.abs(tuned - from_run).max() < 1e-3
    assert np.abs(tuned - base).max() > 0.02


def test_a_fully_tuned_unet_is_drawn_with_by_plain_diffusers(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(
        monkeypatch,
        tiny_sd,
        tmp_path / "run",
        "experiment=dreambooth",
        "adapter=full",
        "optimizer.lr=1e-3",
        f"model.num_inference_steps={STEPS}",
        f"model.guidance_scale={GUIDANCE}",
    )
    pipeline = plain_pipeline(tiny_sd)
    base = draw(pipeline)
    pipeline.unet = type(pipeline.unet).from_pretrained(run_dir / "unet")
    tuned = draw(pipeline)
    assert np.abs(tuned - sampled(run_dir, tmp_path / "sampled")).max() < 1e-3
    assert np.abs(tuned - base).max() > 0.02


def test_sampling_takes_model_settings_and_refuses_what_has_no_effect(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", "optimizer.lr=5e-2")
    command = ["task=sample", f"run='{run_dir}'", f"prompts=['{PROMPT}']", "evaluation.images_per_prompt=1"]
    pictures = []
    for number, scale in enumerate((1.0, 9.0)):
        out_dir = tmp_path / str(number)
        run.sample(compose(out_dir, *command, f"model.guidance_scale={scale}"), out_dir)
        pictures.append(array(Image.open(out_dir / "00-0.png")))
    assert np.abs(pictures[0] - pictures[1]).max() > 0.02
    with pytest.raises(FileExistsError, match=r"00-0\.png"):
        run.sample(compose(tmp_path / "0", *command), tmp_path / "0")
    with pytest.raises(ValueError, match="is no list"):
        run.sample(compose(tmp_path / "text", command[0], command[1], "prompts=a heart"), tmp_path / "text")
    with pytest.raises(FileExistsError, match="choose another"):
        run.evaluate(compose(run_dir, "task=evaluate", command[1]), run_dir)
    with pytest.raises(ValueError, match=r"optimizer\.lr=1.* has no effect"):
        run.sample(compose(tmp_path / "refused", *command, "optimizer.lr=1"), tmp_path / "refused")


def test_one_lora_serves_both_kinds_of_model(tiny_vit, tmp_path):
    """`adapter=lora` takes the model's own layers; the old names of a ViT's adapters still stand."""
    run_dir = fit_vit(tiny_vit, tmp_path / "run", "experiment=finetune_vit", "adapter=lora")
    config = json.loads((run_dir / "adapter/adapter_config.json").read_text())
    assert (config["r"], config["target_modules"], config["modules_to_save"]) == (16, ["qkv"], ["head"])
    nodes = {name: compose(tmp_path, f"adapter={name}").adapter for name in ("full", "linear_probe", "lora")}
    old = {name: compose(tmp_path, f"adapter=vit_{name}").adapter for name in nodes}
    assert old["lora"] == {**nodes["lora"], "rank": 8, "alpha": 8}
    assert [old["full"], old["linear_probe"]] == [nodes["full"], nodes["linear_probe"]]


def test_a_denoiser_has_no_head_to_train(monkeypatch, tiny_sd, tmp_path):
    with pytest.raises(
        Exception, match="adapter=linear_probe trains a classifier's head, and StableDiffusion has none"
    ):
        train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", "adapter=linear_probe")


@pytest.mark.parametrize(
    ("module", "names"),
    [("adapter", ("LoRA", "FullFineTuning", "NoAdapter")), ("vit_adapter", ("LoRA", "FullFineTuning", "LinearProbe"))],
)
def test_adapters_of_0_1_0_are_found_again(module, names):
    for name in names:
        assert get_class(moved(f"lightning_modules.{module}.{name}")) is getattr(models.adapters, name)
