"""Weights & Biases without a question asked: offline where no API key is set."""

import json
import netrc
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from PIL import Image

from report.diagnostic_grids import diagnostic_grids


def wandb_logger(*, project: str, name: str, save_dir: str) -> WandbLogger:
    """A logger that uploads when a key is set (WANDB_API_KEY or ~/.netrc), and writes to `save_dir` otherwise."""
    os.environ.setdefault("WANDB_SILENT", "true")
    mode = os.environ.get("WANDB_MODE")
    return WandbLogger(
        project=project, name=name, save_dir=save_dir, offline=mode == "offline" or (mode is None and not has_api_key())
    )


def has_api_key() -> bool:
    """Whether wandb would log in without asking; the key itself is never read into the project."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return "api.wandb.ai" in netrc.netrc(Path.home() / ".netrc").hosts
    except (OSError, netrc.NetrcParseError):
        return False


def log_picture(logger: Logger, name: str, picture: Image.Image, *, step: int) -> None:
    """Shows `picture` at `step` while the run goes on, in W&B alone."""
    if isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step=step)


def publish(logger: Any, run_dir: Path) -> None:
    """Logs the pictures of `run_dir` (samples with their prompts, grids, attention maps) and results, to W&B alone."""
    if not isinstance(logger, WandbLogger):
        return
    if (run_dir / "attention/grid.png").is_file():
        logger.log_image("attention", [str(run_dir / "attention/grid.png")])
    samples = run_dir / "samples"
    drawn = (samples / "samples.json").is_file()
    entries = json.loads((samples / "samples.json").read_text()) if drawn else []
    for grid in diagnostic_grids(samples, entries):
        logger.log_image(grid.path.parent.name, [str(grid.path)], caption=[f"{grid.title}: {grid.prompt}"])
    if (samples / "guidance_grid.png").is_file():
        logger.log_image("guidance_grid", [str(samples / "guidance_grid.png")])
    for entry in entries:
        for kind in ("base", "tuned"):
            prompt = entry["prompt"] if kind == "tuned" else entry["prior_prompt"]
            paths = [str(samples / path) for path in entry[kind]]
            logger.log_image(f"samples/{kind}", paths, caption=[prompt] * len(paths))
    metrics = json.loads((run_dir / "metrics.json").read_text())["metrics"]
    rows = [[name, *(figures[key] for key in ("tuned", "base", "reference"))] for name, figures in metrics.items()]
    logger.log_table("metrics", columns=["metric", "tuned", "base", "reference"], data=rows)
    logger.experiment.finish()
