"""`evaluation.metrics` from the command line to `metrics.json` and the report."""

import json

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torchvision import models

import run
from checks.config import check
from evaluation.figures.attributes import SAYS
from evaluation.figures.pictures import check_metrics, figure_name
from metrics.checkpoint_hash import checkpoint_hash
from metrics.div import DIV
from metrics.image_similarity import ImageSimilarity
from tests.picture_metrics import VIT
from tests.runs import compose, fit
from tests.tiny import ROOT

METRICS = sorted(path.stem for path in (ROOT / "conf/evaluation/metrics").glob("*.yaml"))
DEFAULT = ("image_similarity", "nearest_training_similarity")
HUB = ("dino", "clip_i", "clip_t")  # the same classes on weights that are downloaded
PARTS = ("vae", "text_encoder", "unet")
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
    similarity = metrics["image_similarity/sprites-vit"]
    assert similarity["checkpoint"] == checkpoint_hash(ROOT / "assets/sprites-vit/model.safetensors")
    assert similarity["counts"] == {"tuned": 2, "base": 2, "reference": 5} and similarity["compared_with"] == 3
    assert similarity["reference"] > similarity["base"]
    assert "text_similarity/tiny-clip" in (run_dir / "report.html").read_text(encoding="utf-8")


REQUIRED = {
    "tuned", "base", "reference", "counts", "description", "model", "checkpoint", "transform", "pairing", "prompts",
    "seed",
}  # fmt: skip
READ_PROMPTS = {
    "background_adherence", "text_similarity/tiny-clip", "pres/sprites-vit", "similarity/diffusion_features",
    "heldout/relative_loss", *(f"attribute_adherence/{name}" for name in SAYS),
}  # fmt: skip
# Of `TEMPLATES`: those that name a background; those with another object's colour, or the subject's own.
BACKGROUND, COLOR = 13, 6


def test_every_figure_says_what_it_was_measured_with(monkeypatch, tiny_sd, tiny_clip, tmp_path):
    """With all metrics on; LPIPS under a random AlexNet, FID and KID in the few features of a random CLIP."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    network = models.alexnet(weights=None)
    monkeypatch.setattr(models, "alexnet", lambda **kwargs: network)
    file = DIV(net="alex").file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    real = tmp_path / "real"
    real.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(real / f"{number}.png")
    run_dir = fit(
        tiny_sd, tmp_path / "run", "experiment=dreambooth", "data.num_heldout=3", "trainer.val_check_interval=2"
    )
    out_dir = tmp_path / "again"
    overrides = [f"+evaluation/metrics=[{','.join(name for name in METRICS if name not in (*DEFAULT, *HUB))}]"]
    overrides += [f"evaluation.metrics.{name}.backbone='{tiny_clip}'" for name in ("text_similarity", "fid", "kid")]
    for name in ("fid", "kid"):
        overrides += [f"evaluation.metrics.{name}.real='{real}'", f"evaluation.metrics.{name}.num_features=16"]
    overrides += ["evaluation.metrics.kid.subset_size=10", "evaluation.metrics.pres.num_class_pictures=2"]
    run.evaluate(compose(out_dir, "task=evaluate", f"run='{run_dir}'", *overrides), out_dir)

    metrics = json.loads((out_dir / "metrics.json").read_text())["metrics"]
    for name, figure in metrics.items():
        assert figure.keys() - {"no_reference", "compared_with", "template"} == REQUIRED, name
        counts = figure["counts"]
        assert ("no_reference" in figure) == (figure["reference"] is None) == (counts["reference"] == 0), name
        assert all(figure[kind] is not None and counts[kind] > 0 for kind in ("tuned", "base")), name
    assert {name for name, figure in metrics.items() if "template" in figure} == READ_PROMPTS
    assert {name for name, figure in metrics.items() if figure["checkpoint"] is None} == {"background_adherence"}
    silent = {"heldout/relative_loss", "div/lpips_alex", "fid/tiny-clip", "kid/tiny-clip"}
    silent |= {f"attribute_adherence/{name}" for name in ("color", "texture", "size", "position")}
    assert {name for name, figure in metrics.items() if "no_reference" in figure} == silent

    counts = {name: tuple(figure["counts"].values()) for name, figure in metrics.items()}
    assert counts["background_adherence"] == (2 * BACKGROUND, 2 * BACKGROUND, 3)
    assert counts["attribute_adherence/color"] == (2 * COLOR, 2 * COLOR, 0)
    assert counts["attribute_adherence/noun"] == (40, 40, 3)
    assert counts["similarity/diffusion_features"] == counts["image_similarity/sprites-vit"] == (40, 40, 5)
    assert counts["heldout/relative_loss"] == (3, 3, 0)
    assert counts["pres/sprites-vit"] == (2, 2, 5) and metrics["pres/sprites-vit"]["compared_with"] == 8
    assert metrics["pres/sprites-vit"]["prompts"] == "a photo of a heart"
    diffusion = {part: checkpoint_hash(next((tiny_sd / part).glob("*.safetensors"))) for part in PARTS}
    for name in ("similarity/diffusion_features", "heldout/relative_loss"):
        assert metrics[name]["checkpoint"] == diffusion


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
        check(compose(tmp_path, override))


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
