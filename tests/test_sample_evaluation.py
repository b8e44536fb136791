"""Pictures along the training: the training does not notice them, and everything is as before after them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.world import render
from lightning_modules.sample_evaluation import SampleEvaluation
from metrics.attribute_adherence import shares_right
from metrics.sprites_judge import SpritesJudge
from report.metrics_csv import read_metrics
from report.training_strip import TILE, training_strip
from tests.conftest import PHOTOS, ROOT
from tests.runs import adapter_weights, fit, fit_vit, same, train

BASE = ["data.num_heldout=1", "optimizer.lr=1e-2"]
DRAWN = [
    "+callbacks=sample_evaluation",
    "callbacks.sample_evaluation.every_n_steps=2",
    "callbacks.sample_evaluation.num_prompts=3",
    "callbacks.sample_evaluation.num_inference_steps=2",
]


def test_shares_right_by_hand():
    """A picture as it is asked for, and the same picture under a prompt that has two of its four answers wrong."""
    judge = SpritesJudge.from_pretrained(ROOT / "assets/sprites-judge")
    prompt = "a large red heart in the center on a pink background"
    picture = render(scene_as_asked(asked(prompt), np.random.default_rng(0)))
    other = "a large blue heart on the left on a pink background"
    shares = shares_right(judge, [picture, picture], [prompt, other])
    # noun, color, size, position, background and count are asked for
    assert shares == pytest.approx([1, 4 / 6])


def test_strip():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    columns = [[Image.new("RGB", (16, 16), color)] * 2 for color in colors]
    strip = training_strip(["a", "b"], [0, 50, 100], columns)
    middle = [strip.getpixel((strip.width - (2.5 - i) * TILE, strip.height - 1.5 * TILE)) for i in range(3)]
    assert middle == colors


@pytest.mark.parametrize("experiment", ["apt_dreambooth", "textual_inversion"])
def test_the_training_does_not_notice(monkeypatch, tiny_sd, tmp_path, experiment):
    generator = torch.get_rng_state()
    overrides = [f"experiment={experiment}", *BASE]
    plain = train(monkeypatch, tiny_sd, tmp_path / "plain", *overrides, steps=5)
    state = torch.get_rng_state()
    torch.set_rng_state(generator)
    drawn = train(monkeypatch, tiny_sd, tmp_path / "drawn", *overrides, *DRAWN, steps=5)
    assert torch.equal(torch.get_rng_state(), state)
    name = (
        "learned_embeds.safetensors"
        if experiment == "textual_inversion"
        else "adapter/pytorch_lora_weights.safetensors"
    )
    assert same(load_file(plain / name), load_file(drawn / name))  # a header's keys have no order
    curves, without = (read_metrics(each / "metrics.csv") for each in (drawn, plain))
    figures = {name: curves.pop(name) for name in ("heldout/attribute_adherence", "heldout/identity")}
    assert curves == without
    for points in figures.values():  # before the first step, after the 2nd, the 4th and the last
        assert [step for step, _ in points] == [0, 1, 3, 4]
        assert all(-1 <= value <= 1 for _, value in points)
    assert figures["heldout/identity"][0][1] != figures["heldout/identity"][-1][1]
    with Image.open(drawn / "samples/training.png") as strip:
        assert strip.height > 3 * TILE and strip.width > 4 * TILE


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_resumed_equals_unbroken(monkeypatch, tiny_sd, tmp_path):
    overrides = ["experiment=apt_dreambooth", *BASE, *DRAWN, "callbacks.model_checkpoint.every_n_train_steps=3"]
    overrides.append("+callbacks.model_checkpoint.save_top_k=-1")
    unbroken = train(monkeypatch, tiny_sd, tmp_path / "unbroken", *overrides, steps=6)
    path = f"ckpt_path='{unbroken}/checkpoints/step=3.ckpt'"
    resumed = train(monkeypatch, tiny_sd, tmp_path / "resumed", *overrides, path, steps=6)
    assert same(adapter_weights(unbroken), adapter_weights(resumed))
    for name in ("metrics.csv", "samples/training.png"):
        assert (unbroken / name).read_bytes() == (resumed / name).read_bytes()
    with pytest.raises(ValueError, match=r"sample_evaluation\.seed is 7, and 1000"):
        train(monkeypatch, tiny_sd, tmp_path / "other", *overrides, path, "callbacks.sample_evaluation.seed=7", steps=6)


def test_everything_is_as_before_also_after_an_exception(monkeypatch, tiny_sd, tmp_path):
    seen = []
    draw = SampleEvaluation._draw

    def watched(self, pl_module):
        def state():
            hooks = sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in pl_module.unet.modules())
            modes = [each.training for each in pl_module.unet.modules()]
            grads = [parameter.requires_grad for parameter in pl_module.unet.parameters()]
            return pl_module.model.pipeline.unet is pl_module.unet, hooks, modes, grads, torch.is_grad_enabled()

        before = state()
        try:
            return draw(self, pl_module)
        finally:
            seen.append(before == state())

    monkeypatch.setattr(SampleEvaluation, "_draw", watched)
    train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", *BASE, *DRAWN, steps=2)
    monkeypatch.setattr("diffusers.AutoencoderKL.decode", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(monkeypatch, tiny_sd, tmp_path / "broken", "experiment=apt_dreambooth", *BASE, *DRAWN, steps=2)
    assert seen == [True, True, True]


def test_a_whole_float32_unet_draws_beside_bfloat16_encoders(monkeypatch, tiny_sd, tmp_path):
    full = ["adapter=full", "model.dtype=bfloat16", "optimizer.lr=1e-4"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", *BASE, *DRAWN, *full, steps=2)
    assert "heldout/identity" in read_metrics(run_dir / "metrics.csv")


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no DreamBooth dataset in {PHOTOS}")
def test_photos_have_a_strip_and_no_figures(monkeypatch, tiny_sd, tmp_path):
    photos = [
        "data=dreambooth",
        f"data.root='{PHOTOS}'",
        "data.subject=dog",
        "experiment=dreambooth",
        "data.num_heldout=1",
    ]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *photos, *DRAWN, steps=2)
    assert (run_dir / "samples/training.png").is_file()
    assert not [name for name in read_metrics(run_dir / "metrics.csv") if name.startswith("heldout/")]


@pytest.mark.parametrize("key", ["every_n_steps", "num_prompts", "num_inference_steps"])
def test_what_cannot_be_is_refused(tmp_path, key):
    settings = {"every_n_steps": 2, "num_prompts": 2, "num_inference_steps": 2, "seed": 0, "dirpath": str(tmp_path)}
    with pytest.raises(ValueError, match=f"sample_evaluation.{key}=0"):
        SampleEvaluation(**{**settings, key: 0})


@pytest.mark.parametrize("callbacks", ["sample_evaluation", "[adherence_stopping,sample_evaluation]"])
def test_a_classifier_draws_nothing(tiny_vit, tmp_path, callbacks):
    with pytest.raises(ValueError, match="draws none"):
        fit_vit(tiny_vit, tmp_path / "run", f"+callbacks={callbacks}")


def test_the_report_shows_the_strip_and_why_a_step_was_kept(tiny_sd, tmp_path, capsys):
    settings = [each for each in DRAWN if not each.startswith("+")]
    run_dir = fit(tiny_sd, tmp_path / "run", "experiment=dreambooth_early_stopped", *BASE, *settings)
    stopping = json.loads((run_dir / "metrics.json").read_text())["stopping"]
    assert stopping["chosen_step"] in (0, 2, 4) and len(stopping["curve"]) == 3
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "Along the training" in report and stopping["reason"].replace("'", "&#39;") in report
    assert f"adherence_stopping {stopping['reason']}" in capsys.readouterr().out
