"""The judge's figures of a run: right where the pictures show what the prompts ask, and only of what they ask."""

from dataclasses import fields

import numpy as np
import pytest

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import render
from datamodules.subject import PromptPair, Subject
from evaluation.figures.attributes import attribute_figures
from metrics.sprites.attribute_adherence import times_named
from tests.picture_metrics import compared
from tests.tiny import ROOT

JUDGE = str(ROOT / "assets/sprites-judge")


def subject_with(num_heldout: int):
    return sprite_subject(
        subject="star_badge",
        identifier="sks",
        replaces_class_word=False,
        instance_prompt="a {identifier} {class_word}",
        num_train=1,
        num_heldout=num_heldout,
        seed=0,
    )


def figures(subject, prompts, judge=JUDGE):
    """Of a tuned model that draws the subject as asked, and of a base model that draws a circle every time."""
    paint = SUBJECTS["star_badge"].paint
    rng = np.random.default_rng(0)
    tuned = [render(scene_as_asked(asked(prompt), rng, paint=paint)) for prompt in prompts]
    base = [render(scene_as_asked(asked("a large red circle in the center"), rng)) for _ in prompts]
    pairs = [PromptPair(instance=prompt, prior=prompt) for prompt in prompts]
    found = attribute_figures(compared(subject, pairs, tuned, base), judge=judge)
    return {name.removeprefix("attribute_adherence/"): figure for name, figure in found.items()}


def test_a_perfect_painter_is_told_from_one_who_draws_circles():
    subject = subject_with(num_heldout=6)
    found = figures(subject, [pair.prior for pair in subject.evaluation_prompts])
    assert list(found) == ["noun", "color", "texture", "size", "position", "count", "all"]
    assert all(metric.tuned >= 0.9 for metric in found.values())
    assert found["noun"].base <= 0.1 and found["color"].base <= 0.4 and found["all"].base <= 0.1
    assert found["count"].base == pytest.approx(16 / 20, abs=0.05)  # four prompts name two objects
    assert found["noun"].reference >= 0.9 and found["size"].reference is None
    # Four prompts have another object with a colour, two repaint the subject; captions name noun and background alone.
    assert found["color"].counts == {"tuned": 6, "base": 6, "reference": 0}
    assert found["noun"].counts == found["all"].counts == {"tuned": 20, "base": 20, "reference": 6}
    assert {name for name, metric in found.items() if metric.no_reference} == {
        "color", "texture", "size", "position"
    }  # fmt: skip


def test_what_no_prompt_names_has_no_figure_and_what_is_missing_is_none():
    found = figures(subject_with(num_heldout=0), ["a photo of a star on an olive background"] * 2)
    assert list(found) == ["noun", "count", "all"]
    assert all(metric.reference is None for metric in found.values())
    assert "of the 2 that are asked for it" in found["noun"].description


def test_no_judge_no_figures_and_none_of_photographs():
    subject = subject_with(num_heldout=0)
    assert figures(subject, ["a star"], judge=None) == {}
    photographed = Subject(**{field.name: getattr(subject, field.name) for field in fields(Subject)})
    assert figures(subject, ["a star"]) and figures(photographed, ["a star"]) == {}


def test_times_named():
    prompts = ["a red heart on the left", "a heart above a blue moon", "a heart on a pink background"]
    assert times_named(prompts) == {"noun": 3, "color": 2, "position": 2, "background": 1, "count": 3, "all": 3}
