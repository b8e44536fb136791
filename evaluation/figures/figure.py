"""What a figure of the pictures says of itself in `metrics.json`, and what it looks at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torchmetrics import Metric

from checks.folders import pipeline_weights
from datamodules.subject import PromptPair, Subject
from metrics.checkpoint_hash import checkpoint_hash
from metrics.mean_metric import MeanMetric
from metrics.picture_metric import Drawn
from models.family import DiffusionFamily

Arrays = Sequence[NDArray[np.uint8]]
"""Pictures `[H, W, 3]`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One figure, of both models and of real pictures.

    Args:
        tuned, base, reference: the numbers of the tuned and the base model and of real pictures; None for none.
        counts: how many pictures each of the three is over, 0 beside a None.
        description: what is measured, and which pictures are the real ones.
        model: what looks at the pictures.
        checkpoint: the first 12 digits of its weights' SHA-256, by part where it has several; None where it learned
            nothing, or a part's weights lie in more than one file.
        transform: what a picture goes through before it.
        pairing: what is compared with what.
        compared_with: how many pictures there are on the other side, if any.
        template: the form in which prompts are read, only where the figure reads any.
        no_reference: why, where `reference` is None.
        prompts, seed: what was drawn, and from which noise; None where they are the evaluation's.
    """

    tuned: float | None
    base: float | None
    reference: float | None
    counts: Mapping[str, int]
    description: str
    model: str
    checkpoint: str | Mapping[str, str | None] | None
    transform: str
    pairing: str
    compared_with: int | None = None
    template: str | None = None
    no_reference: str | None = None
    prompts: str | None = None
    seed: int | None = None

    def record(self, *, prompts: str, seed: int) -> dict[str, Any]:
        """For `metrics.json`, without what has nothing to say.

        Args:
            prompts, seed: the evaluation's.
        """
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        optional = {field.name for field in fields(self) if field.default is None}
        kept = {name: value for name, value in said.items() if value is not None or name not in optional}
        return {"prompts": prompts, "seed": seed} | kept


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What both models drew for the same prompts from the same noise, and all else that a figure may look at.

    Args:
        model: the pretrained one, whatever is loaded into its pipeline.
        pairs: the prompt of each picture.
        tuned, base: what the two drew.
        metrics_csv: of the training.
        steps, seed: the training's: the steps behind the weights, the run's seed.
    """

    model: DiffusionFamily
    subject: Subject
    pairs: Sequence[PromptPair]
    tuned: Drawn
    base: Drawn
    metrics_csv: Path
    steps: int
    seed: int

    @cached_property
    def arrays(self) -> dict[str, Arrays]:
        """What was drawn, "tuned" and "base"."""
        drawn = {"tuned": self.tuned, "base": self.base}
        return {kind: [np.asarray(picture) for picture in each.pictures] for kind, each in drawn.items()}

    @property
    def prompts(self) -> list[str]:
        """Of each picture, with the class word alone."""
        return [pair.prior for pair in self.pairs]

    @cached_property
    def model_checkpoint(self) -> dict[str, str | None]:
        """Hashes of the pretrained weights by the pipeline's parts, see `Figure`."""
        weights = pipeline_weights(self.model.pretrained)
        return {part: checkpoint_hash(file) if file else None for part, file in weights.items()}


class Figures(Protocol):
    """Any number of figures of one kind by their names; none where there is nothing that they could be of."""

    def __call__(self, compared: Compared, /) -> Mapping[str, Figure]: ...


def stand_alone(metric: Metric) -> None:
    """Keeps `metric` in its process: only the first judges a run, and would wait in vain for the others of DDP."""
    metric.distributed_available_fn = lambda: False


def means(metric: MeanMetric, pictures: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The mean and the `counts` of each kind of `pictures`; None where nothing was counted.

    Args:
        pictures: the arguments of `metric.update` by kind ("tuned").
    """
    stand_alone(metric)
    values: dict[str, float | None] = {}
    counts: dict[str, int] = {}
    for kind, arguments in pictures.items():
        metric.reset()
        metric.update(*arguments)
        counts[kind] = int(metric.count)
        values[kind] = float(metric.compute()) if counts[kind] else None
    return {**values, "counts": counts}
