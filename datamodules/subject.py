"""What a personalisation run learns from: a subject's pictures, their prompts, and the prompts it is judged by.

Imports neither torch nor Lightning, so that bad data is refused before anything slow starts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptPair:
    """One prompt in its two forms.

    Args:
        instance: the student's prompt `c*`, with the identifier ("a photo of sks dog", or "a photo of <subject>").
            Where there is no identifier it equals `prior`, as in DCO's style recipe.
        prior: the frozen model's prompt `c`, the class word alone ("a photo of dog").
    """

    instance: str
    prior: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture.

    Args:
        image: in RGB, at any size.
        prompts: what is said of it.
        name: for messages and the report.
        mask: bool `[H, W]`, the pixels of the object, of `image`'s size; None where nobody knows.
    """

    image: Image.Image
    prompts: PromptPair
    name: str
    mask: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """A subject to learn.

    Args:
        name: what the report calls it.
        identifier: the rare word, or the learned token, that stands for the subject; None where there is no new word.
        class_word: one or more words, "stuffed animal"; "" of a style, which many classes wear.
        class_prompt: the bare class prompt, for prior preservation ("a photo of dog"); "" of a style.
        train: the pictures to learn from.
        heldout: pictures of the subject in other contexts, never trained on; may be empty.
        evaluation_prompts: what the tuned model is asked to draw.
    """

    name: str
    identifier: str | None
    class_word: str
    class_prompt: str
    train: tuple[Picture, ...]
    heldout: tuple[Picture, ...]
    evaluation_prompts: tuple[PromptPair, ...]


def prompt_pair(template: str, *, identifier: str | None, class_word: str, replaces_class_word: bool) -> PromptPair:
    """Both forms of a prompt: `{identifier}` and `{class_word}` are filled in, then the identifier is dropped for `c`.

    Without an identifier `{identifier}` is left out, and both forms are the same; such a prompt may leave out the class
    word too, for there is nothing that would have to stand beside it.

    A literal prompt ("a photo of sks dog") works as well as a template ("a photo of {identifier} {class_word}").

    Args:
        template: the prompt.
        identifier, class_word: see `Subject`.
        replaces_class_word: the identifier alone stands for the subject: "<subject> dog" becomes "<subject>" in `c*`,
            and "<subject>" becomes "dog" in `c` (DCO, arXiv:2402.12004: a learned token that starts as the class word
            then embeds `c*` as `c`).

    Raises:
        ValueError: the prompt lacks the identifier, or the class word which it does not replace, or has an unknown
            placeholder; or the identifier is a part of the class word, so that dropping it would drop both; or there is
            no identifier, and the prompt needs it in the class word's place or is empty without.
    """
    if identifier is None:
        return _same_for_both(template, class_word=class_word, replaces_class_word=replaces_class_word)
    instance = _filled(template, identifier=identifier, class_word=class_word)
    needed = {"identifier": identifier} if replaces_class_word else {"class word": class_word, "identifier": identifier}
    for kind, text in needed.items():
        if not text.strip() or not re.search(_as_words(text), instance, re.IGNORECASE):
            raise ValueError(f"prompt {instance!r} lacks the {kind} {text!r}: put it in, or change the {kind}")
    if replaces_class_word:
        if not class_word.strip():
            raise ValueError(
                f"prompt {instance!r}: the class word {class_word!r} is empty, and takes the identifier's place"
            )
        beside = rf"({_as_words(identifier)})\s+{_as_words(class_word)}"
        instance = re.sub(beside, r"\1", instance, flags=re.IGNORECASE)
    prior = without_identifier(instance, identifier, replacement=class_word if replaces_class_word else "")
    lost = not re.search(_as_words(class_word), prior, re.IGNORECASE)
    if lost or re.search(_as_words(identifier), prior, re.IGNORECASE):
        raise ValueError(f"identifier {identifier!r} is a part of the class word {class_word!r}: choose a rarer word")
    return PromptPair(instance=instance, prior=prior)


def _same_for_both(template: str, *, class_word: str, replaces_class_word: bool) -> PromptPair:
    if replaces_class_word:
        raise ValueError(
            f"prompt {template!r}: data.replaces_class_word=true wants an identifier in the class word's place, and "
            "data.identifier=null is none: set one, or leave token=learned out"
        )
    if "{class_word}" in template and not class_word.strip():
        raise ValueError(f"prompt {template!r} wants the class word, and it is empty: write the noun in its place")
    prompt = " ".join(_filled(template, identifier="", class_word=class_word).split())
    if not prompt:
        raise ValueError(f"prompt {template!r} is empty without an identifier: say what the picture shows")
    return PromptPair(instance=prompt, prior=prompt)


def _filled(template: str, **words: str) -> str:
    try:
        return template.format(**words)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"prompt {template!r}: only {{identifier}} and {{class_word}} may stand in braces ({error!r})"
        ) from None


def without_identifier(prompt: str, identifier: str, *, replacement: str) -> str:
    """The frozen model's form of `prompt`: the identifier is dropped, or gives way to a non-empty `replacement`."""
    found = _as_words(identifier) + ("" if replacement else r"\s*")
    return re.sub(found, lambda _: replacement, prompt, flags=re.IGNORECASE).strip()


def with_class_words(subject: Subject, words: Mapping[str, str]) -> Subject:
    """`subject` with every key of `words` replaced by its class word in all of the frozen model's prompts.

    The keys are what else is learned beside the identifier: `{"<style>": "flat"}`.
    """

    def prior(prompt: str) -> str:
        for placeholder, word in words.items():
            prompt = without_identifier(prompt, placeholder, replacement=word)
        return prompt

    def pair(prompts: PromptPair) -> PromptPair:
        return replace(prompts, prior=prior(prompts.prior))

    return replace(
        subject,
        class_prompt=prior(subject.class_prompt),
        train=tuple(replace(picture, prompts=pair(picture.prompts)) for picture in subject.train),
        heldout=tuple(replace(picture, prompts=pair(picture.prompts)) for picture in subject.heldout),
        evaluation_prompts=tuple(pair(prompts) for prompts in subject.evaluation_prompts),
    )


def _as_words(text: str) -> str:
    return rf"(?<!\w){re.escape(text)}(?!\w)"
