"""The judge's figures of a run, as `metrics.json` and the report want them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.subject import Subject
from evaluation.figures.figure import stand_alone
from metrics.checkpoint_hash import checkpoint_hash
from metrics.picture_metric import PRIOR_TEMPLATE
from metrics.sprites.attribute_adherence import AttributeAdherence
from metrics.sprites.sprites_judge import TRANSFORM, SpritesJudge

SAYS = {  # `background` is left to `background_adherence`, which reads it off the pixels
    "noun": "whose objects all have the right noun",
    "color": "whose objects have the colour that the prompt names",
    "texture": "whose objects have the texture that the prompt names",
    "size": "whose objects have the size that the prompt names",
    "position": "whose objects stand where the prompt says",
    "count": "with as many objects as the prompt names",
    "all": "with all of this right at once, and the background",
}
Arrays = Sequence[NDArray[np.uint8]]


def attribute_figures(
    subject: Subject, *, tuned: Arrays, base: Arrays, prompts: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`attribute_adherence/<attribute>` of what the prompts name; nothing where the subject has no judge.

    Args:
        tuned, base: pictures `[H, W, 3]`, one for each prompt.
        prompts: with the class word alone: the judge knows no identifier.
    """
    if subject.judge is None:
        return {}
    folder = Path(subject.judge).expanduser()
    metric = AttributeAdherence(SpritesJudge.from_pretrained(folder))
    checkpoint = checkpoint_hash(folder / "model.safetensors")
    heldout = [np.asarray(picture.image) for picture in subject.heldout]
    captions = [picture.prompts.prior for picture in subject.heldout]
    stand_alone(metric)
    shares: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    for kind, pictures, asked in (("tuned", tuned, prompts), ("base", base, prompts), ("reference", heldout, captions)):
        metric.reset()
        metric.update(pictures, asked)
        counts[kind] = metric.counts
        shares[kind] = {name: float(share) for name, share in metric.compute().items()}
    figures = {
        f"attribute_adherence/{name}": {
            **{kind: share.get(name) for kind, share in shares.items()},
            "description": f"share of the pictures {says}, of the {counts['tuned'][name]} that are asked for it; "
            f"as {subject.judge} reads them; real: held-out pictures",
            "model": subject.judge,
            "checkpoint": checkpoint,
            "transform": TRANSFORM,
            "template": PRIOR_TEMPLATE,
            "pairing": "each picture with its prompt, where that names it",
            "counts": {kind: count.get(name, 0) for kind, count in counts.items()},
        }
        for name, says in SAYS.items()
        if name in counts["tuned"]
    }
    for figure in figures.values():
        if figure["reference"] is None:
            figure["no_reference"] = "no held-out picture's prompt names it"
    return figures
