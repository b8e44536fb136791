"""The embedded models as users of plain diffusers and timm meet them."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from diffusers import StableDiffusionPipeline

from datamodules.sprites.attributes import asked, shown
from datamodules.sprites.captions import with_article
from datamodules.sprites.cluttered import cluttered_picture
from datamodules.sprites.cluttered_objects import draw_member
from datamodules.sprites.paint import BACKGROUNDS
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.subjects import SUBJECTS, TEMPLATES
from datamodules.sprites.world import render, scene
from evaluation.classification import cls_attention_maps
from metrics.localization import AttentionJaccard
from metrics.sprites.attribute_adherence import attribute_adherence, score
from metrics.sprites.background_adherence import background_adherence
from metrics.sprites.sprites_judge import SpritesJudge
from models.attention import ClsAttentionCapture
from tests.tiny import ROOT

FOLDER = ROOT / "assets/sprites-sd"
VIT = ROOT / "assets/sprites-vit"
JUDGE = ROOT / "assets/sprites-judge"
CLIP = ROOT / "assets/sprites-clip"


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    loaded = StableDiffusionPipeline.from_pretrained(str(FOLDER), dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.mark.parametrize(("folder", "size"), [(FOLDER, 25e6), (VIT, 4e6), (JUDGE, 6e6), (CLIP, 12e6)])
def test_it_is_small_and_holds_safetensors_only(folder: Path, size: float) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < size
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_the_latents_are_scaled_as_the_schedule_wants_them(pipeline: StableDiffusionPipeline) -> None:
    """Zero terminal SNR starts sampling from pure noise, so the last step must hide everything."""
    assert pipeline.scheduler.alphas_cumprod[-1] == pytest.approx(0, abs=1e-6)
    assert pipeline.vae.config.scaling_factor == 1.0
    assert pipeline.scheduler.config.timestep_spacing == "trailing"


def test_backgrounds_follow_the_prompt(pipeline: StableDiffusionPipeline) -> None:
    prompts = [f"a large white square in the center on {with_article(name)} background" for name in BACKGROUNDS]
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    drawn = pipeline(prompts, generator=generators, num_inference_steps=10, guidance_scale=4.0, height=64, width=64)
    adherence = background_adherence([np.asarray(picture) for picture in drawn.images], prompts)
    assert adherence is not None and adherence >= 0.9


def test_the_judge_reads_the_world_and_the_subjects() -> None:
    """Its model card's figures, on fewer pictures."""
    judge = SpritesJudge.from_pretrained(JUDGE)
    scenes = [scene(77, index) for index in range(200)]
    shares = score(judge, [render(each) for each in scenes], [shown(each) for each in scenes])
    assert min(shares.values()) >= 0.9 and shares["noun"] >= 0.95
    prompts, drawn = [], []
    for number, subject in enumerate(SUBJECTS.values()):
        for template in TEMPLATES:
            prompts.append(" ".join(template.format(identifier="", class_word=subject.noun).split()))
            drawn.append(render(scene_as_asked(asked(prompts[-1]), np.random.default_rng(number), paint=subject.paint)))
    shares = attribute_adherence(judge, drawn, prompts)
    assert min(shares.values()) >= 0.9 and shares["noun"] >= 0.95


def test_the_judge_reads_pictures_of_another_size() -> None:
    judge = SpritesJudge.from_pretrained(JUDGE)
    pictures = [render(scene(78, index)) for index in range(64)]
    larger = [np.kron(picture, np.ones((4, 4, 1), np.uint8)) for picture in pictures]
    same = [one == other for one, other in zip(judge.read(pictures), judge.read(larger), strict=True)]
    assert np.mean(same) > 0.95


def test_the_vit_looks_at_the_object() -> None:
    """The [CLS] attention of its last block, over pictures of patterns that it never saw."""
    vit = timm.create_model(f"local-dir:{VIT}", pretrained=True).eval()
    pictures = [cluttered_picture(rng, draw_member(rng, i)) for i in range(16) for rng in [np.random.default_rng(i)]]
    pixel_values = to_pixel_values(np.stack([each.pixels for each in pictures]))
    attention = cls_attention_maps(vit, pixel_values, ClsAttentionCapture(vit, ["blocks.*.attn[last]"]))[1]
    jaccard = AttentionJaccard(mass=0.6)
    jaccard.update(attention, torch.from_numpy(np.stack([each.mask for each in pictures])))
    scores = {name: float(value) for name, value in jaccard.compute().items()}
    assert scores["head_mean"] > 1.3 * scores["centred_square"] and scores["head_mean"] > 2 * scores["random"]
    assert scores["best_head"] > 2 * scores["random_best_head"]
