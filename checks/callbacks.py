"""Callbacks that would have nothing to look at are refused; no torch."""

from typing import Any

from omegaconf import DictConfig

from checks.arguments import class_attribute
from checks.kind import is_classifier

_DRAWS, _STOPS, _TELLS = "draws_along", "stops_by_adherence", "tells_adherence"
"""What the classes of callbacks and metrics say of themselves."""


def check_callbacks(cfg: DictConfig, data: Any) -> None:
    """Refuses `SampleEvaluation` and `AdherenceStopping` where they have nothing to look at.

    Args:
        data: the instantiated data of the run, or None.

    Raises:
        ValueError: the run draws nothing, nothing tells what is drawn, or there are too few prompts for an error.
    """
    found = [(key, node) for key, node in (cfg.get("callbacks") or {}).items() if node]
    nodes = {says: pair for says in (_DRAWS, _STOPS) for pair in found if class_attribute(pair[1]._target_, says)}
    for name in (_DRAWS, _STOPS):
        if name in nodes and (data is None or is_classifier(cfg)):
            raise ValueError(
                f"callbacks.{nodes[name][0]} looks at drawn pictures, and this run draws none: leave it out"
            )
    if _DRAWS in nodes and not data.evaluation_prompts:
        raise ValueError(f"callbacks.{nodes[_DRAWS][0]}: the data have no evaluation_prompts to draw")
    if _STOPS not in nodes:
        return
    if (cfg.get("guidance") or {}).get("scale") == "auto":
        raise ValueError(
            f"callbacks.{nodes[_STOPS][0]} stops a run by pictures as they will be judged, and guidance.scale=auto is "
            "found at its end: give a number, or leave the callback out"
        )
    metrics = ((cfg.get("evaluation") or {}).get("metrics") or {}).values()
    if not _is_judged(cfg, data) and not any(class_attribute(node._target_, _TELLS) for node in metrics):
        raise ValueError(
            f"callbacks.{nodes[_STOPS][0]} needs to know what pictures show, and no judge reads these: evaluation.judge"
            " reads the embedded subjects' alone; add a text similarity (+evaluation/metrics=clip_t), or leave the "
            "callback out"
        )
    if _DRAWS in nodes and min(nodes[_DRAWS][1].num_prompts, len(data.evaluation_prompts)) < 2:
        raise ValueError(f"callbacks.{nodes[_STOPS][0]}: 1 prompt has no standard error; draw more of them")


def _is_judged(cfg: DictConfig, data: Any) -> bool:
    from datamodules.sprites.embedded_subject import EmbeddedSubject

    return isinstance(data, EmbeddedSubject) and bool((cfg.get("evaluation") or {}).get("judge"))
