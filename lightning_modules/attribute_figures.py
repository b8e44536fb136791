"""The judge's figures of a run, as `metrics.json` and the report want them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.subject import Subject
from metrics.attribute_adherence import attribute_adherence, times_named
from metrics.checkpoint_hash import checkpoint_hash
from metrics.sprites_judge import SpritesJudge

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
    judge = SpritesJudge.from_pretrained(Path(subject.judge).expanduser())
    checkpoint = checkpoint_hash(Path(subject.judge).expanduser() / "model.safetensors")
    named = times_named(prompts)
    heldout = [np.asarray(picture.image) for picture in subject.heldout]
    shares = {
        "tuned": attribute_adherence(judge, tuned, prompts),
        "base": attribute_adherence(judge, base, prompts),
        "reference": attribute_adherence(judge, heldout, [picture.prompts.prior for picture in subject.heldout]),
    }
    return {
        f"attribute_adherence/{name}": {
            **{kind: share.get(name) for kind, share in shares.items()},
            "description": f"share of the pictures {says}, of the {named[name]} that are asked for it; "
            f"as {subject.judge} reads them; real: held-out pictures",
            "model": subject.judge,
            "checkpoint": checkpoint,
            "pairing": "each picture with its prompt",
        }
        for name, says in SAYS.items()
        if name in named
    }
