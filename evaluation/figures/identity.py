"""The identity of a run's samples, as `metrics.json` and the report want it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.subject import Picture, PromptPair, Subject
from evaluation.figures.figure import means
from metrics.checkpoint_hash import checkpoint_hash
from metrics.sprites.identity import Identity, MeanIdentity

Arrays = Sequence[NDArray[np.uint8]]


def identity_figure(
    subject: Subject, *, tuned: Arrays, base: Arrays, prompts: Sequence[PromptPair]
) -> dict[str, dict[str, Any]]:
    """`identity` to the held-out pictures; nothing where the subject has none, or no held-out pictures.

    Args:
        tuned, base: pictures `[H, W, 3]`, one for each prompt.
        prompts: those that give the subject another paint are left out.
    """
    kept = kept_paint(prompts)
    if subject.identity is None or not subject.heldout or not kept:
        return {}
    folder, heldout = Path(subject.identity).expanduser(), subject.heldout
    identity = Identity.from_pretrained(folder)
    metric = MeanIdentity(identity, [np.asarray(each.image) for each in heldout], [each.mask for each in heldout])
    pictures = {
        "tuned": ([tuned[number] for number in kept],),
        "base": ([base[number] for number in kept],),
        "reference": ([np.asarray(each.image) for each in subject.train],),
    }
    return {
        "identity": means(metric, pictures)
        | {
            "description": f"mean cosine of the object to that of the held-out pictures, in the features of "
            f"{subject.identity}; of the {len(kept)} pictures whose prompts keep the subject's paint; "
            "real: training pictures",
            "model": subject.identity,
            "checkpoint": {
                "vit": checkpoint_hash(Path(identity.vit) / "model.safetensors"),
                "whitening": checkpoint_hash(folder / "whitening.safetensors"),
            },
            "transform": identity.transform,
            "pairing": "every picture with every held-out picture",
            "compared_with": len(heldout),
        }
    }


def kept_paint(prompts: Sequence[PromptPair]) -> list[int]:
    """Numbers of the prompts that leave the subject its paint: those that identity can be read of."""
    return [number for number, pair in enumerate(prompts) if pair.keeps_paint]


def mean_identity(identity: Identity, pictures: Arrays, heldout: Sequence[Picture]) -> float:
    """Mean over `pictures` `[H, W, 3]` and the held-out pictures of the subject, by their exact masks."""
    references = [np.asarray(each.image) for each in heldout]
    return float(identity(pictures, references, [each.mask for each in heldout]).mean())
