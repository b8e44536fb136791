"""Runs of `run.py` inside the test's own process, which saves the imports of a subprocess."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from safetensors.torch import load_file
from torch import Tensor

import run

ROOT = Path(__file__).parents[1]
VIT = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*_vit.yaml") if "pretrain" not in path.stem)
"""The experiments that tune a ViT."""


def compose(run_dir: Path, *overrides: str) -> DictConfig:
    """The config that `python run.py <overrides>` would be given for the run folder `run_dir`."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra_compose(
            "config", overrides=[f"hydra.runtime.output_dir='{run_dir}'", *overrides], return_hydra_config=True
        )
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def cheap(tiny_sd: Path, run_dir: Path, *, steps: int = 4) -> list[str]:
    """Overrides that make a run on a random-weight pipeline take a second."""
    return [
        f"model.pretrained='{tiny_sd}'",
        "model.resolution=32",
        "model.num_inference_steps=2",
        "model.indicator_augmentation=true",
        "evaluation.max_prompts=2",
        "evaluation.images_per_prompt=1",
        "datamodule.batch_size=2",
        f"trainer.max_steps={steps}",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "logger=csv",
        f"module.class_image_dir='{run_dir.parent / 'class_images'}'",
    ]


def fit(tiny_sd: Path, run_dir: Path, *overrides: str, steps: int = 4) -> Path:
    """Trains and judges in `run_dir`, cheaply."""
    run.fit(compose(run_dir, *cheap(tiny_sd, run_dir, steps=steps), *overrides), run_dir)
    return run_dir


def fit_vit(tiny_vit: Path, run_dir: Path, *overrides: str, steps: int = 4) -> Path:
    """Trains a random-weight ViT on the embedded task in `run_dir` and judges it, in about a second."""
    cheap_vit = [
        f"model.pretrained='{tiny_vit}'",
        "model.resolution=32",
        "data.num_train=4",
        "data.num_test=1",
        "datamodule.batch_size=4",
        f"trainer.max_steps={steps}",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        "logger=csv",
    ]
    run.fit(compose(run_dir, "experiment=gta_vit", *cheap_vit, *overrides), run_dir)
    return run_dir


def train(monkeypatch: pytest.MonkeyPatch, tiny_sd: Path, run_dir: Path, *overrides: str, steps: int = 4) -> Path:
    """Trains in `run_dir` without judging the outcome."""
    monkeypatch.setattr("tasks.fit.judge", lambda *args, **kwargs: run_dir / "report.html")
    return fit(tiny_sd, run_dir, *overrides, steps=steps)


def adapter_weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(run_dir / "adapter/pytorch_lora_weights.safetensors")


def vit_weights(run_dir: Path) -> dict[str, Tensor]:
    return load_file(next(run_dir.glob("*/*.safetensors")))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def checkpoint(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)
