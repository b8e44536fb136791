"""Finished runs, judged again or drawn with: their folders and configs; no torch, so that it is told at once."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from checks.arguments import check_nodes
from checks.assets import asset
from checks.kind import is_classifier, trains_nothing
from checks.moved import as_today
from checks.values import finite

if TYPE_CHECKING:
    from datamodules.subject import PromptPair

_EVALUATION = ("evaluation.", "evaluation=", "evaluation/")  # a metric is added by +evaluation/metrics, dropped by ~
_DRAWN = ("evaluation.images_per_prompt=", "evaluation.seed=")
_TAKEN = ("task=", "run=", "adapters=", "weights=", "prompts=", "model.", "trainer.accelerator=")


def finished_run(run: str | None, *, task: str) -> tuple[Path, DictConfig]:
    """The folder and the config of a finished run.

    Raises:
        ValueError: no run is named.
        FileNotFoundError: it is no run folder, or the run was not finished, or its learned token is missing.
    """
    if not run:
        raise ValueError(f"task={task} needs run=<folder of a finished run>")
    run_dir = Path(run)
    if not (run_dir / "config.yaml").is_file():
        raise FileNotFoundError(f"run={run} is no run folder: it has no config.yaml")
    written: Any = OmegaConf.to_container(OmegaConf.load(run_dir / "config.yaml"))
    run_cfg = OmegaConf.create(as_today(written))
    assert isinstance(run_cfg, DictConfig)
    if not any(run_dir.glob("*/*.safetensors")) and not trains_nothing(run_cfg.get("adapter")):
        raise FileNotFoundError(f"run={run} has no folder of trained weights (adapter/, …): it was not finished")
    if run_cfg.get("token"):
        instantiate(run_cfg.token).find(run_dir)
    return run_dir, run_cfg


def refuse_other_tasks_keys(cfg: DictConfig) -> None:
    """Raises:
    ValueError: a key of another task is given, which this one would not look at.
    """
    takes = {"fit": (), "evaluate": ("run",), "sample": ("run", "adapters", "weights", "prompts")}[cfg.task]
    for key in ("run", "adapters", "weights", "prompts"):
        if cfg[key] and key not in takes:
            where = "task=sample or task=evaluate" if key == "run" else "task=sample"
            raise ValueError(f"{key}={cfg[key]} belongs to {where}, and this is task={cfg.task}")


def runs_to_draw_with(cfg: DictConfig) -> list[tuple[Path, DictConfig]]:
    """The run of `cfg.run`, or all of `cfg.adapters`, which are to be merged with `cfg.weights`.

    Raises:
        ValueError: both are given, or weights without adapters, or no lists; see `finished_run`, `check_mergeable`.
        FileNotFoundError: see `finished_run`, `check_mergeable`.
    """
    if cfg.adapters and cfg.run:
        raise ValueError(f"run={cfg.run} beside adapters: name every run in adapters")
    if cfg.weights and not cfg.adapters:
        raise ValueError(f"weights={cfg.weights} belong to adapters=[<run>, …], and none are given")
    for name in ("adapters", "weights"):
        if not OmegaConf.is_list(cfg[name]):
            raise ValueError(f"{name}={cfg[name]} is no list: {name}=[{cfg[name]}]")
    runs = [finished_run(each, task=cfg.task) for each in (cfg.adapters or [cfg.run])]
    if cfg.adapters:
        check_mergeable({str(folder): each for folder, each in runs}, weights=list(cfg.weights))
    return runs


def record_of_runs(runs: Sequence[tuple[Path, DictConfig]], weights: Sequence[float]) -> list[dict[str, Any]]:
    """Folder, experiment and weight of each run that is drawn with; one run alone has the weight 1."""
    return [
        {"run": str(folder), "experiment": each.name, "weight": weight}
        for (folder, each), weight in zip(runs, weights or [1.0], strict=True)
    ]


def steps_of(run_dir: Path, run_cfg: DictConfig) -> dict[str, Any]:
    """What a finished run says of the `steps` behind its weights, and of their `stopping`, for a new `metrics.json`."""
    path = run_dir / "metrics.json"
    record = json.loads(path.read_text()) if path.is_file() else {"steps": run_cfg.trainer.max_steps}
    return {name: record[name] for name in ("steps", "stopping") if name in record}


def evaluation_of(run_cfg: DictConfig, cfg: DictConfig) -> DictConfig:
    """This command line's evaluation, or the run's own where the default one is for another kind of model."""
    if cfg.evaluation._target_ == run_cfg.evaluation._target_:
        return cfg.evaluation
    given = [each for each in HydraConfig.get().overrides.task if each.lstrip("+~").startswith(_EVALUATION)]
    if given:
        raise ValueError(f"{given[0]} does not judge this kind of run, {run_cfg.evaluation._target_} does")
    return run_cfg.evaluation


def override_run(run_cfg: DictConfig, cfg: DictConfig) -> None:
    """Puts this command line's `model.…`, `guidance` and `trainer.accelerator` into a finished run's config.

    `guidance=<group>` replaces the run's guidance as a whole; `guidance.key=value` changes one key of it, or of the new
    one where both are given. `model.guidance_scale` is that of what is drawn too, unless `guidance.guidance_scale` is
    given beside it.

    Raises:
        ValueError: another override, which would have no effect on a finished run; or a key that the guidance lacks.
    """
    overrides = [override.lstrip("+") for override in HydraConfig.get().overrides.task]
    for override in overrides:
        _refuse_without_effect(override, run_cfg, cfg.task)
    if any(override.startswith("guidance=") for override in overrides):
        run_cfg.guidance = cfg.guidance  # its scale is of the run's model from now on
    given = [override.partition("=")[0] for override in overrides]
    for key in given:
        if key.startswith(("model.", "guidance.", "trainer.accelerator")):
            OmegaConf.update(run_cfg, key, OmegaConf.select(cfg, key))
    if "model.guidance_scale" in given and "guidance.guidance_scale" not in given and run_cfg.get("guidance"):
        run_cfg.guidance.guidance_scale = run_cfg.model.guidance_scale
    if (run_cfg.get("guidance") or {}).get("scale") == "auto":
        raise ValueError("guidance.scale=auto is found by a training of module=dco_rescale: give a number in [0, 1]")
    nodes = {name: run_cfg.get(name) for name in ("model", "guidance")}
    check_nodes({name: OmegaConf.to_container(node) for name, node in nodes.items() if node})


def _refuse_without_effect(override: str, run_cfg: DictConfig, task: str) -> None:
    if task == "sample" and override.lstrip("~").startswith(_EVALUATION) and not override.startswith(_DRAWN):
        raise ValueError(f"{override} judges, and task=sample only draws: {' and '.join(_DRAWN)} have an effect on it")
    if override.startswith(("guidance=", "guidance.")):
        if is_classifier(run_cfg):
            raise ValueError(f"{override} guides what is drawn, and this run is a classifier")
    elif not override.lstrip("~").startswith((*_TAKEN, *_EVALUATION)):
        raise ValueError(
            f"{override} has no effect on a finished run: model.…, guidance, evaluation.… and prompts have"
        )


def prompt_pairs(prompts: Sequence[str], runs: Sequence[DictConfig]) -> "list[PromptPair]":
    """Prompts for the tuned model, with the pretrained model's form of each: no run's identifier is in it.

    A prompt without any of the identifiers is its own, as all are of runs that have none. Where a learned token stands
    for the class word, the run's data are read again, for they know that word.
    """
    from datamodules.subject import PromptPair, without_identifier  # and PIL with it, which --help does not need

    words = {
        identifier: instantiate(cfg.data).class_word if cfg.data.get("replaces_class_word") else ""
        for cfg in runs
        if (identifier := cfg.data.get("identifier")) is not None
    }
    for token in (instantiate(cfg.token) for cfg in runs if cfg.get("token")):
        words |= token.class_words
    pairs = []
    for prompt in prompts:
        prior = prompt
        for identifier, class_word in words.items():
            prior = without_identifier(prior, identifier, replacement=class_word)
        pairs.append(PromptPair(instance=prompt, prior=prior))
    return pairs


def _resolved(pretrained: str) -> str:
    folder = Path(asset(pretrained)).expanduser()
    return str(folder.resolve()) if folder.is_dir() else pretrained


def check_mergeable(runs: Mapping[str, DictConfig], *, weights: Sequence[float]) -> None:
    """Adapters of several runs add up where they belong to one pretrained model.

    Args:
        runs: their configs, by folder.
        weights: one for each.

    Raises:
        FileNotFoundError: a run has no adapter, for all of its model was tuned.
        ValueError: there are more or fewer weights than runs, or the runs tuned different models.
    """
    if len(weights) != len(runs):
        raise ValueError(f"weights={list(weights)} for {len(runs)} different adapters: give one for each, adapters=[…]")
    for weight in weights:
        finite("weights", weight)
    tokens = [name for cfg in runs.values() if cfg.get("token") for name in instantiate(cfg.token).files]
    if twice := [name for name in tokens if tokens.count(name) > 1]:
        raise ValueError(
            f"adapters: two runs learned the token {twice[0]!r}; train one with another token.placeholder, or another "
            "name in token.others"
        )
    pretrained = {folder: _resolved(cfg.model.pretrained) for folder, cfg in runs.items()}
    for folder, name in pretrained.items():
        if not (Path(folder) / "adapter").is_dir():
            raise FileNotFoundError(f"adapters: {folder} has no adapter/ to merge; runs with adapter=lora have")
        if name != (first := next(iter(pretrained.values()))):
            raise ValueError(f"adapters: {folder} tuned {name}, the first one {first}: they do not add up")
