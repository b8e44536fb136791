"""Styles of the embedded world: one paint on several nouns, which no caption names."""

import numpy as np
import pytest

from datamodules.sprites.attributes import asked
from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.styles import HELDOUT_NOUNS, NOUNS, STYLES, sprite_style
from datamodules.sprites.vocabulary import world_words
from metrics.sprites.background_adherence import background_adherence

NAMES = sorted(STYLES)


def style_of(name, **settings):
    return sprite_style(**{"style": name, "num_train": 6, "num_heldout": 8, "seed": 0} | settings)


def pixels(pictures):
    return [np.asarray(picture.image) for picture in pictures]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_the_paint_on_what_their_captions_say(name):
    style, paint = style_of(name), STYLES[name]
    for pictures, nouns in ((style.train, NOUNS), (style.heldout, HELDOUT_NOUNS)):
        captions = [picture.prompts.instance for picture in pictures]
        assert {seen.noun for text in captions for seen in asked(text).objects} == set(nouns)
        assert background_adherence(pixels(pictures), captions) == 1
        for picture in pixels(pictures):
            found = {tuple(rgb) for rgb in picture.reshape(-1, 3).tolist()}
            assert {paint.first, paint.second} <= found
    backgrounds = [asked(picture.prompts.instance).background for picture in style.train]
    assert len(set(backgrounds)) == len(backgrounds) == 6
    assert len({each.tobytes() for each in pixels(style.train + style.heldout)}) == 14


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_names_the_style(name):
    style = style_of(name)
    pairs = [picture.prompts for picture in style.train + style.heldout] + [*style.evaluation_prompts]
    assert (style.identifier, style.class_word, style.class_prompt) == (None, "", "")
    assert all(pair.instance == pair.prior for pair in pairs)
    words = {word for pair in pairs for word in pair.instance.split()}
    assert words <= set(world_words(400)) and not words & {*TEXTURES, *COLORS}
    assert {seen.noun for pair in style.evaluation_prompts for seen in asked(pair.instance).objects} == {*HELDOUT_NOUNS}
    assert len(style.evaluation_prompts) == 20


def test_styles_look_like_nothing_in_the_world():
    assert {*NOUNS} | {*HELDOUT_NOUNS} == {*SHAPES} and not {*NOUNS} & {*HELDOUT_NOUNS}
    for paint in STYLES.values():
        assert paint.pattern not in TEXTURES
        for rgb in (*COLORS.values(), *BACKGROUNDS.values()):
            for own in (paint.first, paint.second):
                assert max(abs(a - b) for a, b in zip(own, rgb, strict=True)) > 30


def test_styles_are_functions_of_their_seed():
    def drawn(**settings):
        style = style_of("two_tone", **settings)
        return [each.tobytes() for each in pixels(style.train + style.heldout)]

    assert drawn() == drawn() and not set(drawn()) & set(drawn(seed=1))
    assert drawn(num_train=2, num_heldout=0) == drawn()[:2]
