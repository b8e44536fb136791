"""The recipes of the embedded models end in folders that the published classes load."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from timm.data import resolve_data_config
from transformers import CLIPTokenizer

import run
from datamodules.sprites.attributes import ATTRIBUTES, UNKNOWN, labels
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.sprites.world import POSITIONS, mask, render, repainted_scene, scene
from lightning_modules.pretraining.judge import attribute_loss, blurred, reconstructed
from lightning_modules.pretraining.sd import loss_weights, timestep_shares
from lightning_modules.pretraining.text_tower import clip_text_encoder
from lightning_modules.pretraining.tokenizer import build_tokenizer, tokenize
from lightning_modules.pretraining.vit import augmented, contrastive_loss
from metrics.sprites.attribute_adherence import attribute_adherence
from metrics.sprites.sprites_judge import CORNERS, STRIDE, WINDOW, SpritesJudge
from tests.runs import compose
from tests.tiny import ROOT

Pretrain = Callable[..., None]


@pytest.fixture
def pretrain(tmp_path: Path) -> Pretrain:
    """Three steps of `experiment=pretrain_sprites_<name>`."""
    few = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "datamodule.batch_size=2"]

    def recipe(name: str, *overrides: str) -> None:
        run_dir = tmp_path / f"{name}-run-{len(list(tmp_path.iterdir()))}"
        run.fit(compose(run_dir, f"experiment=pretrain_sprites_{name}", *few, *overrides), run_dir)

    return recipe


def test_vae_then_stable_diffusion(pretrain, tmp_path):
    few = "datamodule.num_scenes=8"
    vae = [few, "datamodule.num_wild=8", f"module.export_dir='{tmp_path}/vae'"]
    pretrain("vae", *vae)
    pretrain_tiny_clip(pretrain, tmp_path)
    models = [f"module.vae='{tmp_path}/vae'", f"module.clip='{tmp_path}/clip'", f"module.export_dir='{tmp_path}/sd'"]
    pretrain("sd", few, *models, "module.unet.block_out_channels=[16,16,16]")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "sd")
    assert pipeline("a red heart", num_inference_steps=1).images[0].size == (64, 64)
    slow = ["module.optimizer.lr=1e-6", "module.text_encoder_lr=1e-6", "seed=1"]  # another seed draws another UNet
    goes_on = [f"module.pretrained='{tmp_path}/sd'", f"module.export_dir='{tmp_path}/textures'"]
    sizes = [few, "datamodule.num_textured=8", "module.unet.block_out_channels=[16,16,16]"]
    pretrain("sd_textures", *sizes, *models[:2], *goes_on, *slow)
    weights = StableDiffusionPipeline.from_pretrained(tmp_path / "textures").unet.state_dict()
    torch.testing.assert_close(weights, pipeline.unet.state_dict(), atol=1e-3, rtol=1e-2)
    with pytest.raises(Exception, match="holds a model already"):
        pretrain("vae", *vae)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("module.pretrained=''", r"module\.pretrained='' is no pipeline's folder"),  # as the experiment has it
        ("module.timestep_beta=[0.5,1]", r"module\.timestep_beta=\[0\.5, 1\]: two numbers of at least 1"),
        ("module.timestep_beta=[1]", r"module\.timestep_beta=\[1\]"),
        ("module.object_weight=0", r"module\.object_weight=0"),
    ],
)
def test_a_training_that_cannot_go_on_is_refused(pretrain, tmp_path, override, message):
    with pytest.raises(Exception, match=message):
        pretrain("sd_textures", f"module.export_dir='{tmp_path}/sd'", "module.pretrained=assets/sprites-sd", override)


@pytest.mark.parametrize("override", ["module.reconstructed=-0.5", "module.blur=2"])
def test_shares_of_a_judge_s_pictures_are_refused(pretrain, tmp_path, override):
    with pytest.raises(Exception, match=override.replace(".", r"\.", 1)):
        pretrain("judge", f"module.export_dir='{tmp_path}/judge'", override)


def test_loss_weights_by_hand():
    """Over the whole picture a mean of 1 + 2 · the share that the object covers; 1 far from it, 3 in its middle."""
    lone = next(each for each in (scene(0, i) for i in range(50)) if len(each.sprites) == 1)
    (weights,) = loss_weights([lone], object_weight=3, side=16)
    (sprite,) = lone.sprites
    assert weights.shape == (1, 16, 16)
    assert weights.mean().item() == pytest.approx(1 + 2 * mask(sprite).mean(), rel=1e-5)
    assert weights.min() == 1 and weights.max() == pytest.approx(3)
    assert torch.equal(loss_weights([lone], object_weight=1, side=16), torch.ones(1, 1, 16, 16))


def test_loss_weights_lie_where_the_objects_do():
    """Most in the middle of each object; a cell is 4 pixels wide, `center` counts pixels from the left and the top."""
    pair = next(each for each in (scene(0, i) for i in range(50)) if len(each.sprites) == 2)
    (weights,) = loss_weights([pair], object_weight=3, side=16)
    for sprite in pair.sprites:
        column, row = (int(at) // 4 for at in sprite.center)
        assert weights[0, row, column] > 2
    alone = [loss_weights([replace(pair, sprites=(sprite,))], object_weight=3, side=16) for sprite in pair.sprites]
    torch.testing.assert_close(weights, torch.maximum(*alone)[0], atol=0.2, rtol=0)


def test_timestep_shares_are_beta_distributed():
    """[2, 1] is the square root of a uniform number, [1, 1] the number itself; else the mean is a / (a + b)."""
    uniform = np.random.default_rng(0).random(4000)
    for beta, expected in (((1, 1), uniform), ((2, 1), np.sqrt(uniform))):
        np.testing.assert_allclose(timestep_shares(np.random.default_rng(0), 4000, beta=beta), expected, atol=1e-12)
    middle = timestep_shares(np.random.default_rng(0), 4000, beta=(1.5, 1.8))
    assert middle.mean() == pytest.approx(1.5 / 3.3, abs=0.01) and middle.min() > 0 and middle.max() < 1


def pretrain_tiny_clip(pretrain, tmp_path):
    # OneCycleLR divides by zero where its warm-up would take less than a step.
    export = [f"module.export_dir='{tmp_path}/clip'", "datamodule.num_scenes=8", "module.lr_scheduler.pct_start=0.5"]
    pretrain("clip", *export)


def test_clip(pretrain, tmp_path):
    pretrain_tiny_clip(pretrain, tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/clip")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}/clip")
    tokens = tokenizer(["a red heart", "a small dotted white moon on an olive background"])
    # The end token has the largest id: where it stands is what CLIP reads the text from.
    assert tokens.argmax(1).tolist() == [4, 10]
    with torch.no_grad():
        assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(2, 3, 64, 64)).shape
    with pytest.raises(Exception, match="holds a model already"):
        pretrain_tiny_clip(pretrain, tmp_path)


@torch.no_grad()
def test_a_stable_diffusion_s_text_encoder_is_the_clip_s(pretrain, tmp_path):
    """Pooled and projected as open_clip does it, its last hidden state is open_clip's text embedding."""
    pretrain_tiny_clip(pretrain, tmp_path)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/clip")
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "clip")
    tokens = tokenize(tokenizer, ["a red heart", "a small dotted white moon on an olive background"])
    assert torch.equal(
        tokens,
        open_clip.get_tokenizer(f"local-dir:{tmp_path}/clip")(
            ["a red heart", "a small dotted white moon on an olive background"]
        ),
    )
    states = clip_text_encoder(tmp_path / "clip", tokenizer).eval()(tokens).last_hidden_state
    pooled = states[torch.arange(2), tokens.argmax(1)]
    torch.testing.assert_close(pooled @ model.text_projection, model.encode_text(tokens), rtol=1e-4, atol=1e-5)


def test_a_folder_without_a_clip_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="experiment=pretrain_sprites_clip makes one"):
        clip_text_encoder(tmp_path, build_tokenizer(max_length=32))


def test_vit(pretrain, tmp_path):
    export = [f"module.export_dir='{tmp_path}/vit'", "datamodule.num_things=6", "module.lr_scheduler.pct_start=0.5"]
    pretrain("vit", *export)
    vit = timm.create_model(f"local-dir:{tmp_path}/vit", pretrained=True).eval()
    assert vit(torch.zeros(2, 3, 64, 64)).shape == (2, 96)
    assert resolve_data_config(model=vit)["mean"] == [0.5, 0.5, 0.5]
    with pytest.raises(Exception, match="holds a model already"):
        pretrain("vit", *export)


def test_contrastive_loss_by_hand():
    """Two pairs on the axes: each row's partner has similarity 1, the two others 0."""
    first = torch.eye(2)
    loss, accuracy = contrastive_loss(first, 3 * first, temperature=0.5)
    assert loss.item() == pytest.approx(-2 + np.log(np.exp(2) + 2), rel=1e-6) and accuracy == 1
    crossed, accuracy = contrastive_loss(first, first.flip(0), temperature=0.5)
    assert crossed.item() == pytest.approx(np.log(np.exp(2) + 2), rel=1e-6) and accuracy == 0


def test_augmented_pictures_are_mirrored_or_not():
    pictures = torch.linspace(-0.5, 0.5, 8).expand(64, 3, 4, 8)
    changed = augmented(pictures, generator=torch.Generator().manual_seed(0))
    rises = (changed[..., -1] > changed[..., 0]).flatten(1)
    assert rises.all(1).any() and (~rises).all(1).any() and (rises.all(1) | (~rises).all(1)).all()
    assert not torch.equal(changed[0], changed[1]) and changed.abs().max() <= 1


def test_judge(pretrain, tmp_path):
    export = f"module.export_dir='{tmp_path}/judge'"
    pretrain("judge", export, "datamodule.num_repainted=8", "module.judge.widths=[8,8,8,8]")
    judge = SpritesJudge.from_pretrained(tmp_path / "judge")
    pictures = [render(scene(0, index)) for index in range(4)]
    shares = attribute_adherence(judge, pictures, ["a red heart on the left on a pink background"] * 4)
    assert set(shares) == {"noun", "color", "position", "background", "count", "all"}
    assert all(0 <= share <= 1 for share in shares.values())


def test_a_judge_goes_on_learning(pretrain, tmp_path):
    torch.manual_seed(7)
    first = SpritesJudge(widths=[8, 8, 8, 8], hidden=256)
    first.save_pretrained(tmp_path / "first")
    few = ["datamodule.num_repainted=8", "module.judge.widths=[8,8,8,8]", "module.optimizer.lr=1e-5"]
    start = {"from nothing": "null", "from the first": f"'{tmp_path}/first'"}
    for name, pretrained in start.items():
        export = f"module.export_dir='{tmp_path}/{name}'"
        pretrain("judge", *few, f"module.pretrained={pretrained}", export)
    moved = {name: SpritesJudge.from_pretrained(tmp_path / name).heads["noun"].weight for name in start}
    torch.testing.assert_close(moved["from the first"], first.heads["noun"].weight, rtol=0, atol=1e-3)
    assert (moved["from nothing"] - first.heads["noun"].weight).abs().mean() > 1e-2


def test_attribute_loss_of_even_odds_is_the_sum_of_the_logarithms():
    table = torch.from_numpy(np.stack([labels(scene(0, index)) for index in range(3)]))
    logits = {name: torch.zeros(3, len(POSITIONS), len(choices)) for name, choices in ATTRIBUTES.items()}
    # The noun twice: of objects and of empty positions.
    expected = sum(np.log(len(choices)) for choices in (ATTRIBUTES["noun"], *ATTRIBUTES.values()))
    assert attribute_loss(logits, table).item() == pytest.approx(expected, rel=1e-6)


def test_attribute_loss_weighs_objects_as_all_empty_positions_together():
    """One object among five positions: a wrong noun of it costs as much as wrong nouns at the four others."""
    table = torch.full((1, len(POSITIONS), len(ATTRIBUTES)), UNKNOWN)
    table[:, :, 0] = 0
    table[0, 2] = 1
    losses = []
    for wrong in ([2], [0, 1, 3, 4]):
        logits = {name: torch.zeros(1, len(POSITIONS), len(choices)) for name, choices in ATTRIBUTES.items()}
        logits["noun"][0, wrong, 5] = 3.0
        losses.append(attribute_loss(logits, table).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_judge_s_windows_hold_every_object_whole():
    for index in range(300):
        for sprite in repainted_scene(0, index).sprites:
            left, top = (STRIDE * cell for cell in CORNERS[list(POSITIONS).index(sprite.position)])
            covered = mask(sprite)
            side = STRIDE * WINDOW
            assert covered[top : top + side, left : left + side].sum() >= 0.97 * covered.sum()


def test_attribute_loss_leaves_out_what_has_no_word():
    table = torch.full((1, len(POSITIONS), len(ATTRIBUTES)), UNKNOWN)
    table[:, :, 0] = 0
    table[0, 2] = torch.tensor([5, UNKNOWN, UNKNOWN, 1])
    table[0, 1] = torch.tensor([1, 0, 0, 0])
    logits = {name: torch.zeros(1, len(POSITIONS), len(choices)) for name, choices in ATTRIBUTES.items()}
    before = attribute_loss(logits, table)
    logits["color"][0, 2, 3] = 9.0
    assert torch.equal(attribute_loss(logits, table), before)
    logits["color"][0, 1, 0] = 9.0
    assert attribute_loss(logits, table) < before


def test_the_first_share_of_the_pictures_is_reconstructed():
    vae = AutoencoderKL.from_pretrained(ROOT / "assets/sprites-sd/vae")
    pictures = to_pixel_values(np.stack([render(scene(0, index)) for index in range(4)]))
    changed = reconstructed(pictures, share=0.5, vae=vae)
    assert torch.equal(changed[2:], pictures[2:]) and not torch.equal(changed[:2], pictures[:2])
    assert (changed - pictures).square().mean().sqrt() < 0.1 and changed.abs().max() <= 1
    assert torch.equal(reconstructed(pictures, share=0.0, vae=vae), pictures)


def test_blurring_keeps_a_flat_picture_and_its_share():
    flat = torch.full((64, 3, 8, 8), 0.3)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(blurred(flat, share=1.0, generator=generator), flat)
    noise = torch.rand(64, 3, 8, 8, generator=generator)
    changed = (blurred(noise, share=0.5, generator=generator) != noise).flatten(1).any(1).float().mean()
    assert 0.3 < changed < 0.7
    assert torch.equal(blurred(noise, share=0.0, generator=generator), noise)
