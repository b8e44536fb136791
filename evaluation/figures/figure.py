"""What a figure of the pictures says of itself in `metrics.json`.

Every figure has

- `tuned`, `base`, `reference`: the numbers of the tuned and the base model and of real pictures; null for none;
- `no_reference`: why, where `reference` is null;
- `counts`: how many pictures each of the three is over, 0 beside a null;
- `description`: what is measured, and which pictures are the real ones;
- `model`, `checkpoint`: what looks at the pictures, and the first 12 digits of its weights' SHA-256, by part where it
  has several; null where it learned nothing, or a part's weights lie in more than one file;
- `transform`: what a picture goes through before it;
- `pairing`: what is compared with what; `compared_with` how many pictures there are on the other side, if any;
- `prompts`, `seed`: what was drawn, and from which noise;
- `template`: the form in which prompts are read, only where the figure reads any.
"""

from collections.abc import Mapping
from typing import Any

from torchmetrics import Metric

from metrics.mean_metric import MeanMetric


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
