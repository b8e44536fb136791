"""All figures that a run's pictures are judged by, in the order in which `metrics.json` has them."""

from collections.abc import Mapping
from functools import partial

from evaluation.figures.attributes import attribute_figures
from evaluation.figures.background import background_figure
from evaluation.figures.diffusion_similarity import diffusion_similarity
from evaluation.figures.figure import Figures
from evaluation.figures.identity import identity_figure
from evaluation.figures.pictures import picture_figures
from evaluation.figures.relative_loss import relative_loss_figure
from metrics.picture_metric import PictureMetric


def every_figure(
    *, judge: str | None, identity: str | None, metrics: Mapping[str, PictureMetric]
) -> tuple[Figures, ...]:
    """What judges the pictures; a new one is a file beside this one, and a line below.

    Args:
        judge, identity, metrics: of the evaluation.
    """
    return (
        background_figure,
        partial(identity_figure, identity=identity),
        partial(attribute_figures, judge=judge),
        partial(picture_figures, metrics=metrics),
        diffusion_similarity,
        relative_loss_figure,
    )
