"""The identity of a run's samples, as `metrics.json` and the report want it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.subject import Subject
from metrics.checkpoint_hash import checkpoint_hash
from metrics.identity import Identity

Arrays = Sequence[NDArray[np.uint8]]


def identity_figure(subject: Subject, *, tuned: Arrays, base: Arrays) -> dict[str, dict[str, Any]]:
    """`identity` of the pictures `[H, W, 3]`; nothing where the subject has none."""
    if subject.identity is None:
        return {}
    identity = Identity.from_pretrained(Path(subject.identity).expanduser())
    train, heldout = ([np.asarray(each.image) for each in group] for group in (subject.train, subject.heldout))
    return {
        "identity": {
            "tuned": float(identity(tuned, train).mean()),
            "base": float(identity(base, train).mean()),
            "reference": float(identity(heldout, train).mean()) if heldout else None,
            "description": f"mean cosine to the training pictures, in the features of {subject.identity}; real: "
            "held-out pictures",
            "model": subject.identity,
            "checkpoint": checkpoint_hash(Path(subject.identity).expanduser() / "whitening.safetensors"),
            "pairing": "every picture with every training picture",
            "counts": {"tuned": len(tuned), "base": len(base), "reference": len(heldout)},
            "compared_with": len(train),
        }
    }
