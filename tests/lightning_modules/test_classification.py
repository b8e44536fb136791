"""Every way to tune a ViT, end to end on a random-weight one."""

import json
import math

import pytest
import timm
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from peft import PeftModel
from safetensors.torch import load_file

import run
from datamodules.pictures import read_picture
from lightning_modules.classification import ClassificationModule
from report.metrics_csv import read_metrics
from tests.runs import VIT, checkpoint, compose, fit_vit, same, vit_weights
from tests.tiny import save_tiny_vit


@pytest.mark.parametrize("experiment", VIT)
def test_every_experiment_runs(tiny_vit, tmp_path, experiment):
    run_dir = fit_vit(tiny_vit, tmp_path / "run", f"experiment={experiment}", "data.num_train=2", steps=4)
    curves = read_metrics(run_dir / "metrics.csv")
    assert [step for step, _ in curves["loss/total"]] == [0, 1, 2, 3]
    assert all(math.isfinite(value) for points in curves.values() for _, value in points)
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    assert 0 <= metrics["test/accuracy"]["tuned"] <= 1 and metrics["test/attention_jaccard/best_head"]["base"] > 0
    assert (run_dir / "attention/grid.png").is_file()
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert "data:image/" in report and 'src="http' not in report


@pytest.mark.parametrize(
    ("experiment", "passes"),
    [("gta_vit", 1), ("gta_transmix_vit", 1), ("feature_distill_vit", 1), ("finetune_vit", 0), ("bss_vit", 0)],
)
def test_the_source_runs_once_a_step_and_only_if_asked(monkeypatch, tiny_vit, tmp_path, experiment, passes):
    calls = []
    original = ClassificationModule.reference_pass
    monkeypatch.setattr(ClassificationModule, "reference_pass", lambda *args: calls.append(1) or original(*args))
    fit_vit(tiny_vit, tmp_path / "run", f"experiment={experiment}", steps=3)
    assert len(calls) == 3 * passes


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("experiment", ["gta_transmix_vit", "lora_vit"])
def test_resume_is_bit_for_bit(tiny_vit, tmp_path, experiment):
    overrides = [f"experiment={experiment}", "callbacks.model_checkpoint.every_n_train_steps=2",
                 "+callbacks.model_checkpoint.save_top_k=-1"]  # fmt: skip
    whole = fit_vit(tiny_vit, tmp_path / "whole", *overrides, steps=4)
    middle = whole / "checkpoints/step_2.ckpt"
    assert checkpoint(middle)["global_step"] == 2
    resumed = fit_vit(tiny_vit, tmp_path / "resumed", *overrides, f"ckpt_path='{middle}'", steps=4)
    assert same(vit_weights(whole), vit_weights(resumed))


def test_workers_change_nothing(tiny_vit, tmp_path):
    alone = fit_vit(tiny_vit, tmp_path / "alone")
    helped = fit_vit(tiny_vit, tmp_path / "helped", "datamodule.num_workers=2")
    assert same(vit_weights(alone), vit_weights(helped))


def test_checkpointing_changes_nothing(tiny_vit, tmp_path):
    plain = vit_weights(fit_vit(tiny_vit, tmp_path / "plain"))
    again = vit_weights(fit_vit(tiny_vit, tmp_path / "again", "model.gradient_checkpointing=true"))
    assert all(torch.allclose(plain[name], again[name], atol=1e-6) for name in plain)


def test_held_out_pictures_keep_the_test_unseen(tiny_vit, tmp_path):
    run_dir = fit_vit(tiny_vit, tmp_path / "run", "data.validation_share=0.25", "trainer.val_check_interval=2")
    record = json.loads((run_dir / "metrics.json").read_text())
    assert list(record["seconds"]) == ["fit", "evaluation"]
    assert record["pictures"]["validation"] == 16 and record["pictures"]["train"] == 48
    assert all(name.startswith("validation/") for name in record["metrics"])
    assert len(read_metrics(run_dir / "metrics.csv")["validation/accuracy"]) == 2


def test_saved_as_timm_and_peft_read_it(tiny_vit, tmp_path):
    full = fit_vit(tiny_vit, tmp_path / "full")
    vit = timm.create_model(f"local-dir:{full / 'vit'}", pretrained=True)
    assert vit.head.out_features == 16
    assert vit.pretrained_cfg["label_names"][0] == "ember with cream"
    lora = fit_vit(tiny_vit, tmp_path / "lora", "experiment=lora_vit")
    base = timm.create_model(f"local-dir:{tiny_vit}", pretrained=True, num_classes=16)
    pictures = torch.randn(2, 3, 32, 32)
    adapted = PeftModel.from_pretrained(base, lora / "adapter").eval()
    before = adapted(pictures)
    with adapted.disable_adapter():
        assert not torch.equal(before, adapted(pictures))


def test_other_runs_are_shown_beside(tiny_vit, tmp_path):
    plain = fit_vit(tiny_vit, tmp_path / "plain", "experiment=finetune_vit")
    gta = fit_vit(tiny_vit, tmp_path / "gta")
    out_dir = tmp_path / "again"
    out_dir.mkdir()
    overrides = ["task=evaluate", f"run='{gta}'", "evaluation=classification", f"evaluation.compare=['{plain}']"]
    run.evaluate(compose(out_dir, *overrides, "evaluation.mass=0.9"), out_dir)
    heights = [read_picture(folder / "attention/grid.png").height for folder in (gta, out_dir)]
    assert heights[1] > heights[0]
    metrics = [json.loads((folder / "metrics.json").read_text())["metrics"] for folder in (gta, out_dir)]
    assert metrics[0]["test/accuracy"] == metrics[1]["test/accuracy"]
    name = "test/attention_jaccard/head_mean"
    assert metrics[0][name] != metrics[1][name]


def test_head_learns_faster_and_lower_blocks_slower(tiny_vit, tmp_path):
    overrides = ["model.resolution=32", "module.layer_decay=0.5", "trainer.max_steps=1", "optimizer.lr=1"]
    cfg = compose(tmp_path, "experiment=gta_vit", f"model.pretrained='{tiny_vit}'", *overrides)
    module = instantiate(cfg.module)
    module.model.set_classes("abc")
    module.vit = module.model.vit
    rates = {name: 0.0 for name, _ in module.vit.named_parameters()}
    names = {id(p): name for name, p in module.vit.named_parameters()}
    for group in module.trained_groups({"lr": 1.0, "weight_decay": 0.1}):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
    assert rates["head.weight"] == 10
    assert rates["blocks.1.attn.qkv.weight"] == 2 * rates["blocks.0.attn.qkv.weight"] == 4 * rates["cls_token"] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+regularizer=prior_preservation"], "regularizer.prior_preservation reads a DiffusionStep"),
        (["experiment=transmix_vit", "module.mixing=null"], "module.mixing"),
        (["experiment=l2sp_vit", "adapter=vit_lora"], "adapter=full"),
        (["model.pretrained=assets/no-such-vit"], "no such folder"),
        (["model.checkpoint=nowhere.safetensors"], "no such file"),
        (["data.fraction=0"], "data.fraction"),
        (["evaluation.mass=2"], "evaluation.mass"),
        (["evaluation.site=blocks.9.attn"], "blocks.9.attn"),
        (["evaluation.site=blocks.*.attn"], "matches 2 attention modules"),
        (["evaluation.compare=[nowhere]"], "evaluation.compare: nowhere"),
        (["evaluation=default"], "evaluation=default"),
        (["experiment=feature_distill_vit", "adapter=linear_probe"], "nothing of the ViT can be kept"),
        (["adapter=none"], "adapter=none trains nothing"),
        (["regularizer=[denoising]"], "regularizer.denoising reads a DiffusionStep"),
        (["model.resolution=36"], "no multiple of this ViT's patches"),
        (["datamodule.crop_scale=[0.9,0.1]"], "datamodule.crop_scale"),
    ],
)
def test_refused(tiny_vit, tmp_path, overrides, message):
    with pytest.raises((ValueError, OSError, InstantiationException), match=message):
        fit_vit(tiny_vit, tmp_path / "run", *overrides)
    assert not (tmp_path / "run/report.html").exists()


def test_distilled_models_train_both_heads(tmp_path):
    folder = save_tiny_vit(tmp_path / "vit", architecture="deit_tiny_distilled_patch16_224")
    run_dir = fit_vit(folder, tmp_path / "run")
    before, after = load_file(folder / "model.safetensors"), vit_weights(run_dir)
    assert {"head.weight", "head_dist.weight"} <= after.keys() - before.keys()
    assert not torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])
