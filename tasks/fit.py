"""`task=fit`: trains, saves what was trained, judges it."""

import pickle
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from checks.arguments import check_nodes
from checks.assets import with_assets
from checks.config import check, nodes
from checks.run_folder import is_first_process, refuse_existing, refuse_other_run
from tasks.finished import judge, say_where

if TYPE_CHECKING:
    import lightning.pytorch as L
    from lightning.pytorch.loggers import Logger


def fit(cfg: DictConfig, run_dir: Path) -> None:
    """Trains in `run_dir`, saves what was trained there, and judges it.

    Raises:
        ValueError, OSError: what `check`, `refuse_existing` and `refuse_other_run` refuse; a folder is untouched then.
        FloatingPointError: a loss is not finite.
        SystemExit: the training was stopped by a signal; the message names the checkpoint.
    """
    found = with_assets(cfg)
    data, resume_step = _checked(cfg, found, run_dir)

    import lightning.pytorch as L

    L.seed_everything(cfg.seed, verbose=False)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    evaluation = instantiate(found.evaluation) if data else None
    datamodule = instantiate(found.datamodule, data) if data else instantiate(found.datamodule)
    module = instantiate(found.module, **_drawn_by(found, evaluation))
    if evaluation:
        evaluation.check(module.model, data)
    trainer = _trainer(cfg, module)
    if is_first_process():  # nothing is refused from here on
        _write_down(cfg, resolved, run_dir)
    trainer.loggers = _loggers(cfg, resolved, run_dir, resume_step=resume_step)
    started = perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
    seconds = perf_counter() - started
    if data is None or not trainer.is_global_zero:
        return
    module.save(run_dir)
    _judge_run(found, trainer, evaluation, datamodule, run_dir=run_dir, seconds=seconds)


def _checked(cfg: DictConfig, found: DictConfig, run_dir: Path) -> tuple[Any, int | None]:
    """The data, and the step that is resumed from; nothing is written before this."""
    _refuse_parallel_sweep(cfg)
    data = check(found)
    refuse_other_run(cfg)
    if is_first_process():
        refuse_existing(run_dir, cfg.ckpt_path)
    resume_step = _global_step(cfg.ckpt_path)
    check_nodes(nodes(cfg), imported=True)
    return data, resume_step


def _refuse_parallel_sweep(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices != 1:
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices} in a sweep: each process would repeat the whole sweep; keep "
            "trainer.devices=1 and let a launcher run the jobs side by side (hydra/launcher=joblib)"
        )


def _global_step(ckpt_path: str | None) -> int | None:
    if not ckpt_path:
        return None
    import torch

    try:
        return int(torch.load(ckpt_path, weights_only=True, map_location="cpu")["global_step"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"ckpt_path={ckpt_path} is no checkpoint of a run ({type(error).__name__})") from None


def _drawn_by(cfg: DictConfig, evaluation: Any) -> dict[str, Any]:
    """The one guidance by which the module and its evaluation draw.

    Raises:
        ValueError: they are given different ones.
    """
    if not (evaluation and cfg.get("guidance") and "guidance" in cfg.module):
        return {}
    if not cfg.module.guidance == cfg.evaluation.guidance == cfg.guidance:
        raise ValueError("module.guidance and evaluation.guidance are guidance: set guidance.… alone")
    return {"guidance": evaluation.guidance}


def _write_down(cfg: DictConfig, resolved: Any, run_dir: Path) -> None:
    from report.provenance import write_command_line, write_provenance

    OmegaConf.save(resolved, run_dir / "config.yaml")
    write_command_line(cfg, run_dir)
    write_provenance(run_dir)


def _loggers(cfg: DictConfig, resolved: Any, run_dir: Path, *, resume_step: int | None) -> "list[Logger]":
    from report.metrics_csv import MetricsCSV, carry_over
    from report.provenance import provenance

    if cfg.ckpt_path and is_first_process():
        carry_over(Path(cfg.ckpt_path).resolve().parent.parent / "metrics.csv", run_dir)
    loggers = [MetricsCSV(run_dir, resume_step=resume_step), *(instantiate(cfg.logger) or {}).values()]
    for logger in loggers:
        logger.log_hyperparams({"config": resolved, **provenance()})
    return loggers


def _trainer(cfg: DictConfig, module: "L.LightningModule") -> "L.Trainer":
    """Without loggers, which write as they are made."""
    plugins = list(getattr(module, "regularizers", {}).values())
    callbacks = [*instantiate(cfg.callbacks).values(), *plugins]
    trainer: L.Trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=False)
    return trainer


def _judge_run(
    cfg: DictConfig, trainer: "L.Trainer", evaluation: Any, datamodule: Any, *, run_dir: Path, seconds: float
) -> None:
    from callbacks.adherence_stopping import adherence_stopping
    from report.wandb_logger import publish

    for logger in trainer.loggers:
        logger.save()
    info = {"experiment": cfg.name, "steps": trainer.global_step, "seed": cfg.seed, "seconds": {"fit": seconds}}
    if stopping := adherence_stopping(trainer.callbacks):  # type: ignore[attr-defined]
        info |= {"steps": stopping.kept_step, "stopping": stopping.record}
    report = judge(evaluation, cfg, datamodule, run_dir=run_dir, out_dir=run_dir, info=info)
    for logger in trainer.loggers:
        publish(logger, run_dir)
    if stopping:
        print(f"adherence_stopping {stopping.record['reason']}")
    say_where(run_dir, report)
