"""The backgrounds of a run's samples, as `metrics.json` and the report want them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.subject import Subject
from evaluation.figures.figure import means
from metrics.picture_metric import PRIOR_TEMPLATE
from metrics.sprites.background_adherence import BackgroundAdherence

Arrays = Sequence[NDArray[np.uint8]]


def background_figure(
    subject: Subject, *, tuned: Arrays, base: Arrays, prompts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`background_adherence` of the pictures whose prompts name a background of the Sprites world, if any does.

    Args:
        tuned, base: pictures `[H, W, 3]`, one for each prompt.
        prompts: with the class word alone.
    """
    real = [np.asarray(each.image) for each in subject.heldout], [each.prompts.prior for each in subject.heldout]
    figure = means(BackgroundAdherence(), {"tuned": (tuned, prompts), "base": (base, prompts), "reference": real})
    if figure["tuned"] is None:
        return {}
    if figure["reference"] is None:
        figure["no_reference"] = "no held-out picture's prompt names a background"
    return {
        "background_adherence": figure
        | {
            "description": "share of the pictures on the background that the prompt names; real: held-out pictures",
            "model": "the background of the Sprites world nearest in RGB to the border's median colour",
            "checkpoint": None,
            "transform": "none: the outermost 3 pixels as they were drawn",
            "template": PRIOR_TEMPLATE,
            "pairing": "each picture with its prompt, where that names a background",
        }
    }
