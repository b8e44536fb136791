"""The figures of `evaluation.metrics`."""

from collections.abc import Mapping
from typing import Any

from evaluation.figures.figure import Compared, Figure, stand_alone
from metrics.embeddings import Embeddings
from metrics.picture_metric import PictureMetric


def check_metrics(metrics: Mapping[str, PictureMetric], *, num_prompts: int, images_per_prompt: int) -> None:
    """Whether every figure can be had, asked before training; fetches weights that are not here yet.

    Args:
        metrics: by their keys in `evaluation.metrics`.

    Raises:
        ValueError: one cannot, or two would have one name; names the key.
        FileNotFoundError: weights or pictures of one are missing; names the key.
    """
    names: dict[str, str] = {}
    for key, metric in metrics.items():
        try:
            metric.check(num_pictures=num_prompts * images_per_prompt, images_per_prompt=images_per_prompt)
        except (ValueError, FileNotFoundError) as error:
            raise type(error)(f"evaluation.metrics.{key}: {error}") from None
        if (name := figure_name(metric)) in names:
            raise ValueError(f"evaluation.metrics.{key} and {names[name]} are both {name}: leave one of them out")
        names[name] = key


def figure_name(metric: PictureMetric) -> str:
    """As in "image_similarity/dino_vits16"."""
    return f"{metric.name}/{metric.model_name}"


def picture_figures(compared: Compared, *, metrics: Mapping[str, PictureMetric]) -> dict[str, Figure]:
    """Each metric's figure of both models and of real pictures, with what it was measured with, by `figure_name`."""
    model, subject = compared.model, compared.subject
    embeddings = Embeddings(device=model.pipeline.device, batch_size=model.inference_batch_size)
    figures: dict[str, Figure] = {}
    for metric in metrics.values():
        values: dict[str, float | None] = {}
        counts: dict[str, int] = {}
        stand_alone(metric)
        for kind, drawn in (("tuned", compared.tuned), ("base", compared.base), ("reference", None)):
            metric.reset()
            seen = metric.look(drawn, subject, embeddings) if drawn else metric.look_at_real(subject, embeddings)
            counts[kind], values[kind] = seen, float(metric.compute()) if seen else None
        metric.reset()
        missing = {} if counts["reference"] else {"no_reference": metric.no_reference}
        said: dict[str, Any] = {**values, **metric.describe(subject, embeddings), "counts": counts, **missing}
        figures[figure_name(metric)] = Figure(**said)
    return figures
