"""`evaluation.metrics` from the command line to `metrics.json` and the report."""

import json

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import run
from lightning_modules.picture_figures import check_metrics, figure_name
from metrics.checkpoint_hash import checkpoint_hash
from metrics.div import DIV
from metrics.image_similarity import ImageSimilarity
from tests.conftest import ROOT
from tests.picture_metrics import VIT
from tests.runs import compose, fit

METRICS = sorted(path.stem for path in (ROOT / "conf/evaluation/metrics").glob("*.yaml"))
FIGURES = {"image_similarity/sprites-vit", "nearest_training_similarity/sprites-vit"}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_composes_and_can_be_built(tmp_path, name):
    real = [f"evaluation.metrics.{name}.real=x"] if name in ("fid", "kid") else []
    cfg = compose(tmp_path, f"evaluation/metrics=[{name}]", *real)
    assert list(cfg.evaluation.metrics) == [name] and not OmegaConf.missing_keys(cfg.evaluation)
    assert instantiate(cfg.evaluation.metrics[name]).name in (name, "image_similarity", "text_similarity")


def test_figures_are_written_with_what_they_were_measured_with(tiny_sd, tiny_clip, tmp_path):
    clip = f"evaluation.metrics.text_similarity.backbone='{tiny_clip}'"
    overrides = ["experiment=dreambooth", "data.num_heldout=3", "+evaluation/metrics=text_similarity", clip]
    run_dir = fit(tiny_sd, tmp_path / "run", *overrides)
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert metrics.keys() >= {*FIGURES, "text_similarity/tiny-clip"}
    for name in (*FIGURES, "text_similarity/tiny-clip"):
        figure = metrics[name]
        assert all(-1 <= figure[kind] <= 1 for kind in ("tuned", "base", "reference"))
        assert figure.keys() >= {"model", "checkpoint", "transform", "pairing", "prompts", "seed", "description"}
    similarity = metrics["image_similarity/sprites-vit"]
    assert similarity["checkpoint"] == checkpoint_hash(ROOT / "assets/sprites-vit/model.safetensors")
    assert similarity["counts"] == {"tuned": 2, "base": 2, "reference": 5} and similarity["compared_with"] == 3
    assert similarity["reference"] > similarity["base"]
    for name in ("identity", "attribute_adherence/noun", "similarity/diffusion_features"):
        assert metrics[name].keys() >= {"model", "checkpoint", "pairing", "counts", "seed"}
    assert "text_similarity/tiny-clip" in (run_dir / "report.html").read_text(encoding="utf-8")

    out_dir = tmp_path / "again"
    out_dir.mkdir()
    pres = ["+evaluation/metrics=pres", "evaluation.metrics.pres.num_class_pictures=2", "evaluation.max_prompts=1"]
    run.evaluate(compose(out_dir, "task=evaluate", f"run='{run_dir}'", *pres), out_dir)
    figure = json.loads((out_dir / "metrics.json").read_text())["metrics"]["pres/sprites-vit"]
    assert figure["counts"] == {"tuned": 2, "base": 2, "reference": 5} and figure["compared_with"] == 8
    assert figure["prompts"] == "a photo of a heart"


@pytest.mark.parametrize(
    ("override", "error", "match"),
    [
        ("evaluation.metrics.image_similarity.backbone=x", FileNotFoundError, r"metrics\.image_similarity: backbone=x"),
        ("+evaluation.metrics.mine.weight=1", ValueError, r"evaluation\.metrics\.mine has no _target_"),
        ("+evaluation.metrics.image_similarity.x=1", ValueError, "unknown key 'evaluation.metrics.image_similarity.x'"),
    ],
)
def test_what_cannot_be_had_is_told_before_anything_is_loaded(tmp_path, override, error, match):
    with pytest.raises(error, match=match):
        run.check(compose(tmp_path, override))


def test_two_figures_of_one_name_are_refused():
    one, other = (ImageSimilarity(backbone=VIT, weights=None) for _ in range(2))
    assert figure_name(one) == "image_similarity/sprites-vit"
    check_metrics({"one": one}, num_prompts=1, images_per_prompt=1)
    with pytest.raises(ValueError, match=r"evaluation\.metrics\.other and one are both image_similarity/sprites-vit"):
        check_metrics({"one": one, "other": other}, num_prompts=1, images_per_prompt=1)


def test_div_is_refused_without_weights_or_pairs(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"metrics\.div: div needs torchvision's alexnet, and .* is not there"):
        check_metrics({"div": DIV(net="alex")}, num_prompts=1, images_per_prompt=2)
    with pytest.raises(ValueError, match=r"metrics\.div: .*images_per_prompt to 2 or more"):
        check_metrics({"div": DIV(net="alex")}, num_prompts=9, images_per_prompt=1)
    with pytest.raises(ValueError, match="choose one of alex, vgg, squeeze"):
        DIV(net="resnet")
