"""Which columns of two cross-attention maps stand for the same words, when one prompt has an identifier more."""

from collections.abc import Sequence

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
