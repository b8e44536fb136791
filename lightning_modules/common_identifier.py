"""A warning of an identifier that the model reads as several words."""

import warnings

from datamodules.subject import Subject
from lightning_modules.stable_diffusion import StableDiffusion


def warn_of_common_identifier(model: StableDiffusion, subject: Subject) -> None:
    """Warns where the subject's identifier is more than one token of the model, each with a meaning of its own."""
    if subject.identifier is None:
        return
    pieces = model.pipeline.tokenizer.tokenize(subject.identifier)
    if len(pieces) > 1:
        warnings.warn(
            f"identifier {subject.identifier!r} is {len(pieces)} tokens to this model ({', '.join(pieces)}), each "
            "with a meaning of its own: choose a rare word of one token, such as data.identifier=sks",
            stacklevel=2,
        )
