import pytest

from models.columns import token_columns

LENGTH = 10
WORDS = (
    "a",
    "photo",
    "of",
    "sks",
    "dog",
    "stuffed",
    "animal",
    "ohw",
    "x",
    "<new>",
    "on",
    "beach",
    "cat",
    "<st>",
    "<st>_1",
    "flat",
)
IDS = {word: number for number, word in enumerate(WORDS, 1)}


def ids(text):
    return [IDS[word] for word in text.split()]


def columns(student, reference, *, identifier="sks", class_word="dog", others=(), length=LENGTH):
    return token_columns(
        ids(student),
        ids(reference),
        identifier=ids(identifier),
        class_word=ids(class_word),
        others=[(ids(token), ids(word)) for token, word in others],
        length=length,
    )


@pytest.mark.parametrize(
    ("student", "reference", "names", "student_groups", "reference_groups"),
    [
        pytest.param(
            "a photo of sks dog", "a photo of dog", {},
            [0, 1, 2, 3, 4, 4, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5, 5, 5, 5, 5], id="identifier and class word",
        ),
        pytest.param(
            "a sks dog on a beach", "a dog on a beach", {},
            [0, 1, 2, 2, 3, 4, 5, 6, 6, 6], [0, 1, 2, 3, 4, 5, 6, 6, 6, 6], id="words behind it",
        ),
        pytest.param(
            "sks dog", "dog", {}, [0, 1, 1, 2, 2, 2, 2, 2, 2, 2], [0, 1, 2, 2, 2, 2, 2, 2, 2, 2], id="nothing else",
        ),
        pytest.param(
            "a sks stuffed animal on beach", "a stuffed animal on beach", {"class_word": "stuffed animal"},
            [0, 1, 2, 2, 2, 3, 4, 5, 5, 5], [0, 1, 2, 2, 3, 4, 5, 5, 5, 5], id="two class words",
        ),
        pytest.param(
            "a ohw x dog on", "a dog on", {"identifier": "ohw x"},
            [0, 1, 2, 2, 2, 3, 4, 4, 4, 4], [0, 1, 2, 3, 4, 4, 4, 4, 4, 4], id="identifier of several pieces",
        ),
        pytest.param(
            "a dog sks on", "a dog on", {},
            [0, 1, 2, 2, 3, 4, 4, 4, 4, 4], [0, 1, 2, 3, 4, 4, 4, 4, 4, 4], id="identifier behind the class word",
        ),
        pytest.param(
            "a photo of <new> on", "a photo of dog on", {"identifier": "<new>"},
            [0, 1, 2, 3, 4, 5, 6, 6, 6, 6], [0, 1, 2, 3, 4, 5, 6, 6, 6, 6], id="learned token for one class word",
        ),
        pytest.param(
            "a <new> on", "a stuffed animal on", {"identifier": "<new>", "class_word": "stuffed animal"},
            [0, 1, 2, 3, 4, 4, 4, 4, 4, 4], [0, 1, 2, 2, 3, 4, 4, 4, 4, 4], id="learned token for two class words",
        ),
        pytest.param(
            "a dog on sks dog", "a dog on dog", {},
            [0, 1, 2, 3, 4, 4, 5, 5, 5, 5], [0, 1, 2, 3, 4, 5, 5, 5, 5, 5], id="the class word elsewhere too",
        ),
        pytest.param(
            "<st> <st>_1 sks dog on flat <st> <st>_1", "flat dog on flat flat", {"others": [("<st> <st>_1", "flat")]},
            [0, 1, 1, 2, 2, 3, 4, 5, 5, 6], [0, 1, 2, 3, 4, 5, 6, 6, 6, 6], id="another token of two vectors, twice",
        ),
        pytest.param(
            "<st> <new> on", "stuffed animal dog on", {"identifier": "<new>", "others": [("<st>", "stuffed animal")]},
            [0, 1, 2, 3, 4, 4, 4, 4, 4, 4], [0, 1, 1, 2, 3, 4, 4, 4, 4, 4], id="another token for two words",
        ),
    ],
)  # fmt: skip
def test_groups_by_hand(student, reference, names, student_groups, reference_groups):
    actual = columns(student, reference, **names)
    assert actual == (student_groups, reference_groups)
    assert set(actual[0]) == set(actual[1])  # equal numbers of groups, so both sides' columns mean the same words


def test_prompts_that_just_fit():
    student, reference = columns("a photo of sks dog", "a photo of dog", length=7)
    assert (student, reference) == ([0, 1, 2, 3, 4, 4, 5], [0, 1, 2, 3, 4, 5, 5])


@pytest.mark.parametrize(
    ("student", "reference", "names", "message"),
    [
        ("a photo of sks dog", "a photo on dog", {}, "must be the same but for the identifier"),
        ("a photo of sks dog", "a photo of cat", {}, "must be the same but for the identifier"),
        ("a photo of sks dog on a", "a photo of dog", {}, "must be the same but for the identifier"),
        ("a sks photo of dog", "a photo of dog", {}, "must be the same but for the identifier"),
        ("a sks dog sks", "a dog", {}, "must be the same but for the identifier"),
        ("sks dog on <st>", "dog on cat", {"others": [("<st>", "flat")]}, "must be the same but for the identifier"),
        ("a photo of dog", "a photo of dog", {}, "lacks the identifier"),
        ("a ohw dog x", "a dog x", {"identifier": "ohw x"}, "lacks the identifier"),
        ("a photo of sks dog", "a photo of dog", {"length": 6}, "5 tokens does not fit into 6 columns"),
        ("sks dog", "a photo of dog on a beach", {"length": 8}, "7 tokens does not fit into 8 columns"),
    ],
)
def test_refuses(student, reference, names, message):
    with pytest.raises(ValueError, match=message):
        columns(student, reference, **names)
