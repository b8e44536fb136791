"""The runs of `benchmarks/methods`: what each is told, where it lies and what it draws."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.methods import run as methods
from benchmarks.methods.draw_along import DrawAlong
from benchmarks.methods.plan import (
    ALIGNMENT,
    DEFAULT,
    INDICATOR,
    METHODS,
    SETTINGS,
    STABILIZATION,
    Run,
    runs,
    trials,
    tried_by,
    with_chosen,
)
from benchmarks.shared.lanes import build
from tests.runs import cheap, compose


def told(method, settings):
    return Run(method, settings, "heart_face", 1).overrides()


def test_settings_reach_only_the_parts_that_a_method_has():
    weights = "weights × 10"
    stabilization, alignment = (
        f"regularizer.{part}.weight={weight}"
        for part, weight in (("representation_stabilization", 0.15), ("attention_alignment", 1))
    )
    subject = ["data.subject=heart_face", "seed=1"]
    assert told("APT", weights) == ["experiment=apt_dreambooth", stabilization, alignment, *subject]
    dropped = [f"~regularizer.{part}" for part in ("overfitting_indicator", "attention_alignment")]
    assert told("stabilization alone", weights) == ["experiment=apt_dreambooth", *dropped, stabilization, *subject]
    prior = "regularizer.prior_preservation.weight=0.3"
    assert told("DreamBooth + prior", "weight 0.3") == ["experiment=dreambooth_prior", prior, *subject]
    assert told("DreamBooth", "") == ["experiment=dreambooth", *subject]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes_with_all_of_its_settings(tmp_path, method):
    for settings in SETTINGS.get(tried_by(method), [""]):
        regularizer = compose(tmp_path, "logger=csv", *told(method, settings)).regularizer
        assert set(regularizer) == {"denoising", *METHODS[method][1]}
        if INDICATOR in regularizer:
            assert regularizer[INDICATOR].augmentation == settings.startswith("augmentation")
    if tried_by(method) == "DreamBooth + prior":
        assert regularizer.prior_preservation.weight == 3


@pytest.mark.parametrize("times", [10, 100])
def test_weights_are_tried_at_multiples_of_the_defaults(tmp_path, times):
    defaults, tried = (
        compose(tmp_path / name, *told("APT", settings)).regularizer
        for name, settings in (("defaults", "defaults"), ("tried", f"weights × {times}"))
    )
    for part in (STABILIZATION, ALIGNMENT):
        assert tried[part].weight == pytest.approx(times * defaults[part].weight)


def test_settings_are_those_of_the_method_with_every_part():
    assert {method: tried_by(method) for method in METHODS} == {
        method: method if method in ("DreamBooth", "DreamBooth + prior") else "APT" for method in METHODS
    }
    chosen = {"APT": "augmentation", "DreamBooth + prior": "weight 3"}
    assert {run.method: run.settings for run in with_chosen(chosen, DEFAULT)} == {
        "DreamBooth": "",
        **{method: chosen[tried_by(method)] for method in METHODS if method != "DreamBooth"},
    }


def test_two_runs_never_share_a_folder(tmp_path):
    choices = [(method, name) for method in METHODS for name in SETTINGS.get(tried_by(method), [""])]
    every = runs(choices, [*DEFAULT.chosen_on, *DEFAULT.subjects], 2)
    assert len({run.folder(tmp_path) for run in every}) == len(every) == (1 + 3 + 7 * len(SETTINGS["APT"])) * 6 * 2


def test_the_first_seed_of_all_is_run_before_the_second():
    every = runs([("DreamBooth", ""), ("APT", "defaults")], ["a", "b"], 2)
    assert every[:3] == [Run("DreamBooth", "", "a", 0), Run("APT", "defaults", "a", 0), Run("DreamBooth", "", "b", 0)]
    assert [run.seed for run in every] == [0] * 4 + [1] * 4


def test_the_default_size_has_at_most_98_runs():
    assert not {*DEFAULT.chosen_on} & {*DEFAULT.subjects}
    every = [*trials(DEFAULT), *with_chosen({}, DEFAULT)]
    assert len({(run.method, run.settings, run.subject, run.seed) for run in every}) == len(every) <= 98
    assert {(run.method, run.settings) for run in trials(DEFAULT)} == {
        (method, name) for method, settings in SETTINGS.items() for name in settings
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "'0' is no whole number above 0"),
        (["--seeds", "3"], "--seeds 3: --size default has 2"),
        (["--workers", "-1"], "'-1' is no whole number above 0"),
        (["--out", "nowhere/page.md"], "--out nowhere/page.md: there is no such folder"),
    ],
)
def test_options_that_cannot_be_are_refused_before_the_first_run(monkeypatch, tmp_path, capsys, options, message):
    root = tmp_path / "runs"
    monkeypatch.setattr(sys, "argv", ["run.py", "--root", str(root), *options])
    with pytest.raises(SystemExit):
        methods.main()
    assert message in capsys.readouterr().err and not root.exists()


@pytest.mark.parametrize("rate", [0, 1e-2])
def test_the_same_pictures_are_drawn_at_the_steps_that_are_asked_for(tiny_sd, tmp_path, rate):
    size = replace(DEFAULT, prompts=2, pictures=2, steps=(0, 2))
    drawn, untouched = tmp_path / "drawn", tmp_path / "untouched" / "heart_face"
    run_dir = tmp_path / "run"
    aside = ["~callbacks.model_checkpoint", "~callbacks.trainable_check", "+trainer.enable_checkpointing=false"]
    overrides = ["experiment=dreambooth", *cheap(tiny_sd, run_dir, steps=3), f"optimizer.lr={rate}", *aside]
    cfg = compose(run_dir, *overrides)
    _, module, datamodule, trainer = build(cfg, DrawAlong(drawn, untouched, size))
    trainer.fit(module, datamodule=datamodule)
    assert sorted(path.name for path in drawn.iterdir()) == ["0", "2"]
    assert sorted(path.name for path in untouched.parent.iterdir()) == ["heart_face"]
    names = ["00-0.png", "00-1.png", "01-0.png", "01-1.png"]
    assert all(sorted(path.name for path in step.iterdir()) == names for step in drawn.iterdir())
    before, after = (np.stack([np.asarray(Image.open(drawn / step / name)) for name in names]) for step in ("0", "2"))
    assert (before == after).all() == (rate == 0)  # the same prompts and noise: only the training changes them
    assert len({picture.tobytes() for picture in before[[0, 1]]}) == 2
