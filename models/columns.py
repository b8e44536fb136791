"""Which columns of two cross-attention maps stand for the same words, when one prompt has an identifier more."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.subject import Picture, Subject
from models.family import DiffusionFamily
from models.tokens.settings import LearnedToken


@dataclass(frozen=True, slots=True)
class TokenColumns:
    """For each of the two prompts, the group that every column of its attention maps belongs to.

    Args:
        student: int64 `[rows, tokens]`, group number of each column of the student's maps.
        reference: int64 `[rows, tokens]`, likewise for the frozen model's; equal numbers mean equal words.
    """

    student: Tensor
    reference: Tensor


Tokens = Sequence[int]


def token_columns(
    student: Tokens,
    reference: Tokens,
    *,
    identifier: Tokens,
    class_word: Tokens,
    others: Sequence[tuple[Tokens, Tokens]],
    length: int,
) -> tuple[list[int], list[int]]:
    """Group number of each column for the student's prompt `c*` and the frozen model's `c`.

    {identifier + class words} is one group on each side (a learned token may stand in for the class word), and so is
    each other learned token with what stands for it; other words are one group each; the end of the text and all
    padding are one. Comparing by position would be wrong for everything behind the identifier. Not stated in the
    sources. Without an identifier the prompts are the same, and every word is a group of its own.

    Args:
        student, reference: token ids between the start and the end token.
        identifier, class_word: their ids; the class word may be several, the identifier none.
        others: ids of each other learned token, and of the words in its place in `reference`.
        length: number of columns, `model_max_length` of the tokenizer.

    Raises:
        ValueError: the prompts do not differ by the identifier and `others` alone, or do not fit into `length`.
    """
    if max(len(student), len(reference)) + 2 > length:
        raise ValueError(f"a prompt of {max(len(student), len(reference))} tokens does not fit into {length} columns")
    if not identifier:
        if list(student) != list(reference):
            raise ValueError("without an identifier student and frozen model must have the same prompt")
        columns = _groups([[token] for token in student], length)
        return columns, columns
    start = _find(student, identifier)
    if start is None:
        raise ValueError("the student's prompt lacks the identifier's tokens")
    for before, span in (
        (0, [*identifier, *class_word]),
        (len(class_word), [*class_word, *identifier]),
        (0, list(identifier)),
    ):
        begin = start - before
        if begin < 0 or list(student[begin : begin + len(span)]) != span:
            continue
        words = [
            *_words(student[:begin], others),
            (span, list(class_word)),
            *_words(student[begin + len(span) :], others),
        ]
        if [token for _, theirs in words for token in theirs] == list(reference):
            ours, theirs = zip(*words, strict=True)
            return _groups(ours, length), _groups(theirs, length)
    raise ValueError("the prompts must be the same but for the identifier beside, or in place of, the class word")


def _find(tokens: Tokens, part: Tokens) -> int | None:
    places = range(len(tokens) - len(part) + 1)
    return next((i for i in places if list(tokens[i : i + len(part)]) == list(part)), None)


def _words(tokens: Tokens, others: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[Tokens, Tokens]]:
    """`tokens` in groups, each beside the tokens that stand for it in the reference: `others`', else itself."""
    words: list[tuple[Tokens, Tokens]] = []
    while tokens:
        found = next((each for each in others if list(tokens[: len(each[0])]) == list(each[0])), None)
        words.append(found or (tokens[:1], tokens[:1]))
        tokens = tokens[len(words[-1][0]) :]
    return words


def _groups(words: Sequence[Tokens], length: int) -> list[int]:
    """0 for the start token, then a number a word for each of its tokens, and one more for the end and the padding."""
    groups = [0, *(number for number, word in enumerate(words, start=1) for _ in word)]
    return groups + [len(words) + 1] * (length - len(groups))


def subject_columns(
    model: DiffusionFamily, subject: Subject, token: LearnedToken | None, device: torch.device
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
    model: DiffusionFamily, subject: Subject, others: Sequence[tuple[Tokens, Tokens]], picture: Picture
) -> tuple[list[int], list[int]]:
    try:
        return token_columns(
            model.token_ids(picture.prompts.instance),
            model.token_ids(picture.prompts.prior),
            identifier=[] if subject.identifier is None else model.token_ids(subject.identifier),
            class_word=model.token_ids(subject.class_word),
            others=others,
            length=model.num_text_columns,
        )
    except ValueError as error:
        raise ValueError(f"{picture.name}, prompt {picture.prompts.instance!r}: {error}") from None
