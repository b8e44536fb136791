"""The backgrounds of a run's samples."""

import numpy as np

from evaluation.figures.figure import Compared, Figure, means
from metrics.picture_metric import PRIOR_TEMPLATE
from metrics.sprites.background_adherence import BackgroundAdherence


def background_figure(compared: Compared) -> dict[str, Figure]:
    """`background_adherence` of the pictures whose prompts name a background of the Sprites world, if any does."""
    heldout, prompts = compared.subject.heldout, compared.prompts
    real = [np.asarray(each.image) for each in heldout], [each.prompts.prior for each in heldout]
    drawn = {kind: (pictures, prompts) for kind, pictures in compared.arrays.items()}
    measured = means(BackgroundAdherence(), drawn | {"reference": real})
    if measured["tuned"] is None:
        return {}
    missing = "no held-out picture's prompt names a background"
    return {
        "background_adherence": Figure(
            **measured,
            description="share of the pictures on the background that the prompt names; real: held-out pictures",
            model="the background of the Sprites world nearest in RGB to the border's median colour",
            checkpoint=None,
            transform="none: the outermost 3 pixels as they were drawn",
            template=PRIOR_TEMPLATE,
            pairing="each picture with its prompt, where that names a background",
            no_reference=missing if measured["reference"] is None else None,
        )
    }
