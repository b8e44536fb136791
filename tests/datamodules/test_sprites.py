import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from datamodules.sprites.captions import caption, with_article
from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.pretraining import SpritesDataModule, to_pixel_values
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.subjects import SUBJECTS, TEMPLATES
from datamodules.sprites.vocabulary import IDENTIFIERS
from datamodules.sprites.world import POSITIONS, RADIUS, mask, render, scene, textured_scene, wild_scene
from lightning_modules.pretraining.tokenizer import build_tokenizer
from lightning_modules.pretraining.vae import gradient_difference, normalize_latents
from metrics.sprites.background_adherence import background_adherence, named_background

SCENES = [scene(0, index) for index in range(600)]


# The world.


@pytest.mark.parametrize("draw", [scene, wild_scene])
def test_scenes_are_functions_of_seed_and_index(draw):
    keys = [(seed, index) for seed in range(4) for index in range(25)]
    pictures = [render(draw(*key)) for key in keys]
    assert all((render(draw(*key)) == picture).all() for key, picture in zip(keys[::-1], pictures[::-1], strict=True))
    assert len({picture.tobytes() for picture in pictures}) == len(keys)
    assert pictures[0].shape == (64, 64, 3) and pictures[0].dtype == np.uint8


def test_the_world_is_large_enough():
    assert len(SHAPES) >= 8 and len(COLORS) >= 8 and len(TEXTURES) >= 3
    assert len(RADIUS) >= 2 and len(POSITIONS) >= 5 and len(BACKGROUNDS) >= 10
    sprites = [sprite for each in SCENES for sprite in each.sprites]
    for drawn, possible in (
        ({each.background for each in SCENES}, BACKGROUNDS),
        ({sprite.noun for sprite in sprites}, SHAPES),
        ({sprite.color for sprite in sprites}, COLORS),
        ({sprite.paint.pattern for sprite in sprites}, TEXTURES),
        ({sprite.size for sprite in sprites}, RADIUS),
        ({sprite.position for sprite in sprites}, POSITIONS),
    ):
        assert drawn == set(possible)


def test_rendering_paints_sprites_where_they_are_and_background_elsewhere():
    for each in SCENES[:100]:
        picture = render(each)
        covered = np.maximum.reduce([mask(sprite) for sprite in each.sprites])
        assert (picture[covered == 0] == each.background_rgb).all()
        top = each.sprites[-1]
        if top.paint.pattern == "solid":
            assert (picture[mask(top) == 1] == top.paint.first).all()
        assert (covered > 0.5).sum() > 80  # no object is too small to be seen


# Captions: what they say is checked against the numbers that are rendered, not against the scene's words.

PHRASE = rf"an? (?:({'|'.join(RADIUS)}) )?(?:({'|'.join(TEXTURES)}) )?(?:({'|'.join(COLORS)}) )?({'|'.join(SHAPES)})"
GRAMMAR = re.compile(
    rf"(?:a photo of |a picture of |an image of )?{PHRASE}"
    r"(?: (?:(?:in|on|at) the (center|middle|left|right|top|bottom)|"
    rf"(and|to the left of|to the right of|above|below) {PHRASE}))?"
    rf"(?: (?:on|with|in front of) an? ({'|'.join(BACKGROUNDS)}) (?:background|wall))?"
)
LIES = {  # by the object's centre
    "left": lambda x, y: x <= 20 and 30 <= y <= 34,
    "right": lambda x, y: x >= 44 and 30 <= y <= 34,
    "top": lambda x, y: y <= 20 and 30 <= x <= 34,
    "bottom": lambda x, y: y >= 44 and 30 <= x <= 34,
    "center": lambda x, y: 30 <= x <= 34 and 30 <= y <= 34,
}
LIES["middle"] = LIES["center"]
STANDS = {
    "to the left of": lambda one, two: one[0] < two[0] - 20,
    "to the right of": lambda one, two: one[0] > two[0] + 20,
    "above": lambda one, two: one[1] < two[1] - 20,
    "below": lambda one, two: one[1] > two[1] + 20,
    "and": lambda one, two: True,
}


def near(color, rgb):
    return max(abs(a - b) for a, b in zip(color, rgb, strict=True)) <= 6


def describes(words, sprite):
    size, texture, color, noun = words
    return (
        noun == sprite.noun
        and texture in (None, sprite.paint.pattern)
        and (color is None or near(COLORS[color], sprite.paint.first))
        and (size is None or (sprite.radius <= 10 if size == "small" else 13 <= sprite.radius <= 17))
    )


def is_true(text, each):
    said = GRAMMAR.fullmatch(text)
    assert said, f"{text!r} is no caption"
    first, place, relation, second, background = (
        said.groups()[:4], said[5], said[6], said.groups()[6:10], said[11],
    )  # fmt: skip
    if background and not near(BACKGROUNDS[background], each.background_rgb):
        return False
    if relation is None:
        (sprite,) = each.sprites
        return describes(first, sprite) and (place is None or LIES[place](*sprite.center))
    return any(
        describes(first, one) and describes(second, two) and STANDS[relation](one.center, two.center)
        for one, two in (each.sprites, each.sprites[::-1])
    )


def test_captions_are_true_and_say_everything_at_times():
    rng = np.random.default_rng(0)
    said = [(caption(each, rng), each) for each in SCENES for _ in range(3)]
    assert [text for text, each in said if not is_true(text, each)] == []
    words = {word for text, _ in said for word in text.split()}
    assert words >= {*SHAPES, *COLORS, *TEXTURES, *RADIUS, *BACKGROUNDS, "center", "left", "right", "above", "below"}
    # The check itself can fail: most captions are false of another scene of as many sprites.
    single = [(text, each) for text, each in said if len(each.sprites) == 1]
    false = [not is_true(text, other) for (text, _), (_, other) in zip(single, single[3:], strict=False)]
    assert np.mean(false) > 0.9


@pytest.mark.parametrize("word", ["olive heart", "orange star", "ring"])
def test_article(word):
    assert with_article(word) == ("a ring" if word == "ring" else f"an {word}")


def test_pretraining_batches_are_functions_of_the_position():
    few = {"num_scenes": 5, "num_wild": 2, "num_repainted": 0, "num_textured": 0}
    data = SpritesDataModule(**few, crop=32, batch_size=4, seed=3)
    data.setup("fit")
    (first, second), (resumed,) = (list(data.loader(start=start, batches=2)) for start in (0, 1))
    assert first["position"].tolist() + second["position"].tolist() == list(range(8))
    assert resumed["captions"] == second["captions"]
    torch.testing.assert_close(resumed["pixel_values"], second["pixel_values"], rtol=0, atol=0)
    assert second["pixel_values"].shape == (4, 3, 32, 32) and second["pixel_values"].abs().max() <= 1
    pairs = [*zip(first["index"].tolist(), first["captions"], strict=True)]
    assert all(is_true(text, scene(3, index)) if index < 5 else text == "" for index, text in pairs)


def test_textured_scenes_are_the_world_s_without_solid_objects():
    solid = 0
    for index in range(40):
        ours, world = textured_scene(3, index), scene(3, index)
        for sprite, original in zip(ours.sprites, world.sprites, strict=True):
            assert sprite.paint.pattern in {"striped", "dotted", "checkered"}
            solid += original.paint.pattern == "solid"
            same = original if original.paint.pattern == "solid" else sprite
            assert replace(sprite, paint=replace(sprite.paint, pattern=same.paint.pattern)) == original
    assert solid > 10


def test_captions_of_textured_scenes_name_every_texture():
    data = SpritesDataModule(num_scenes=4, num_wild=0, num_repainted=0, num_textured=20, crop=64, batch_size=24, seed=3)
    data.setup("fit")
    (batch,) = data.loader(start=0, batches=1)
    said = dict(zip(batch["index"].tolist(), batch["captions"], strict=True))
    for index in range(4, 24):
        each = textured_scene(3, index)
        assert is_true(said[index], each), said[index]
        textures = [word for word in said[index].split() if word in TEXTURES]
        assert sorted(textures) == sorted(sprite.paint.pattern for sprite in each.sprites)


# Words.


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(max_length=32)


TEXTS = {
    "nouns": SHAPES,
    "colours": COLORS,
    "textures": TEXTURES,
    "sizes": RADIUS,
    "backgrounds": BACKGROUNDS,
    "identifiers": IDENTIFIERS,
    "subjects": [spec.noun for spec in SUBJECTS.values()],
    "evaluation prompts": [text.format(identifier="sks", class_word="heart") for text in TEMPLATES],
}


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_every_word_is_one_token(tokenizer, texts):
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert len(ids) == len(text.split()), text
        assert tokenizer.decode(ids).strip() == text


def test_captions_have_no_pieces_and_no_identifiers(tokenizer):
    rng = np.random.default_rng(1)
    for each in SCENES[:200]:
        text = caption(each, rng)
        assert len(tokenizer(text, add_special_tokens=False).input_ids) == len(text.split()), text
        assert not set(text.split()) & set(IDENTIFIERS)
    assert len(tokenizer("elephant", add_special_tokens=False).input_ids) > 1
    ids = tokenizer("a red heart").input_ids
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert len(set(tokenizer(" ".join(IDENTIFIERS), add_special_tokens=False).input_ids)) == len(IDENTIFIERS)


# Judging and encoding.


def test_backgrounds_are_read_off_every_scene():
    prompts = [f"a heart on {with_article(each.background)} background" for each in SCENES]
    pictures = [render(each) for each in SCENES]
    assert background_adherence(pictures, prompts) == 1
    wrong = [each.background == other.background for each, other in zip(SCENES[1:], SCENES, strict=False)]
    assert background_adherence(pictures[:-1], prompts[1:]) == pytest.approx(np.mean(wrong))
    assert background_adherence(pictures[:2], ["a heart", prompts[1]]) == 1  # a prompt that names none does not count
    assert background_adherence(pictures[:1], ["a heart on a plaid background"]) is None


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a sks heart on an olive background", "olive"),
        ("a heart in front of a teal wall", "teal"),
        ("a gray heart", None),
        ("a heart on a grayish background", None),
    ],
)
def test_named_background(prompt, name):
    assert named_background(prompt) == name


@torch.no_grad()
def test_normalized_latents_have_mean_0_variance_1_and_decode_as_before():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, mid_block_add_attention=False, latent_channels=3)
    vae.quant_conv.bias[:3] = torch.tensor([5.0, -2.0, 0.0])
    pictures = to_pixel_values(np.stack([render(each)[::2, ::2] for each in SCENES[:8]]))
    before = vae.encode(pictures).latent_dist.mean
    decoded = vae.decode(before).sample
    assert before.mean((0, 2, 3)).abs().max() > 1
    normalize_latents(vae, before, noise=0.05)
    after = vae.encode(pictures).latent_dist
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.var((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.std, torch.full_like(after.std, 0.05))
    torch.testing.assert_close(vae.decode(after.mean).sample, decoded, atol=1e-4, rtol=1e-4)


def test_gradient_difference_by_hand():
    error = torch.tensor([[[[0.0, 3.0], [1.0, 1.0]]]])
    assert gradient_difference(error).item() == pytest.approx((3 + 0) / 2 + (1 + 2) / 2)
    assert gradient_difference(torch.full((2, 3, 4, 5), 7.0)).item() == 0
