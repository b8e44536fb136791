"""Metrics that could not be computed are refused; no torch."""

from omegaconf import DictConfig

from checks.backbones import backbone_source
from checks.folders import check_safetensors


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
