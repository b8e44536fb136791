import re

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL

from datamodules.sprites.attributes import Asked, Seen, asked
from datamodules.sprites.captions import caption, with_article
from datamodules.sprites.distractors import FAR, KINDS
from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.pretraining import SpritesDataModule, to_pixel_values
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.subjects import SUBJECTS, TEMPLATES, sprite_subject
from datamodules.sprites.vocabulary import IDENTIFIERS
from datamodules.sprites.world import POSITIONS, RADIUS, mask, render, scene, wild_scene
from lightning_modules.pretrain_sd import build_tokenizer
from lightning_modules.pretrain_vae import gradient_difference, normalize_latents
from metrics.background_adherence import background_adherence, named_background, read_background

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
    data = SpritesDataModule(num_scenes=5, num_wild=2, num_repainted=0, crop=32, batch_size=4, seed=3)
    data.setup("fit")
    (first, second), (resumed,) = (list(data.loader(start=start, batches=2)) for start in (0, 1))
    assert first["position"].tolist() + second["position"].tolist() == list(range(8))
    assert resumed["captions"] == second["captions"]
    torch.testing.assert_close(resumed["pixel_values"], second["pixel_values"], rtol=0, atol=0)
    assert second["pixel_values"].shape == (4, 3, 32, 32) and second["pixel_values"].abs().max() <= 1
    pairs = [*zip(first["index"].tolist(), first["captions"], strict=True)]
    assert all(is_true(text, scene(3, index)) if index < 5 else text == "" for index, text in pairs)


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


# Subjects.


def subject_of(name, **settings):
    return sprite_subject(
        **{
            "subject": name, "identifier": "sks", "replaces_class_word": False,
            "instance_prompt": "a photo of a {identifier} {class_word}",
            "num_train": 5, "num_heldout": 8, "seed": 0, "judge": None, "identity": None,
        } | settings
    )  # fmt: skip


def place_of(picture):
    """The key of `POSITIONS` that the picture's object lies nearest to."""
    pixels = np.asarray(picture.image).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - BACKGROUNDS[read_background(pixels)]).sum(-1) > 30)
    center = np.array([(columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2])
    return min(POSITIONS, key=lambda name: np.linalg.norm(center - POSITIONS[name]))


def backgrounds(pictures):
    return [read_background(np.asarray(picture.image)) for picture in pictures]


@pytest.mark.parametrize("name", SUBJECTS)
def test_subjects_share_one_context_in_training_and_leave_it_when_held_out(name):
    subject, spec = subject_of(name), SUBJECTS[name]
    assert (len(subject.train), len(subject.heldout)) == (5, 8)
    assert backgrounds(subject.train) == [spec.background] * 5
    assert [place_of(picture) for picture in subject.train] == [spec.position] * 5
    assert spec.background not in backgrounds(subject.heldout)
    assert spec.position not in {place_of(picture) for picture in subject.heldout}
    assert len({np.asarray(picture.image).tobytes() for picture in subject.train + subject.heldout}) == 13
    prompts = [picture.prompts.instance for picture in subject.heldout]
    assert background_adherence([np.asarray(picture.image) for picture in subject.heldout], prompts) == 1
    assert (
        {picture.prompts.prior for picture in subject.train} == {f"a photo of a {spec.noun}"} == {subject.class_prompt}
    )
    assert {pair.instance.replace("sks ", "") == pair.prior for pair in subject.evaluation_prompts} == {True}


@pytest.mark.parametrize("name", SUBJECTS)
def test_masks_are_the_object_and_distractors_stand_where_the_subject_stood(name):
    subject, spec = subject_of(name), SUBJECTS[name]
    assert len(subject.distractors) == len(KINDS) * len(subject.heldout)
    for picture in subject.train + subject.heldout + subject.distractors:
        pixels = np.asarray(picture.image)
        assert picture.mask.shape == pixels.shape[:2]
        background = BACKGROUNDS[read_background(pixels)]
        assert (pixels[~picture.mask] == background).mean() > 0.9  # its edge is antialiased
        assert (np.linalg.norm(pixels[picture.mask] - np.array(background, float), axis=1) > 20).mean() > 0.4
    for number, distractor in enumerate(subject.distractors):
        subjects_own = subject.heldout[number // len(KINDS)]
        assert distractor.prompts.instance == distractor.prompts.prior == subjects_own.prompts.prior
        assert (distractor.mask == subjects_own.mask).all()
        one, other = (np.asarray(each.image).astype(float) for each in (distractor, subjects_own))
        differ = np.linalg.norm(one - other, axis=2)[distractor.mask]
        if "_colors_" in distractor.name:
            assert (differ > FAR - 2).mean() > 0.6  # the pattern's edge mixes two colours
        assert differ.mean() > 8
    assert min(np.linalg.norm(np.subtract(spec.paint.first, rgb)) for rgb in BACKGROUNDS.values()) > 45


def test_evaluation_prompts_ask_for_what_they_should():
    """Twenty of a fair mix, the first ten too, and the attribute reader finds every word of them."""
    for spec in SUBJECTS.values():
        subject = subject_of(next(name for name, each in SUBJECTS.items() if each is spec))
        questions = [asked(pair.prior) for pair in subject.evaluation_prompts]
        assert len(questions) == len(set(questions)) == 20
        for question, template in zip(questions, TEMPLATES, strict=True):
            words = {word for each in question.objects for word in words_of(each)} | {question.background}
            filled = template.format(identifier="", class_word=spec.noun).split()
            known = {*SHAPES, *COLORS, *TEXTURES, *RADIUS, *BACKGROUNDS}
            assert question.objects[0].noun == spec.noun and set(filled) & known <= words
            assert question.background != spec.background
        firsts = [question.objects[0] for question in questions]
        keeps = [not (first.color or first.texture) for first in firsts]
        assert keeps == [pair.keeps_paint for pair in subject.evaluation_prompts]
        for half, most in ((questions[:10], 2), (questions, 4)):
            assert sum(bool(each.objects[0].color or each.objects[0].texture) for each in half) == most
            assert sum(len(each.objects) == 2 for each in half) == len(half) // 5
            assert sum(bool(each.objects[0].size) for each in half) >= len(half) // 10
            assert sum(bool(each.objects[0].position) and len(each.objects) == 1 for each in half) >= len(half) // 5
            assert len({each.background for each in half if each.background}) >= 5


def words_of(seen: Seen) -> set[str]:
    return {seen.noun, seen.color, seen.texture, seen.size}


def test_places_in_evaluation_prompts_are_read():
    texts = [" ".join(text.format(identifier="", class_word="heart").split()) for text in TEMPLATES]
    said = {text: [each.position for each in asked(text).objects] for text in texts}
    assert said["a photo of a heart to the left of a solid red circle"] == ["left", "right"]
    assert said["a photo of a heart above a dotted white moon on a maroon background"] == ["top", "bottom"]
    assert said["a photo of a heart and a green cross on a black background"] == ["", ""]
    assert asked("a photo of a checkered heart on a sky background") == Asked(
        objects=(Seen(noun="heart", texture="checkered"),), background="sky"
    )


def test_subjects_are_functions_of_their_seed():
    def pixels(subject):
        return [np.asarray(picture.image).tobytes() for picture in subject.train + subject.heldout]

    assert pixels(subject_of("heart_face")) == pixels(subject_of("heart_face"))
    assert not set(pixels(subject_of("heart_face"))) & set(pixels(subject_of("heart_face", seed=1)))
    assert pixels(subject_of("heart_face", num_train=2, num_heldout=0)) == pixels(subject_of("heart_face"))[:2]


def test_subjects_look_like_nothing_in_the_world():
    for spec in SUBJECTS.values():
        assert spec.paint.pattern not in TEXTURES
        assert not any(near(rgb, spec.paint.first) or near(rgb, spec.paint.second) for rgb in COLORS.values())


@pytest.mark.parametrize(
    ("settings", "message"), [({"name": "dog"}, "data.subject='dog'.*heart_face"), ({"num_train": 0}, "num_train=0")]
)
def test_subjects_refuse(settings, message):
    with pytest.raises(ValueError, match=message):
        subject_of(**{"name": "heart_face"} | settings)


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
