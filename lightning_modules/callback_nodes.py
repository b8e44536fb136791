"""Whether the composed callbacks can look at the composed run; no torch, so that it is told at once."""

from typing import Any

from omegaconf import DictConfig

from lightning_modules.finished_run import is_classifier

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
    if data.judge is None and not any(str(node._target_).endswith(f".{READS}") for node in metrics):
        raise ValueError(
            f"callbacks.{nodes[STOPS][0]} needs to know what pictures show, and data.judge is null: only the embedded "
            "subjects have a judge; add a text similarity (+evaluation/metrics=clip_t), or leave the callback out"
        )
    if DRAWS in nodes and min(nodes[DRAWS][1].num_prompts, len(data.evaluation_prompts)) < 2:
        raise ValueError(f"callbacks.{nodes[STOPS][0]}: 1 prompt has no standard error; draw more of them")
