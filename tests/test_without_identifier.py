"""No new word: student and frozen model are given one prompt, as in DCO's style recipe."""

import json
import math

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from checks.config import check
from checks.finished_run import prompt_pairs
from datamodules.subject import prompt_pair
from models.columns import token_columns
from report.metrics_csv import read_metrics
from tests.runs import compose, train

FEW_CLASS_IMAGES = ["+regularizer=prior_preservation", "regularizer.prior_preservation.num_class_images=2"]


def pair(template, *, class_word="dog", replaces_class_word=False):
    return prompt_pair(template, identifier=None, class_word=class_word, replaces_class_word=replaces_class_word)


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("a photo of {identifier} {class_word}", "a photo of dog"),
        ("{identifier} {class_word} asleep", "dog asleep"),
        ("a fox in front of blossom trees", "a fox in front of blossom trees"),  # a class word is not asked for
        ("a sks fox", "a sks fox"),  # a word like all others
    ],
)
def test_both_forms_of_a_prompt_are_the_same(template, prompt):
    assert pair(template).instance == pair(template).prior == prompt


@pytest.mark.parametrize(
    ("template", "changes", "message"),
    [
        ("{identifier}", {}, "is empty without an identifier"),
        ("  ", {}, "is empty without an identifier"),
        ("a {class_word}", {"class_word": " "}, "wants the class word, and it is empty"),
        ("a {identifier.x} dog", {}, "may stand in braces"),
        ("a {token} dog", {}, "may stand in braces"),
        ("a {identifier}", {"replaces_class_word": True}, "data.identifier=null is none"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(template, changes, message):
    with pytest.raises(ValueError, match=message):
        pair(template, **changes)


def test_every_word_has_a_column_of_its_own():
    columns = [0, 1, 2, 3, 4, 4]
    words = {"identifier": [], "class_word": [7], "others": [], "length": 6}
    assert token_columns([5, 6, 7], [5, 6, 7], **words) == (columns, columns)
    with pytest.raises(ValueError, match="must have the same prompt"):
        token_columns([5, 6, 7], [5, 7], **words)


def test_prompts_of_such_a_run_are_their_own(tmp_path):
    style, subject = (compose(tmp_path, f"experiment={name}") for name in ("dco_style", "dreambooth"))
    none = OmegaConf.merge(subject, {"data": {"identifier": None}})
    assert prompt_pairs(["a sks heart"], [style])[0].prior == prompt_pairs(["a sks heart"], [none])[0].prior
    assert prompt_pairs(["a sks heart"], [style])[0].prior == "a sks heart"
    assert prompt_pairs(["a sks heart"], [style, subject])[0].prior == "a heart"  # merged with a subject's


@pytest.fixture
def paintings(tmp_path):
    """Three pictures in one style, two of which have captions of their own."""
    folder = tmp_path / "paintings"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    (folder / "0.txt").write_text("a fox in front of blossom trees")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "text": "a house by a lake, from above"}))
    return ["data=folder", f"data.root='{folder}'", "data.class_word=painting", "data.identifier=null"]


def test_the_style_recipe_on_a_folder_with_captions(monkeypatch, tiny_sd, tmp_path, paintings):
    subject = check(compose(tmp_path / "check", "experiment=dco_style", *paintings))
    prompts = ["a fox in front of blossom trees", "a house by a lake, from above", "a photo of painting"]
    assert [picture.prompts.instance for picture in subject.train] == prompts
    assert all(p.instance == p.prior for p in [*(each.prompts for each in subject.train), *subject.evaluation_prompts])
    assert "a painting in the snow" in {pair.instance for pair in subject.evaluation_prompts}
    overrides = ["experiment=dco_style", *paintings, "data.num_heldout=1"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *overrides)
    assert_starts_at_log_2(run_dir)


def assert_starts_at_log_2(run_dir):
    curves = read_metrics(run_dir / "metrics.csv")
    losses = [value for _, value in curves["loss/direct_consistency"]]
    assert curves["direct_consistency/difference"][0][1] == 0
    assert losses[0] == pytest.approx(math.log(2), abs=1e-7) and len(set(losses)) == len(losses)


@pytest.mark.parametrize(
    "overrides", [["experiment=dco_style"], ["experiment=dco_dreambooth", "data.identifier=null"]], ids=str
)
def test_dco_starts_at_exactly_log_2(monkeypatch, tiny_sd, tmp_path, overrides):
    assert_starts_at_log_2(train(monkeypatch, tiny_sd, tmp_path / "run", *overrides))


def test_the_style_recipe_is_dcos(tmp_path):
    cfg = compose(tmp_path, "experiment=dco_style")
    assert (cfg.adapter.rank, cfg.adapter.alpha, cfg.module.noise_offset) == (64, 64, 0.1)
    assert list(cfg.regularizer) == ["direct_consistency"] and cfg.token is None
    assert cfg.trainer.max_steps == compose(tmp_path, "experiment=dco_dreambooth").trainer.max_steps / 2


def test_apt_aligns_the_maps_of_one_prompt(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "data.identifier=null", "optimizer.lr=1e-2")
    alignment = [value for _, value in read_metrics(run_dir / "metrics.csv")["loss/attention_alignment"]]
    assert alignment[0] == 0 and min(alignment[1:]) > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=dco_style", "token=learned"], r"no prompt of datamodules\.sprites\.styles.* has an identifier"),
        (["experiment=dreambooth", "token=learned", "data.identifier=null"], "data.identifier=null is none"),
        (["experiment=dco_style", "data.style=oil"], "data.style='oil'.*two_tone"),
        (["experiment=dco_style", "data.num_train=11"], "data.num_train=11: 1 to 10"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_slow(tmp_path, overrides, message):
    with pytest.raises(Exception, match=message):
        check(compose(tmp_path, *overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=dco_style"], "two_tone has no class whose pictures could be drawn"),
        (["experiment=dreambooth", "data.identifier=null"], "one prompt, 'a photo of a heart', and would be learned"),
    ],
)
def test_prior_preservation_needs_a_prompt_of_its_own(monkeypatch, tiny_sd, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, *FEW_CLASS_IMAGES)
