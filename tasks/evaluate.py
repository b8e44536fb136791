"""`task=evaluate run=<run>`: judges a finished run again."""

import shutil
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from checks.assets import with_assets
from checks.config import check
from checks.finished_run import evaluation_of, finished_run, override_run, steps_of
from checks.run_folder import refuse_used
from tasks.finished import judge, say_where

_COPIED = ("metrics.csv", "provenance.json", "samples/training.png")


def evaluate(cfg: DictConfig, out_dir: Path) -> None:
    """Judges a finished run again, with this command line's `evaluation`, into a folder of its own.

    Raises:
        ValueError, OSError: no such run, an override without an effect, or `out_dir` is used; it is untouched then.
    """
    run_dir, run_cfg = finished_run(cfg.run, task=cfg.task)
    refuse_used(out_dir)
    override_run(run_cfg, cfg)
    run_cfg.evaluation = evaluation_of(run_cfg, cfg)
    found = with_assets(run_cfg)
    data = check(found)
    evaluation = instantiate(found.evaluation)
    datamodule = instantiate(found.datamodule, data)
    OmegaConf.save(run_cfg, out_dir / "config.yaml")
    for name in _COPIED:
        if (run_dir / name).exists():
            (out_dir / name).parent.mkdir(exist_ok=True)
            shutil.copy(run_dir / name, out_dir / name)
    info = {"experiment": run_cfg.name, "run": str(run_dir), "seed": run_cfg.seed, **steps_of(run_dir, run_cfg)}
    say_where(out_dir, judge(evaluation, found, datamodule, run_dir=run_dir, out_dir=out_dir, info=info))
