"""Holdfast's one entry point: `python run.py experiment=apt_dreambooth`. Read top to bottom, it is what a run does."""

import math
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from checks.config import check, nodes
from checks.finished_run import (
    evaluation_of,
    finished_run,
    is_classifier,
    override_run,
    prompt_pairs,
    record_of_runs,
    runs_to_draw_with,
    steps_of,
)
from checks.run_folder import refuse_existing, refuse_other_run, refuse_used

# lightning 2.6 copies an old torch.utils._pytree, which every Trainer warns of.
warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
# A node with this among its defaults takes any key, and its class is asked for it later: `guidance.key=…` may be meant
# for a finished run, whose guidance Hydra does not know.
ConfigStore.instance().store("any_key", OmegaConf.create({}, flags={"struct": False}))
OmegaConf.register_new_resolver("share", lambda share, whole: round(share * whole), replace=True)
OmegaConf.register_new_resolver("product", lambda *factors: math.prod(factors), replace=True)
OmegaConf.register_new_resolver("run_name", lambda task, name: name if task == "fit" else task, replace=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    tasks = {"fit": fit, "evaluate": evaluate, "sample": sample}
    try:
        if cfg.task not in tasks:
            raise ValueError(f"task={cfg.task}: choose one of {', '.join(tasks)}")
        if cfg.task != "sample" and (cfg.adapters or cfg.weights):
            raise ValueError(f"adapters are merged by task=sample; task={cfg.task} takes none")
        tasks[cfg.task](cfg, Path(HydraConfig.get().runtime.output_dir))
    except (ValueError, OSError, FloatingPointError, InstantiationException, OmegaConfBaseException) as error:
        message = f"error: {_cause(error)}\n(HYDRA_FULL_ERROR=1 shows where)"
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode == RunMode.MULTIRUN:  # the other jobs of the sweep go on; Hydra fails at the end
            print(message, file=sys.stderr)
            raise
        sys.exit(message)


def fit(cfg: DictConfig, run_dir: Path) -> None:
    """Trains, saves what was trained, judges it."""
    _refuse_parallel_sweep(cfg)
    data = check(cfg)
    is_first = _is_first_process()
    refuse_other_run(cfg)
    if is_first:
        refuse_existing(run_dir, cfg.ckpt_path)
    resume_step = _global_step(cfg.ckpt_path)

    import lightning.pytorch as L

    from callbacks.adherence_stopping import adherence_stopping
    from checks.arguments import check_nodes
    from report.metrics_csv import MetricsCSV, carry_over
    from report.provenance import provenance, write_provenance

    check_nodes(nodes(cfg), imported=True)
    L.seed_everything(cfg.seed, verbose=False)
    resolved = OmegaConf.to_container(cfg, resolve=True)
    if is_first:
        OmegaConf.save(resolved, run_dir / "config.yaml")
        write_provenance(run_dir)
    evaluation = instantiate(cfg.evaluation) if data else None
    datamodule = instantiate(cfg.datamodule, data) if data else instantiate(cfg.datamodule)
    drawn_by = {"guidance": evaluation.guidance} if cfg.get("guidance") and evaluation else {}  # one, for both
    module = instantiate(cfg.module, **drawn_by)
    if evaluation:
        evaluation.check(module.model, data)
    if cfg.ckpt_path and is_first:
        carry_over(Path(cfg.ckpt_path).resolve().parents[1] / "metrics.csv", run_dir)
    metrics_csv = MetricsCSV(run_dir, resume_step=resume_step)
    loggers = [metrics_csv, *(instantiate(cfg.logger) or {}).values()]
    for logger in loggers:
        logger.log_hyperparams({"config": resolved, **provenance()})
    plugins = list(getattr(module, "regularizers", {}).values())
    trainer = instantiate(cfg.trainer, callbacks=[*instantiate(cfg.callbacks).values(), *plugins], logger=loggers)
    started = perf_counter()
    trainer.fit(module, datamodule=datamodule, ckpt_path=cfg.ckpt_path, weights_only=True)
    seconds = {"fit": perf_counter() - started}
    if data is None or not trainer.is_global_zero:
        return

    module.save(run_dir)
    for logger in loggers:
        logger.save()
    info = {"experiment": cfg.name, "steps": trainer.global_step, "seed": cfg.seed, "seconds": seconds}
    if stopping := adherence_stopping(trainer.callbacks):
        info |= {"steps": stopping.kept_step, "stopping": stopping.record}
    report = _judge(evaluation, cfg, datamodule, run_dir=run_dir, out_dir=run_dir, info=info)
    _publish(loggers, run_dir)
    if stopping:
        print(f"adherence_stopping {stopping.record['reason']}")
    _say_where(run_dir, report)


def evaluate(cfg: DictConfig, out_dir: Path) -> None:
    """Judges a finished run again, with this command line's `evaluation`, into a folder of its own."""
    run_dir, run_cfg = finished_run(cfg.run, task=cfg.task)
    refuse_used(out_dir)
    override_run(run_cfg, cfg)
    run_cfg.evaluation = evaluation_of(run_cfg, cfg)
    data = check(run_cfg)
    evaluation = instantiate(run_cfg.evaluation)
    datamodule = instantiate(run_cfg.datamodule, data)
    OmegaConf.save(run_cfg, out_dir / "config.yaml")
    for name in ("metrics.csv", "provenance.json", "samples/training.png"):
        if (run_dir / name).exists():
            (out_dir / name).parent.mkdir(exist_ok=True)
            shutil.copy(run_dir / name, out_dir / name)
    info = {"experiment": run_cfg.name, "run": str(run_dir), "seed": run_cfg.seed, **steps_of(run_dir, run_cfg)}
    _say_where(out_dir, _judge(evaluation, run_cfg, datamodule, run_dir=run_dir, out_dir=out_dir, info=info))


def sample(cfg: DictConfig, out_dir: Path) -> None:
    """Draws `prompts` with a finished run, or several merged; picture `i` of each from seed `evaluation.seed + i`."""
    runs = runs_to_draw_with(cfg)
    run_dir, run_cfg = runs[0]
    if is_classifier(run_cfg.model):
        raise ValueError(f"run={run_dir} is a classifier, which draws nothing: task=evaluate judges it")
    if isinstance(cfg.prompts, str):
        raise ValueError(f"prompts={cfg.prompts!r} is no list: prompts=[{cfg.prompts!r}]")
    if not cfg.prompts:
        raise ValueError('prompts=[] names nothing to draw: prompts=["a photo of a sks heart on a pink background"]')
    if cfg.evaluation.images_per_prompt < 1:
        raise ValueError(f"evaluation.images_per_prompt={cfg.evaluation.images_per_prompt}: at least one is drawn")
    refuse_used(out_dir)
    override_run(run_cfg, cfg)
    if not run_cfg.guidance:
        raise ValueError("guidance=null draws nothing: guidance=cfg is classifier-free guidance")

    from checks.folders import check_pipeline_folder
    from evaluation.samples import sample_to_folder
    from models.adapters import load_merged

    check_pipeline_folder(run_cfg.model.pretrained)
    guidance = instantiate(run_cfg.guidance)
    pairs = prompt_pairs(list(cfg.prompts), [each for _, each in runs])
    model, adapter = _load(run_cfg)
    if cfg.adapters:
        for folder, each in runs:
            if token := instantiate(each.get("token")):
                token.load(model.pipeline, folder)
        load_merged(model.pipeline, [folder for folder, _ in runs], weights=list(cfg.weights))
    else:
        adapter.load(model, run_dir)
    settings, info = cfg.evaluation, {"runs": record_of_runs(runs, list(cfg.weights))}
    sample_to_folder(
        model, pairs, guidance, out_dir, images_per_prompt=settings.images_per_prompt, seed=settings.seed, info=info
    )
    print(f"the pictures lie in {out_dir}")


def _is_first_process() -> bool:
    """Whether no other process of this run has been here: under DDP the others are started on the same command line."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _refuse_parallel_sweep(cfg: DictConfig) -> None:
    if HydraConfig.get().mode == RunMode.MULTIRUN and cfg.trainer.devices != 1:
        raise ValueError(
            f"trainer.devices={cfg.trainer.devices} in a sweep: each process would repeat the whole sweep; keep "
            "trainer.devices=1 and let a launcher run the jobs side by side (hydra/launcher=joblib)"
        )


def _judge(evaluation: Any, run_cfg: DictConfig, datamodule: Any, **where: Any) -> Path:
    model, adapter = _load(run_cfg)
    report: Path = evaluation(model, adapter, datamodule, **where)
    return report


def _load(run_cfg: DictConfig) -> tuple[Any, Any]:
    """The pretrained model, on the accelerator that the run was trained on, and the adapter to load into it."""
    import torch

    from models.tokens.settings import TunedWithToken

    model = instantiate(run_cfg.model)
    if run_cfg.trainer.accelerator != "cpu" and torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    adapter, token = instantiate(run_cfg.adapter), instantiate(run_cfg.get("token"))
    return model, TunedWithToken(adapter, token) if token else adapter


def _global_step(ckpt_path: str | None) -> int | None:
    if not ckpt_path:
        return None
    import torch

    try:
        return int(torch.load(ckpt_path, weights_only=True, map_location="cpu")["global_step"])
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(f"ckpt_path={ckpt_path} is no checkpoint of a run ({type(error).__name__})") from None


def _publish(loggers: list[Any], run_dir: Path) -> None:
    from report.wandb_logger import publish

    for logger in loggers:
        publish(logger, run_dir)


def _say_where(out_dir: Path, report: Path) -> None:
    print(f"report {report}, everything else beside it in {out_dir}")


def _cause(error: BaseException) -> str:
    """The first cause's message in one line: Hydra wraps what a constructor raises."""
    while isinstance(error, InstantiationException) and error.__cause__:
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} is not set: give it on the command line ({error.full_key}=…)"
    return " ".join(str(error).split())


if __name__ == "__main__":
    main()
