"""Which columns of two cross-attention maps stand for the same words, when one prompt has an identifier more."""

from collections.abc import Sequence

Tokens = Sequence[int]


def token_columns(
    student: Tokens, reference: Tokens, *, identifier: Tokens, class_word: Tokens, length: int
) -> tuple[list[int], list[int]]:
    """Group number of each column for the student's prompt `c*` and the frozen model's `c`.

    {identifier + class words} is one group on each side (a learned token may stand in for the class word); other
    words are one group each; the end of the text and all padding are one. Comparing by position would be wrong for
    everything behind the identifier. Not stated in the sources. Without an identifier the prompts are the same, and
    every word is a group of its own.

    Args:
        student, reference: token ids between the start and the end token.
        identifier, class_word: their ids; the class word may be several, the identifier none.
        length: number of columns, `model_max_length` of the tokenizer.

    Raises:
        ValueError: the prompts do not differ by the identifier alone, or do not fit into `length`.
    """
    if max(len(student), len(reference)) + 2 > length:
        raise ValueError(f"a prompt of {max(len(student), len(reference))} tokens does not fit into {length} columns")
    if not identifier:
        if list(student) != list(reference):
            raise ValueError("without an identifier student and frozen model must have the same prompt")
        columns = _groups(0, 1, len(student), length)
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
        end = begin + len(span)
        same_words = [*student[: max(begin, 0)], *class_word, *student[end:]] == list(reference)
        if begin >= 0 and list(student[begin:end]) == span and same_words:
            return (
                _groups(begin, len(span), len(student), length),
                _groups(begin, len(class_word), len(reference), length),
            )
    raise ValueError("the prompts must be the same but for the identifier beside, or in place of, the class word")


def _find(tokens: Tokens, part: Tokens) -> int | None:
    places = range(len(tokens) - len(part) + 1)
    return next((i for i in places if list(tokens[i : i + len(part)]) == list(part)), None)


def _groups(begin: int, span: int, tokens: int, length: int) -> list[int]:
    """0 for the start token, then a number a word, the span sharing one, and one more for the end and the padding."""
    words = tokens - span + 1
    groups = [0, *range(1, begin + 1), *[begin + 1] * span, *range(begin + 2, words + 1)]
    return groups + [words + 1] * (length - len(groups))
