"""Every config composes, every experiment and every ablation runs; real photos where they are at hand."""

import json
import math
from html import escape
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import run
from report.metrics_csv import read_metrics
from tests.runs import compose, fit, train
from tests.tiny import PHOTOS, ROOT

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
DIFFUSION = [name for name in EXPERIMENTS if not name.startswith("pretrain") and not name.endswith("_vit")]
FEW_CLASS_IMAGES = "regularizer.prior_preservation.num_class_images=2"
APT = "experiment=apt_dreambooth"
SURE = "regularizer.overfitting_indicator.scale=1e5"  # a tiny model overfits little: raise γ

needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no DreamBooth dataset in {PHOTOS}")


def assert_complete(run_dir: Path, *, steps: int) -> None:
    """All parts of a run folder, with finite curves."""
    curves = read_metrics(run_dir / "metrics.csv")
    assert [step for step, _ in curves["loss/total"]] == list(range(steps))
    assert all(math.isfinite(value) for points in curves.values() for _, value in points)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["steps"] == steps and metrics["metrics"]
    assert list(metrics["seconds"]) == ["fit", "evaluation"] and min(metrics["seconds"].values()) > 0
    assert any((run_dir / name).exists() for name in ("adapter", "unet", "learned_embeds.safetensors"))
    assert list((run_dir / "samples/base").glob("*.png")) and list((run_dir / "samples/tuned").glob("*.png"))
    assert list((run_dir / "references").glob("*.png")) and list((run_dir / "checkpoints").glob("*.ckpt"))
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "data:image/" in report and 'src="http' not in report
    assert all(
        escape(entry["prompt"], quote=False) in report
        for entry in json.loads((run_dir / "samples/samples.json").read_text())
    )
    for name in ("config.yaml", "provenance.json"):
        assert (run_dir / name).is_file()


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(tmp_path, experiment):
    cfg = compose(tmp_path, f"experiment={experiment}")
    assert OmegaConf.to_container(cfg, resolve=True)["name"] == experiment
    assert not OmegaConf.missing_keys(cfg)


GROUPS = ["model", "data", "adapter", "token", "optimizer", "lr_scheduler", "module", "logger"]
# These two belong to the pretraining experiments, which leave the groups out that the others need.
CHOICES = [
    f"{group}={path.stem}"
    for group in GROUPS
    for path in sorted((ROOT / "conf" / group).glob("*.yaml"))
    if not path.stem.startswith("pretrain")
]
CLASSIFICATION = {"cluttered_objects", "cub200", "fgvc_aircraft", "image_folder", "oxford_pets", "stanford_cars"}
CLASSIFICATION |= {"stanford_dogs"}
VIT = {f"data={name}" for name in CLASSIFICATION} | {choice for choice in CHOICES if "vit" in choice}
REQUIRED = {
    "data=dreambooth": ["data.root=x", "data.subject=y"],
    "data=folder": ["data.root=x", "data.class_word=y"],
    **{f"data={name}": ["data.root=x"] for name in CLASSIFICATION - {"cluttered_objects"}},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_only_its_named_values_are_open(tmp_path, choice):
    experiment = "finetune_vit" if choice in VIT else "dreambooth"
    cfg = compose(tmp_path, f"experiment={experiment}", choice, *REQUIRED.get(choice, []))
    assert OmegaConf.to_container(cfg, resolve=True)
    assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize("path", sorted((ROOT / "conf/regularizer").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_regularizer_composes_and_can_be_built(tmp_path, path):
    cfg = compose(tmp_path, "experiment=dreambooth", f"regularizer=[{path.stem}]")
    assert list(cfg.regularizer) == [path.stem]
    instantiate(cfg.regularizer[path.stem])


@pytest.mark.parametrize("experiment", ["gta_vit", "linear_probe_vit"])
def test_the_recipe_of_real_pictures_composes(tmp_path, experiment):
    cfg = compose(tmp_path, f"experiment={experiment}", "+recipe=vit_small", "data=cub200", "data.root=x")
    assert not OmegaConf.missing_keys(cfg)
    assert (cfg.datamodule.resolution, cfg.datamodule.crop_pct, cfg.optimizer.lr) == (224, 0.875, 1e-4)
    assert cfg.lr_scheduler.num_warmup_steps == 100  # 5 % of the steps


def test_loggers_can_be_had_together(tmp_path):
    assert set(compose(tmp_path, "logger=[wandb,tensorboard]").logger) == {"wandb", "tensorboard"}


@pytest.mark.parametrize("experiment", DIFFUSION)
def test_every_experiment_runs_to_its_report(tiny_sd, tmp_path, experiment):
    extra = [FEW_CLASS_IMAGES] if experiment == "dreambooth_prior" else []
    overrides = [f"experiment={experiment}", *extra, "data.num_heldout=2", "trainer.val_check_interval=2"]
    run_dir = fit(tiny_sd, tmp_path / "run", *overrides)
    assert_complete(run_dir, steps=4)
    curves = read_metrics(run_dir / "metrics.csv")
    assert sum(name.startswith("heldout/relative_loss/") for name in curves) == 10
    assert len(list((run_dir / "references/heldout").glob("*.png"))) == 2

    out_dir = tmp_path / "again"
    out_dir.mkdir()
    run.evaluate(compose(out_dir, "task=evaluate", f"run='{run_dir}'", "evaluation.max_prompts=1"), out_dir)
    assert_complete_evaluation(out_dir, prompts=1)
    assert OmegaConf.load(out_dir / "config.yaml").evaluation.max_prompts == 1


def test_the_judge_s_figures_are_written_and_shown(tiny_sd, tmp_path):
    run_dir = fit(tiny_sd, tmp_path / "run", "experiment=dreambooth", "data.num_heldout=4", "evaluation.max_prompts=20")
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    figures = {name.rpartition("/")[2]: m for name, m in metrics.items() if name.startswith("attribute_adherence/")}
    assert list(figures) == ["noun", "color", "texture", "size", "position", "count", "all"]
    assert all(0 <= figure[model] <= 1 for figure in figures.values() for model in ("tuned", "base"))
    # The held-out pictures' prompts name the noun and the background, and the judge knows the subject.
    assert {name: f["reference"] for name, f in figures.items() if f["reference"] is not None} == dict.fromkeys(
        ("noun", "count", "all"), 1
    )
    assert (
        "of the 6 that are asked for it" in figures["color"]["description"]
    )  # 4 prompts with a second object, 2 recolour
    assert metrics["identity"]["reference"] > metrics["identity"]["base"] + 0.1
    assert "attribute_adherence/color" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_a_run_without_judge_has_no_such_figures(tiny_sd, tmp_path):
    run_dir = fit(
        tiny_sd, tmp_path / "run", "experiment=dreambooth", "evaluation.judge=null", "evaluation.identity=null"
    )
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert "background_adherence" in metrics
    assert not [name for name in metrics if name.startswith(("attribute_", "identity"))]


def assert_complete_evaluation(out_dir: Path, *, prompts: int) -> None:
    assert "<dt>evaluation</dt>" in (out_dir / "report.html").read_text(encoding="utf-8")
    assert list(json.loads((out_dir / "metrics.json").read_text())["seconds"]) == ["evaluation"]
    assert len(json.loads((out_dir / "samples/samples.json").read_text())) == prompts


@pytest.mark.parametrize("experiment", ["dreambooth", "dreambooth_prior"])
def test_the_whole_unet_can_be_tuned(tiny_sd, tmp_path, experiment):
    extra = [FEW_CLASS_IMAGES] if experiment == "dreambooth_prior" else []
    run_dir = fit(tiny_sd, tmp_path / "run", f"experiment={experiment}", "adapter=full", "optimizer.lr=1e-4", *extra)
    assert_complete(run_dir, steps=4)
    assert (run_dir / "unet/config.json").is_file() and not (run_dir / "adapter").exists()


@pytest.mark.parametrize("experiment", ["dreambooth", "apt_dreambooth"])
def test_velocity_is_predicted_with_min_snr(tiny_sd_v, tmp_path, experiment):
    run_dir = fit(tiny_sd_v, tmp_path / "run", f"experiment={experiment}", "+regularizer=min_snr")
    assert_complete(run_dir, steps=4)


def test_min_snr_changes_the_run(monkeypatch, tiny_sd, tmp_path):
    losses = [
        read_metrics(train(monkeypatch, tiny_sd, tmp_path / name, "experiment=dreambooth", *extra) / "metrics.csv")
        for name, extra in (("without", []), ("with", ["+regularizer=min_snr"]))
    ]
    assert losses[0]["loss/denoising"] != losses[1]["loss/denoising"]


def test_class_images_are_drawn_once(monkeypatch, tiny_sd, tmp_path):
    overrides = "experiment=dreambooth_prior", FEW_CLASS_IMAGES
    train(monkeypatch, tiny_sd, tmp_path / "one", *overrides)
    drawn = {path: path.stat().st_mtime_ns for path in (tmp_path / "class_images").rglob("*.png")}
    train(monkeypatch, tiny_sd, tmp_path / "two", *overrides)
    assert len(drawn) == 2
    assert drawn == {path: path.stat().st_mtime_ns for path in (tmp_path / "class_images").rglob("*.png")}


ABLATIONS = {
    "no alignment": ["~regularizer.attention_alignment"],
    "no stabilization": ["~regularizer.representation_stabilization"],
    "no indicator": ["~regularizer.overfitting_indicator"],
    "no weighting": ["regularizer.overfitting_indicator.weighting=false", SURE],
    "no augmentation": ["regularizer.overfitting_indicator.augmentation=false", SURE],
    "only measuring": [
        "regularizer.overfitting_indicator.weighting=false",
        "regularizer.overfitting_indicator.augmentation=false",
    ],
    "kl": ["regularizer.attention_alignment.divergence=kl"],
    "bank": ["module.augmentation.bank=2", SURE],
    "reflect": ["module.augmentation.border=reflect", SURE],
    "mask": ["module.augmentation.mask_border=true", SURE],
    "bank and mask": ["module.augmentation.bank=2", "module.augmentation.mask_border=true", SURE],
    "checkpointing": ["model.gradient_checkpointing=true"],
    "accumulation": ["+trainer.accumulate_grad_batches=2"],
    "bfloat16": ["model.dtype=bfloat16"],
    "full": ["adapter=full", "optimizer.lr=1e-4", SURE],
    "prior": ["+regularizer=prior_preservation", FEW_CLASS_IMAGES],
}


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_apt_ablates(monkeypatch, tiny_sd, tmp_path, ablation):
    steps = 6
    overrides = [APT, "optimizer.lr=1e-2", "regularizer.overfitting_indicator.num_bins=1", *ABLATIONS[ablation]]
    if ablation == "no indicator":
        overrides.remove("regularizer.overfitting_indicator.num_bins=1")
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *overrides, steps=steps)
    curves = read_metrics(run_dir / "metrics.csv")
    assert all(math.isfinite(value) for points in curves.values() for _, value in points)
    assert len(curves["loss/total"]) == steps
    assert ("loss/attention_alignment" in curves) == (ablation != "no alignment")
    assert ("loss/representation_stabilization" in curves) == (ablation != "no stabilization")
    assert any("gamma" in name for name in curves) == (ablation != "no indicator")
    augments = ablation not in ("no indicator", "no augmentation", "only measuring")
    assert ("augmentation/share" in curves) == augments
    if augments and SURE in overrides:
        assert sum(share for _, share in curves["augmentation/share"]) > 0


@needs_photos
@pytest.mark.parametrize(
    ("subject", "steps", "class_word"), [("dog", 20, "dog"), ("bear_plushie", 4, "stuffed animal")]
)
def test_real_photos(tiny_sd, tmp_path, subject, steps, class_word):
    photos = ["data=dreambooth", f"data.root='{PHOTOS}'", f"data.subject={subject}", "data.num_heldout=1"]
    run_dir = fit(tiny_sd, tmp_path / "run", APT, *photos, steps=steps)
    assert_complete(run_dir, steps=steps)
    prompts = [entry["prompt"] for entry in json.loads((run_dir / "samples/samples.json").read_text())]
    assert prompts and all(f"sks {class_word}" in prompt for prompt in prompts)
    assert "attribute_adherence" not in (run_dir / "metrics.json").read_text()  # no judge knows photos
