"""Identity: the whitening's identity, and the shipped one against subjects and their doubles."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datamodules.sprites.attributes import asked
from datamodules.sprites.distractors import KINDS
from datamodules.sprites.embedded_subject import keeps_paint
from datamodules.sprites.paint import BACKGROUNDS
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.styles import sprite_style
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import Scene, draw_sprite, render
from evaluation.figures.identity import identity_figure
from metrics.checkpoint_hash import checkpoint_hash
from metrics.sprites.identity import Identity, within_class_whitening
from tests.picture_metrics import compared
from tests.runs import ROOT

SHIPPED = ROOT / "assets/sprites-identity"


def test_after_whitening_what_differs_within_a_class_has_covariance_one():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    features = torch.randn(50, 3, 4, generator=generator, dtype=torch.float64) @ mixing
    features += 5 * torch.randn(50, 1, 4, generator=generator, dtype=torch.float64)  # the objects
    mean, whitening = within_class_whitening(features, shrinkage=0.0)
    white = (features - mean) @ whitening
    within = (white - white.mean(1, keepdim=True)).flatten(0, 1)
    assert_close(within.T @ within / len(within), torch.eye(4, dtype=torch.float64))
    assert_close(white.mean((0, 1)), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)


def subject_of(name, **settings):
    return sprite_subject(
        **{
            "subject": name, "identifier": "sks", "instance_prompt": "a {identifier} {class_word}", "num_train": 3,
            "num_heldout": 6, "seed": 3, "replaces_class_word": False,
        } | settings
    )  # fmt: skip


def arrays(pictures):
    return [np.asarray(each.image) for each in pictures]


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_shipped_one_tells_a_subject_from_its_distractors(name):
    """Every picture of it from every one of them, in the same scenes."""
    identity = Identity.from_pretrained(SHIPPED)
    subject = subject_of(name, num_heldout=10)
    references, scored = subject.heldout[:6], subject.heldout[6:]
    masks = [each.mask for each in references]
    own, others = (
        identity(arrays(group), arrays(references), masks) for group in (scored, subject.distractors[6 * len(KINDS) :])
    )
    assert own.min() > others.max() and own.mean() > others.mean() + 0.4


def test_a_swapped_background_changes_little():
    identity = Identity.from_pretrained(SHIPPED)
    spec = SUBJECTS["circle_quarters"]
    sprite = draw_sprite(np.random.default_rng(1), position="center", noun=spec.noun, size="large", paint=spec.paint)
    swapped = [render(Scene(background=k, background_rgb=v, sprites=(sprite,))) for k, v in BACKGROUNDS.items()]
    assert identity.pairwise(swapped, swapped).min() > 0.8


def test_of_two_objects_the_subject_is_taken_wherever_it_stands():
    identity = Identity.from_pretrained(SHIPPED)
    subject, spec = subject_of("heart_face"), SUBJECTS["heart_face"]
    prompts = [f"a small heart to the {side} of a large red circle on a mint wall" for side in ("left", "right")]
    pictures = [render(scene_as_asked(asked(p), np.random.default_rng(1), paint=spec.paint)) for p in prompts]
    alone = render(scene_as_asked(asked("a small heart on a mint wall"), np.random.default_rng(1), paint=spec.paint))
    circle = render(scene_as_asked(asked("a large red circle on a mint wall"), np.random.default_rng(1)))
    *both, one, none = identity([*pictures, alone, circle], arrays(subject.heldout))
    assert min(both) > none + 0.4 and max(abs(each - one) for each in both) < 0.2


def test_identity_is_the_mean_of_pairs_and_of_a_picture_with_itself_one():
    identity = Identity.from_pretrained(SHIPPED)
    train = arrays(subject_of("moon_halves").train)
    pairs = identity.pairwise(train, train)
    assert_close(pairs.diagonal(), torch.ones(3, dtype=torch.float64))
    assert_close(identity(train, train), pairs.mean(1))
    features = identity.embed(train)
    assert_close(pairs, features @ features.T)  # one object each


def test_the_figure_leaves_repainted_prompts_out_and_needs_held_out_pictures():
    subject = subject_of("heart_face")
    pairs = subject.evaluation_prompts[:6]
    assert [keeps_paint(pair) for pair in pairs] == [True] * 5 + [False]
    train = arrays(subject.train)
    tuned = [*train, *train[:2], np.full((64, 64, 3), 90, np.uint8)]  # the sixth is repainted
    shipped = str(SHIPPED)
    figure = identity_figure(compared(subject, pairs, tuned, tuned[::-1]), identity=shipped)["identity"]
    identity = Identity.from_pretrained(SHIPPED)
    masks = [each.mask for each in subject.heldout]
    scores = identity(train, arrays(subject.heldout), masks)
    assert figure.tuned == pytest.approx(float(scores[[0, 1, 2, 0, 1]].mean()))
    assert figure.reference == pytest.approx(float(scores.mean()))
    assert figure.counts == {"tuned": 5, "base": 5, "reference": 3}
    assert figure.checkpoint == {
        "vit": checkpoint_hash(ROOT / "assets/sprites-vit/model.safetensors"),
        "whitening": checkpoint_hash(SHIPPED / "whitening.safetensors"),
    }
    assert figure.base < figure.tuned and "of the 5 pictures" in figure.description
    without = compared(subject_of("heart_face", num_heldout=0), pairs, tuned, tuned)
    assert identity_figure(without, identity=shipped) == {}
    assert identity_figure(compared(subject, pairs, tuned, tuned), identity=None) == {}
    style = sprite_style(style="two_tone", num_train=3, num_heldout=6, seed=0)  # every noun is another object
    assert identity_figure(compared(style, pairs, tuned, tuned), identity=shipped) == {}


def test_it_is_read_back_as_it_was_written(tmp_path):
    identity = Identity.from_pretrained(SHIPPED)
    identity.save_pretrained(tmp_path)
    again = Identity.from_pretrained(tmp_path)
    picture = [np.full((64, 64, 3), 90, np.uint8)]
    assert torch.equal(identity.embed(picture), again.embed(picture))
