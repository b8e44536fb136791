"""Prompts are read as captions are written, and a picture is right exactly where it shows what was asked."""

import numpy as np
import pytest

from datamodules.sprites.attributes import ATTRIBUTES, UNKNOWN, Asked, Seen, answers, asked, labels, shown
from datamodules.sprites.captions import caption
from datamodules.sprites.paint import COLORS, Paint
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.world import POSITIONS, repainted_scene, scene

HEART = Seen(noun="heart", color="red", texture="solid", size="large", position="left")
MOON = Seen(noun="moon", color="white", texture="dotted", size="small", position="right")


@pytest.mark.parametrize("index", range(200))
def test_every_caption_is_right_of_its_scene(index):
    drawn = scene(3, index)
    question = asked(caption(drawn, np.random.default_rng(index)))
    assert len(question.objects) == len(drawn.sprites)
    assert all(answers(question, shown(drawn).objects, drawn.background).values())


def test_prompt_with_a_relation():
    question = asked("a photo of a small striped blue heart to the left of a white moon on an olive background")
    assert question == Asked(
        objects=(
            Seen(noun="heart", color="blue", texture="striped", size="small", position="left"),
            Seen(noun="moon", color="white", position="right"),
        ),
        background="olive",
    )


def test_prompt_without_an_object():
    with pytest.raises(ValueError, match="names no object"):
        asked("a photo of a dog on a pink background")


def test_objects_are_matched_whatever_their_order():
    assert all(answers(asked("a white moon and a red heart"), (HEART, MOON), "pink").values())


@pytest.mark.parametrize(
    ("prompt", "wrong"),
    [
        ("a red heart to the left of a dotted moon on a pink background", set()),
        ("a red heart to the right of a dotted moon on a pink background", {"position"}),
        ("a blue heart and a dotted moon on a teal background", {"color", "background"}),
        ("a red star and a small moon", {"noun"}),
        ("a red heart", {"count"}),
    ],
)
def test_what_is_wrong_is_named(prompt, wrong):
    result = answers(asked(prompt), (HEART, MOON), "pink")
    assert {name for name, right in result.items() if not right} == (wrong | {"all"} if wrong else set())


def test_missing_object_is_wrong_in_everything_asked_of_it():
    result = answers(asked("a red heart and a dotted white moon"), (HEART,), "pink")
    assert result == {"noun": False, "color": False, "texture": False, "count": False, "all": False}


def test_labels():
    for index in range(300):
        drawn = repainted_scene(4, index)
        table = labels(drawn)
        filled = {list(POSITIONS)[slot] for slot in np.flatnonzero(table[:, 0])}
        assert filled == {sprite.position for sprite in drawn.sprites}
        for sprite in drawn.sprites:
            noun, color, texture, size = table[list(POSITIONS).index(sprite.position)]
            assert ATTRIBUTES["noun"][noun] == sprite.noun
            assert ATTRIBUTES["size"][size] == sprite.size
            assert (color == UNKNOWN) == (texture == UNKNOWN) == (not sprite.color)
            assert not sprite.color or ATTRIBUTES["texture"][texture] == sprite.paint.pattern


@pytest.mark.parametrize("index", range(100))
def test_the_painter_draws_what_was_asked(index):
    rng = np.random.default_rng(index)
    question = asked(caption(scene(5, index), rng))
    drawn = scene_as_asked(question, rng)
    assert all(answers(question, shown(drawn).objects, drawn.background).values())
    paint = Paint("face", (1, 2, 3), (4, 5, 6))
    wanted = question.objects[0]
    worn = scene_as_asked(question, rng, paint=paint).sprites[0].paint
    assert worn.pattern == (wanted.texture or "face")  # what is asked for comes first
    assert worn.first == (COLORS[wanted.color] if wanted.color else (1, 2, 3))
