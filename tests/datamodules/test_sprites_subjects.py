"""Subjects of the Sprites world: what their pictures share, their masks, distractors and evaluation prompts."""

import numpy as np
import pytest

from datamodules.sprites.attributes import Asked, Seen, asked
from datamodules.sprites.distractors import FAR, KINDS
from datamodules.sprites.embedded_subject import keeps_paint
from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.subjects import SUBJECTS, TEMPLATES, sprite_subject
from datamodules.sprites.world import POSITIONS, RADIUS
from metrics.sprites.background_adherence import background_adherence, read_background
from tests.datamodules.test_sprites import near


def subject_of(name, **settings):
    return sprite_subject(
        **{
            "subject": name, "identifier": "sks", "replaces_class_word": False,
            "instance_prompt": "a photo of a {identifier} {class_word}",
            "num_train": 5, "num_heldout": 8, "seed": 0,
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
        assert keeps == [keeps_paint(pair) for pair in subject.evaluation_prompts]
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
