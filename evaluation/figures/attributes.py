"""What the world's judge reads off a run's samples."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datamodules.sprites.embedded_subject import EmbeddedSubject
from evaluation.figures.figure import Arrays, Compared, Figure, stand_alone
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


def attribute_figures(compared: Compared, *, judge: str | None) -> dict[str, Figure]:
    """`attribute_adherence/<attribute>` of what the prompts name; nothing of pictures of another world.

    Prompts have the class word alone: the judge knows no identifier.

    Args:
        judge: folder of the `SpritesJudge`; None: no such figures.
    """
    subject = compared.subject
    if judge is None or not isinstance(subject, EmbeddedSubject):
        return {}
    folder = Path(judge).expanduser()
    real = [np.asarray(each.image) for each in subject.heldout], [each.prompts.prior for each in subject.heldout]
    drawn = {kind: (pictures, compared.prompts) for kind, pictures in compared.arrays.items()}
    shares, counts = _read(AttributeAdherence(SpritesJudge.from_pretrained(folder)), drawn | {"reference": real})
    checkpoint = checkpoint_hash(folder / "model.safetensors")
    missing = "no held-out picture's prompt names it"
    return {
        f"attribute_adherence/{name}": Figure(
            tuned=shares["tuned"].get(name),
            base=shares["base"].get(name),
            reference=shares["reference"].get(name),
            description=f"share of the pictures {says}, of the {counts['tuned'][name]} that are asked for it; "
            f"as {judge} reads them; real: held-out pictures",
            model=judge,
            checkpoint=checkpoint,
            transform=TRANSFORM,
            template=PRIOR_TEMPLATE,
            pairing="each picture with its prompt, where that names it",
            counts={kind: count.get(name, 0) for kind, count in counts.items()},
            no_reference=missing if shares["reference"].get(name) is None else None,
        )
        for name, says in SAYS.items()
        if name in counts["tuned"]
    }


def _read(
    metric: AttributeAdherence, pictures: Mapping[str, tuple[Arrays, Sequence[str]]]
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """By kind of `pictures` ("tuned") and attribute: the share right, and of how many."""
    stand_alone(metric)
    shares: dict[str, dict[str, float]] = {}
    counts: dict[str, dict[str, int]] = {}
    for kind, (seen, asked) in pictures.items():
        metric.reset()
        metric.update(seen, asked)
        counts[kind] = metric.counts
        shares[kind] = {name: float(share) for name, share in metric.compute().items()}
    return shares, counts
