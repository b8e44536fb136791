"""Identity: the whitening's identity, and the shipped one against subjects and their doubles."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.subjects import SUBJECTS, sprite_subject
from datamodules.sprites.world import render
from metrics.identity import Identity, within_class_whitening
from tests.runs import ROOT


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


def test_the_shipped_one_tells_a_subject_from_its_noun():
    identity = Identity.from_pretrained(ROOT / "assets/sprites-identity")
    subject = sprite_subject(
        subject="heart_face", identifier="sks", instance_prompt="a {identifier} {class_word}", num_train=5,
        num_heldout=12, seed=3, judge=None, identity=None, replaces_class_word=False,
    )  # fmt: skip
    train, heldout = ([np.asarray(each.image) for each in group] for group in (subject.train, subject.heldout))
    prompts = [picture.prompts.prior for picture in subject.heldout]
    doubles = [render(scene_as_asked(asked(p), np.random.default_rng(i))) for i, p in enumerate(prompts)]
    assert identity(heldout, train).mean() > identity(doubles, train).mean() + 0.2
    assert identity(train[:1], train[:1]).item() == pytest.approx(1.0)
    assert SUBJECTS["heart_face"].noun == subject.class_word


def test_it_is_read_back_as_it_was_written(tmp_path):
    identity = Identity.from_pretrained(ROOT / "assets/sprites-identity")
    identity.save_pretrained(tmp_path)
    again = Identity.from_pretrained(tmp_path)
    picture = [np.full((64, 64, 3), 90, np.uint8)]
    assert torch.equal(identity.embed(picture), again.embed(picture))
