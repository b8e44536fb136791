"""The columns of the cross-attention maps of a subject's prompts, student's beside frozen model's."""

from collections.abc import Sequence

import torch

from callbacks.step import TokenColumns
from callbacks.token_columns import Tokens, token_columns
from datamodules.subject import Picture, Subject
from lightning_modules.learned_token import LearnedToken
from lightning_modules.stable_diffusion import StableDiffusion


def subject_columns(
    model: StableDiffusion, subject: Subject, token: LearnedToken | None, device: torch.device
) -> TokenColumns:
    """Group numbers `[pictures, tokens]` (int64) of both prompts of every training picture; see `token_columns`.

    Raises:
        ValueError: a picture's two prompts differ by more than the identifier and the learned tokens; named.
    """
    words = (token.class_words if token else {}).items()
    others = [(model.token_ids(placeholder), model.token_ids(word)) for placeholder, word in words]
    pairs = [_picture_columns(model, subject, others, picture) for picture in subject.train]
    student, reference = (torch.tensor(groups, device=device) for groups in zip(*pairs, strict=True))
    return TokenColumns(student, reference)


def _picture_columns(
    model: StableDiffusion, subject: Subject, others: Sequence[tuple[Tokens, Tokens]], picture: Picture
) -> tuple[list[int], list[int]]:
    try:
        return token_columns(
            model.token_ids(picture.prompts.instance),
            model.token_ids(picture.prompts.prior),
            identifier=[] if subject.identifier is None else model.token_ids(subject.identifier),
            class_word=model.token_ids(subject.class_word),
            others=others,
            length=model.pipeline.tokenizer.model_max_length,
        )
    except ValueError as error:
        raise ValueError(f"{picture.name}, prompt {picture.prompts.instance!r}: {error}") from None
