"""The identity of a run's samples: whether they show the subject, and not another of its noun."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.sprites.embedded_subject import EmbeddedSubject, keeps_paint
from datamodules.subject import Picture, PromptPair
from evaluation.figures.figure import Arrays, Compared, Figure, means
from metrics.checkpoint_hash import checkpoint_hash
from metrics.sprites.identity import Identity, MeanIdentity


def identity_figure(compared: Compared, *, identity: str | None) -> dict[str, Figure]:
    """`identity` to the held-out pictures of an object of the embedded world; nothing where none are held out.

    Prompts that give the subject another paint are left out.

    Args:
        identity: folder of the `Identity`; None: no such figure.
    """
    subject = compared.subject
    if identity is None or not isinstance(subject, EmbeddedSubject) or not subject.is_object or not subject.heldout:
        return {}
    if not (kept := kept_paint(compared.pairs)):
        return {}
    folder, heldout = Path(identity).expanduser(), subject.heldout
    features = Identity.from_pretrained(folder)
    metric = MeanIdentity(features, [np.asarray(each.image) for each in heldout], [each.mask for each in heldout])
    drawn = {kind: ([pictures[number] for number in kept],) for kind, pictures in compared.arrays.items()}
    real = ([np.asarray(each.image) for each in subject.train],)
    return {
        "identity": Figure(
            **means(metric, drawn | {"reference": real}),
            description=f"mean cosine of the object to that of the held-out pictures, in the features of {identity}; "
            f"of the {len(kept)} pictures whose prompts keep the subject's paint; real: training pictures",
            model=identity,
            checkpoint={
                "vit": checkpoint_hash(Path(features.vit) / "model.safetensors"),
                "whitening": checkpoint_hash(folder / "whitening.safetensors"),
            },
            transform=features.transform,
            pairing="every picture with every held-out picture",
            compared_with=len(heldout),
        )
    }


def kept_paint(prompts: Sequence[PromptPair]) -> list[int]:
    """Numbers of the prompts that leave the subject its paint: those that identity can be read of."""
    return [number for number, pair in enumerate(prompts) if keeps_paint(pair)]


def mean_identity(identity: Identity, pictures: Arrays, heldout: Sequence[Picture]) -> float:
    """Mean over `pictures` `[H, W, 3]` and the held-out pictures of the subject, by their exact masks."""
    references = [np.asarray(each.image) for each in heldout]
    return float(identity(pictures, references, [each.mask for each in heldout]).mean())
