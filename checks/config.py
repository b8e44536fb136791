"""What can be wrong with a composed run, told before anything slow is imported or loaded; no torch."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from checks.arguments import arguments, check_nodes, class_attribute
from checks.callbacks import check_callbacks
from checks.folders import check_identity, check_judge, check_pipeline_folder, check_vit
from checks.kind import is_classifier, trains_nothing
from checks.metrics import check_metric_nodes
from checks.values import check_noise_offset

_NODES = (
    "module", "model", "adapter", "token", "optimizer", "lr_scheduler", "data", "datamodule", "trainer", "evaluation",
    "guidance",
)  # fmt: skip
_GROUPS = ("callbacks", "logger", "regularizer")
_SECTIONS = ("name", "task", "seed", "ckpt_path", "run", "adapters", "weights", "prompts", *_NODES, *_GROUPS)


def check(cfg: DictConfig) -> Any:
    """The data of a composed run; whatever is wrong with it is told here.

    Raises:
        ValueError: an unknown section or key, a node without `_target_`, or a choice that does not go with another.
        FileNotFoundError: a checkpoint, a model, a judge or a metric's weights are not there.
    """
    _check_sections(cfg)
    if cfg.get("token"):
        _refuse_data_without_identifier(cfg.get("data"))
    check_nodes(nodes(cfg))
    if cfg.get("data") and not cfg.get("evaluation"):
        raise ValueError("a run on data is judged at its end, and evaluation is empty: leave evaluation=default")
    if cfg.get("ckpt_path") and not Path(cfg.ckpt_path).is_file():
        raise FileNotFoundError(f"ckpt_path={cfg.ckpt_path}: no such checkpoint")
    if "noise_offset" in (cfg.get("module") or {}):
        check_noise_offset(cfg.module.noise_offset)
    data = instantiate(cfg.data) if cfg.get("data") else None
    _check_evaluation(data, cfg.get("evaluation"))
    if cfg.get("model"):
        _check_model(cfg)
    check_callbacks(cfg, data)
    return _with_token(cfg, data)


def _check_evaluation(data: Any, evaluation: DictConfig | None) -> None:
    from datamodules.sprites.embedded_subject import EmbeddedSubject

    if evaluation and isinstance(data, EmbeddedSubject):
        if judge := evaluation.get("judge"):
            check_judge(judge)
        if data.is_object and (identity := evaluation.get("identity")):
            check_identity(identity)
    check_metric_nodes(evaluation)


def nodes(cfg: DictConfig) -> dict[str, Any]:
    """The composed nodes by section, with interpolations as they stand."""
    return {key: OmegaConf.to_container(cfg[key]) for key in _SECTIONS if OmegaConf.is_dict(cfg.get(key))}


def _check_sections(cfg: DictConfig) -> None:
    if unknown := set(cfg) - set(_SECTIONS):
        raise ValueError(f"unknown key {min(unknown)!r}: the sections are {', '.join(_SECTIONS)}")
    given = {key: cfg.get(key) for key in _NODES}
    given |= {f"{group}.{key}": node for group in _GROUPS for key, node in (cfg.get(group) or {}).items()}
    if without := [key for key, node in given.items() if node and "_target_" not in node]:
        raise ValueError(
            f"{without[0]} has no _target_, so it would do nothing: name a class, or drop it (~{without[0]})"
        )


def _check_model(cfg: DictConfig) -> None:
    if not is_classifier(cfg):
        check_pipeline_folder(cfg.model.pretrained, class_attribute(cfg.model._target_, "pipeline_class"))
        return
    check_vit(cfg.model.pretrained, cfg.model.checkpoint)
    if cfg.get("guidance"):
        raise ValueError("guidance is for pictures that are drawn, and this model is a classifier: guidance=null")


def _with_token(cfg: DictConfig, data: Any) -> Any:
    """The data, with no learned token left in the frozen model's prompts."""
    if not cfg.get("token"):
        if trains_nothing(cfg.get("adapter")):
            raise ValueError("adapter=none trains nothing, and there is no learned token: add token=learned")
        return data
    if data is None or is_classifier(cfg):
        raise ValueError("token=learned adds a word to a text encoder, which this run has none of: leave it out")
    from datamodules.subject import with_class_words

    token = instantiate(cfg.token)
    data = with_class_words(data, token.class_words)
    token.check(cfg.model.pretrained, data)
    return data


def _refuse_data_without_identifier(data: DictConfig | None) -> None:
    """Before `check_nodes`, which would name the keys that `token=learned` adds and not that choice."""
    takes = arguments(data._target_) if data else None
    if data and takes is not None and "identifier" not in takes:
        raise ValueError(
            f"token=learned adds a word to a text encoder, and no prompt of {data._target_} has an identifier that it "
            "could be: leave it out"
        )
