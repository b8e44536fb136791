"""What the tasks share: a finished run's model, loaded and judged."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


def load(run_cfg: DictConfig) -> tuple[Any, Any]:
    """The pretrained model, on the accelerator that the run was trained on, and the adapter to load into it."""
    import torch

    from models.tokens.settings import TunedWithToken

    model = instantiate(run_cfg.model)
    if run_cfg.trainer.accelerator != "cpu" and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    adapter, token = instantiate(run_cfg.adapter), instantiate(run_cfg.get("token"))
    return model, TunedWithToken(adapter, token) if token else adapter


def judge(evaluation: Any, run_cfg: DictConfig, datamodule: Any, **where: Any) -> Path:
    """Judges what a run saved, and returns its report; `where` are arguments of the evaluation."""
    model, adapter = load(run_cfg)
    report: Path = evaluation(model, adapter, datamodule, **where)
    return report


def say_where(out_dir: Path, report: Path) -> None:
    """Tells a user where to look."""
    print(f"report {report}, everything else beside it in {out_dir}")
