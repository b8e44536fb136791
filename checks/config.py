"""What can be wrong with a composed run, told before anything slow is imported or loaded; no torch."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from checks.backbones import backbone_source
from checks.finished_run import is_classifier, trains_nothing
from checks.folders import check_safetensors

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
    if unknown := set(cfg) - set(_SECTIONS):
        raise ValueError(f"unknown key {min(unknown)!r}: the sections are {', '.join(_SECTIONS)}")
    given = {key: cfg.get(key) for key in _NODES}
    given |= {f"{group}.{key}": node for group in _GROUPS for key, node in (cfg.get(group) or {}).items()}
    if without := [key for key, node in given.items() if node and "_target_" not in node]:
        raise ValueError(
            f"{without[0]} has no _target_, so it would do nothing: name a class, or drop it (~{without[0]})"
        )
    from checks.arguments import check_nodes
    from checks.values import check_noise_offset

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
        _check_model(cfg.model)
        if is_classifier(cfg.model) and cfg.get("guidance"):
            raise ValueError("guidance is for pictures that are drawn, and this model is a classifier: guidance=null")
    check_callbacks(cfg, data)
    return _with_token(cfg, data)


def _check_evaluation(data: Any, evaluation: DictConfig | None) -> None:
    from checks.folders import check_identity, check_judge
    from datamodules.sprites.embedded_subject import EmbeddedSubject

    if evaluation and isinstance(data, EmbeddedSubject):
        if judge := evaluation.get("judge"):
            check_judge(judge)
        if data.is_object and (identity := evaluation.get("identity")):
            check_identity(identity)
    check_metric_nodes(evaluation)


def _with_token(cfg: DictConfig, data: Any) -> Any:
    """The data, with no learned token left in the frozen model's prompts."""
    if not cfg.get("token"):
        if trains_nothing(cfg.get("adapter")):
            raise ValueError("adapter=none trains nothing, and there is no learned token: add token=learned")
        return data
    if data is None or is_classifier(cfg.model):
        raise ValueError("token=learned adds a word to a text encoder, which this run has none of: leave it out")
    from datamodules.subject import with_class_words

    token = instantiate(cfg.token)
    data = with_class_words(data, token.class_words)
    token.check(cfg.model.pretrained, data)
    return data


def _refuse_data_without_identifier(data: DictConfig | None) -> None:
    """Before `check_nodes`, which would name the keys that `token=learned` adds and not that choice."""
    from checks.arguments import arguments

    takes = arguments(data._target_) if data else None
    if data and takes is not None and "identifier" not in takes:
        raise ValueError(
            f"token=learned adds a word to a text encoder, and no prompt of {data._target_} has an identifier that it "
            "could be: leave it out"
        )


def _check_model(model: DictConfig) -> None:
    from checks.folders import check_pipeline_folder, check_vit

    if is_classifier(model):
        check_vit(model.pretrained, model.checkpoint)
    else:
        check_pipeline_folder(model.pretrained)


def nodes(cfg: DictConfig) -> dict[str, Any]:
    """The composed nodes by section, with interpolations as they stand."""
    return {key: OmegaConf.to_container(cfg[key]) for key in _SECTIONS if OmegaConf.is_dict(cfg.get(key))}


DRAWS, STOPS, READS = "SampleEvaluation", "AdherenceStopping", "TextSimilarity"


def check_callbacks(cfg: DictConfig, data: Any) -> None:
    """Refuses `SampleEvaluation` and `AdherenceStopping` where they have nothing to look at.

    Args:
        data: the instantiated data of the run, or None.

    Raises:
        ValueError: the run draws nothing, nothing tells what is drawn, or there are too few prompts for an error.
    """
    nodes = {
        str(node._target_).rpartition(".")[2]: (key, node) for key, node in (cfg.get("callbacks") or {}).items() if node
    }
    for name in (DRAWS, STOPS):
        if name in nodes and (data is None or is_classifier(cfg.model)):
            raise ValueError(
                f"callbacks.{nodes[name][0]} looks at drawn pictures, and this run draws none: leave it out"
            )
    if DRAWS in nodes and not data.evaluation_prompts:
        raise ValueError(f"callbacks.{nodes[DRAWS][0]}: the data have no evaluation_prompts to draw")
    if STOPS not in nodes:
        return
    metrics = ((cfg.get("evaluation") or {}).get("metrics") or {}).values()
    if not _is_judged(cfg, data) and not any(str(node._target_).endswith(f".{READS}") for node in metrics):
        raise ValueError(
            f"callbacks.{nodes[STOPS][0]} needs to know what pictures show, and no judge reads these: evaluation.judge "
            "reads the embedded subjects' alone; add a text similarity (+evaluation/metrics=clip_t), or leave the "
            "callback out"
        )
    if DRAWS in nodes and min(nodes[DRAWS][1].num_prompts, len(data.evaluation_prompts)) < 2:
        raise ValueError(f"callbacks.{nodes[STOPS][0]}: 1 prompt has no standard error; draw more of them")


def _is_judged(cfg: DictConfig, data: Any) -> bool:
    from datamodules.sprites.embedded_subject import EmbeddedSubject

    return isinstance(data, EmbeddedSubject) and bool((cfg.get("evaluation") or {}).get("judge"))


def check_metric_nodes(evaluation: DictConfig | None) -> None:
    """Refuses a metric that has no class, or a backbone whose weights are neither here nor on a hub that may be asked.

    Raises:
        ValueError: a node has no `_target_`, or its backbone is no model; see `backbone_source`.
        FileNotFoundError: see `backbone_source`.
    """
    for name, node in ((evaluation.get("metrics") if evaluation else None) or {}).items():
        key = f"evaluation.metrics.{name}"
        if "_target_" not in node:
            raise ValueError(f"{key} has no _target_, so it would do nothing: add one of conf/, +evaluation/metrics=…")
        if "backbone" not in node:
            continue
        try:
            source = backbone_source(node.backbone, node.weights)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{key}: {error}") from None
        if source.repository is None and source.weights.suffix == ".safetensors":
            check_safetensors(source.weights, key=f"{key}.backbone")
