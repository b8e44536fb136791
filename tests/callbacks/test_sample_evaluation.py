"""Pictures along the training: the training does not notice them, and everything is as before after them."""

import json
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from safetensors.torch import load_file

import run
from callbacks.sample_evaluation import SampleEvaluation
from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.world import render
from evaluation.figures.similarity_curves import SimilarityCurves, curve_names
from metrics.div import DIV
from metrics.image_similarity import ImageSimilarity
from metrics.picture_metric import Drawn
from metrics.sprites.attribute_adherence import shares_right
from metrics.sprites.sprites_judge import SpritesJudge
from metrics.text_similarity import TextSimilarity
from report.metrics_csv import read_metrics
from report.training_strip import TILE, training_strip
from sampling.guidance import ClassifierFreeGuidance
from sampling.sampler import sample_guided
from tests.picture_metrics import embeddings, heldout, subject
from tests.runs import adapter_weights, cheap, compose, fit, fit_vit, same, train
from tests.tiny import ROOT

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
    names = ("heldout/attribute_adherence", "heldout/identity", "heldout/image_similarity/sprites-vit")
    figures = {name: curves.pop(name) for name in names}
    assert curves == without
    for points in figures.values():  # before the first step, after the 2nd, the 4th and the last
        assert [step for step, _ in points] == [0, 1, 3, 4]
        assert all(-1 <= value <= 1 for _, value in points)
    assert figures["heldout/identity"][0][1] != figures["heldout/identity"][-1][1]
    with Image.open(drawn / "samples/training.png") as strip:
        assert strip.height > 3 * TILE and strip.width > 4 * TILE


class EndsEarly(Callback):
    """As `trainer.max_time` would, at a known step."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        trainer.should_stop = trainer.global_step == 3


def test_the_end_is_looked_at_however_the_training_ends(monkeypatch, tiny_sd, tmp_path):
    ends = f"+callbacks.ends_early._target_={EndsEarly.__module__}.EndsEarly"
    drawn = train(monkeypatch, tiny_sd, tmp_path / "drawn", "experiment=dreambooth", *BASE, *DRAWN, ends, steps=8)
    points = read_metrics(drawn / "metrics.csv")["heldout/attribute_adherence"]
    assert [step for step, _ in points] == [0, 1, 2]  # before the first step, after the 2nd and the third, the last


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_resumed_equals_unbroken(monkeypatch, tiny_sd, tmp_path):
    overrides = ["experiment=apt_dreambooth", *BASE, *DRAWN, "callbacks.model_checkpoint.every_n_train_steps=3"]
    overrides.append("+callbacks.model_checkpoint.save_top_k=-1")
    unbroken = train(monkeypatch, tiny_sd, tmp_path / "unbroken", *overrides, steps=6)
    path = f"ckpt_path='{unbroken}/checkpoints/step_3.ckpt'"
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
            hooks = sum(
                len(each._forward_hooks) + len(each._forward_pre_hooks) for each in pl_module.denoiser.modules()
            )
            modes = [each.training for each in pl_module.denoiser.modules()]
            grads = [parameter.requires_grad for parameter in pl_module.denoiser.parameters()]
            return pl_module.model.pipeline.unet is pl_module.denoiser, hooks, modes, grads, torch.is_grad_enabled()

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


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("guidance", ["consistency", "parallel_rescaled"])
def test_pictures_are_guided_as_the_evaluations_are(monkeypatch, tiny_sd, tmp_path, guidance, adapter):
    """The strip's pictures at each check, and everything of the model afterwards."""
    overrides = ["experiment=dreambooth", *BASE, *DRAWN, f"adapter={adapter}", f"guidance={guidance}"]
    overrides += ["callbacks.sample_evaluation.num_prompts=2", "guidance.guidance_scale=2", "optimizer.lr=5e-2"]
    cfg = compose(tmp_path / "composed", *cheap(tiny_sd, tmp_path / "run"), *overrides)
    evaluation, cfg_alone = instantiate(cfg.evaluation.guidance), ClassifierFreeGuidance(guidance_scale=2.0)
    assert (type(evaluation).__name__.lower(), evaluation.guidance_scale) == (f"{guidance.replace('_', '')}guidance", 2)
    checks, draw = [], SampleEvaluation._draw

    def watched(self, pl_module):
        model, before = pl_module.model, model_state(pl_module)
        assert (model.pretrained_denoiser is model.denoiser) == (adapter == "lora")
        pictures = draw(self, pl_module)
        assert model_state(pl_module) == before
        settings = {"seeds": [1000, 1001], "num_inference_steps": 2, "description": None}
        by_evaluation, by_cfg = (sample_guided(model, self.pairs, g, **settings)[0] for g in (evaluation, cfg_alone))
        checks.append([[each.tobytes() for each in drawn] for drawn in (pictures, by_evaluation, by_cfg)])
        return pictures

    monkeypatch.setattr(SampleEvaluation, "_draw", watched)
    train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, steps=2)
    assert len(checks) == 2
    assert all(pictures == by_evaluation for pictures, by_evaluation, _ in checks)
    assert checks[-1][0] != checks[-1][2] and checks[0][0] != checks[1][0]


def model_state(pl_module):
    model, modules = pl_module.model, []
    for denoiser in {id(each): each for each in (pl_module.denoiser, pl_module.frozen_denoiser)}.values():
        modules += denoiser.modules()
    layers = [each for each in modules if isinstance(each, BaseTunerLayer)]
    return (
        model.network is pl_module.denoiser and model.pretrained_denoiser is pl_module.frozen_denoiser,
        [len(each._forward_hooks) + len(each._forward_pre_hooks) for each in modules],
        [each.training for each in modules],
        [parameter.requires_grad for each in modules for parameter in each.parameters(recurse=False)],
        [(each.disable_adapters, list(each.active_adapters)) for each in layers],
        torch.is_grad_enabled(),
    )


def test_a_whole_float32_unet_draws_beside_bfloat16_encoders(monkeypatch, tiny_sd, tmp_path):
    full = ["adapter=full", "model.dtype=bfloat16", "optimizer.lr=1e-4"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", *BASE, *DRAWN, *full, steps=2)
    assert "heldout/identity" in read_metrics(run_dir / "metrics.csv")


def test_wandb_is_shown_figures_gamma_and_pictures_while_the_run_goes_on(monkeypatch, tiny_sd, tmp_path):
    logged = []
    wandb_run = MagicMock(log=logged.append)
    monkeypatch.setattr("report.wandb_logger.wandb_logger", lambda **_: WandbLogger(experiment=wandb_run))
    monkeypatch.setattr("report.wandb_logger.publish", lambda *_: logged.append("the training has ended"))
    logger = [f"+logger.wandb.{each}" for each in ("_target_=report.wandb_logger.wandb_logger", "project=p", "name=n")]
    validated = [*BASE, *DRAWN, *logger, "trainer.val_check_interval=2"]
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=apt_dreambooth", *validated, steps=4)
    assert [logged.pop(), logged.pop()] == ["the training has ended"] * 2  # once a logger
    drawn = {each["trainer/global_step"]: each["training"][0].image for each in logged if "training" in each}
    assert list(drawn) == [0, 1, 3]
    assert drawn[3].width == drawn[0].width + 2 * TILE  # a column more each time
    with Image.open(run_dir / "samples/training.png") as strip:
        assert np.array_equal(np.asarray(drawn[3]), np.asarray(strip))
    curves = read_metrics(run_dir / "metrics.csv")
    for name in ("heldout/attribute_adherence", "heldout/identity", "heldout/relative_loss/bin_00", "gamma/bin_00"):
        assert [(each["trainer/global_step"], each[name]) for each in logged if name in each] == curves[name]


def test_similarities_are_those_of_the_final_evaluation(tiny_clip):
    subject_, pictures = subject(num_heldout=2), heldout(subject(num_heldout=3, seed=1))
    prompts = ["a red heart", "a heart", "a heart on a pink background"]
    clip = {"backbone": str(tiny_clip), "weights": None}
    metrics = {"text": TextSimilarity(**clip), "image": ImageSimilarity(**clip), "div": DIV(net="alex")}
    named = curve_names(metrics, subject_)
    assert list(named) == ["heldout/text_similarity/tiny-clip", "heldout/image_similarity/tiny-clip"]
    found = SimilarityCurves(named, subject_, prompts, batch_size=2)(pictures)
    drawn = Drawn(pictures=pictures, prompts=prompts, class_pictures=())
    for name, metric in named.items():
        assert metric.look(drawn, subject_, embeddings()) == len(found[name]) == 3
        assert np.mean(found[name]) == pytest.approx(float(metric.compute()), abs=1e-6)
    assert len(set(found["heldout/text_similarity/tiny-clip"])) == 3


# Photos: no judge and no exact masks, so what is read off is what `evaluation.metrics` names.


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, each in enumerate(heldout(subject(num_heldout=3))):
        each.save(folder / f"{number}.png")
    return ["experiment=dreambooth", "data=folder", f"data.root='{folder}'", "data.class_word=heart"]


def clip_t(tiny_clip):
    return ["+evaluation/metrics=text_similarity", f"evaluation.metrics.text_similarity.backbone='{tiny_clip}'"]


def test_photos_have_the_similarities_that_the_evaluation_names(monkeypatch, tiny_sd, tiny_clip, tmp_path, photos):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *photos, *clip_t(tiny_clip), *DRAWN, steps=2)
    assert (run_dir / "samples/training.png").is_file()
    curves = read_metrics(run_dir / "metrics.csv")
    # No picture is held out, so that image similarity is that to the training pictures.
    for name in ("heldout/text_similarity/tiny-clip", "train/image_similarity/sprites-vit"):
        assert [step for step, _ in curves[name]] == [0, 1]
    assert "heldout/attribute_adherence" not in curves and "heldout/identity" not in curves


def test_photos_can_be_stopped_by_text_similarity(monkeypatch, tiny_sd, tiny_clip, tmp_path, photos):
    told = {}
    monkeypatch.setattr("callbacks.sample_evaluation.SimilarityCurves", lambda *_, **__: falling())
    monkeypatch.setattr("tasks.fit.judge", lambda *_, info, **__: told.update(info) or tmp_path / "report.html")
    both = ["+callbacks=[sample_evaluation,adherence_stopping]", *(each for each in DRAWN if each[0] != "+")]
    run_dir = tmp_path / "run"
    run.fit(compose(run_dir, *cheap(tiny_sd, run_dir, steps=9), *photos, *clip_t(tiny_clip), *both), run_dir)
    assert (told["steps"], told["stopping"]["chosen_step"]) == (2, 2)
    assert told["stopping"]["adherence"] == "heldout/text_similarity/tiny-clip"
    assert [check["adherence"] for check in told["stopping"]["curve"]] == pytest.approx([0.3, 0.4, 0.2, 0.1])


def falling():
    levels = iter([0.3, 0.4, 0.2, 0.1])

    def similarities(pictures):
        level = next(levels)
        each = [level - 0.01, level, level + 0.01]
        return {"train/image_similarity/sprites-vit": [0.5] * 3, "heldout/text_similarity/tiny-clip": each}

    return similarities


def test_photos_that_nothing_can_read_are_not_stopped(tiny_sd, tmp_path, photos):
    with pytest.raises(ValueError, match=r"no judge reads these.*evaluation/metrics=clip_t"):
        fit(tiny_sd, tmp_path / "run", *photos, "+callbacks=[sample_evaluation,adherence_stopping]")


@pytest.mark.parametrize("key", ["every_n_steps", "num_prompts", "num_inference_steps"])
def test_what_cannot_be_is_refused(tmp_path, key):
    counts = {"every_n_steps": 2, "num_prompts": 2, "num_inference_steps": 2}
    with pytest.raises(ValueError, match=f"sample_evaluation.{key}=0"):
        SampleEvaluation(**{**counts, key: 0}, seed=0, dirpath=str(tmp_path), judge=None, identity=None, metrics={})


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
