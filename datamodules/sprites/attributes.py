"""What a picture shows and what a prompt asks for, in the same words: the labels and the questions of the judge."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from datamodules.sprites.paint import BACKGROUNDS, COLORS, TEXTURES
from datamodules.sprites.shapes import SHAPES
from datamodules.sprites.world import POSITIONS, RADIUS, Scene

NOTHING = "nothing"  # the noun of an empty position
UNKNOWN = -100  # torch's `ignore_index`: a paint that has no word
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "noun": (NOTHING, *SHAPES),
    "color": tuple(COLORS),
    "texture": tuple(TEXTURES),
    "size": tuple(RADIUS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One object in words, "" for what is not said, or cannot be."""

    noun: str
    color: str = ""
    texture: str = ""
    size: str = ""
    position: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a prompt asks for: its objects and the background ("" where it is not said)."""

    objects: tuple[Seen, ...]
    background: str = ""


def labels(scene: Scene) -> NDArray[np.int64]:
    """`[positions, attributes]`: at each position of `POSITIONS` an index into each of `ATTRIBUTES`.

    An empty position has the noun `NOTHING` and `UNKNOWN` for the rest; so has a colour or a texture without a word.
    """
    table = np.full((len(POSITIONS), len(ATTRIBUTES)), UNKNOWN)
    table[:, 0] = 0
    for sprite in scene.sprites:
        words = (sprite.noun, sprite.color, sprite.paint.pattern if sprite.color else "", sprite.size)
        table[list(POSITIONS).index(sprite.position)] = [
            choices.index(word) if word in choices else UNKNOWN
            for word, choices in zip(words, ATTRIBUTES.values(), strict=True)
        ]
    return table


def _one_of(words: Sequence[str]) -> str:
    return "|".join(map(re.escape, words))


_OBJECT = re.compile(
    rf"\ban? (?:(?P<size>{_one_of(tuple(RADIUS))}) )?(?:(?P<texture>{_one_of(tuple(TEXTURES))}) )?"
    rf"(?:(?P<color>{_one_of(tuple(COLORS))}) )?(?P<noun>{_one_of(tuple(SHAPES))})\b"
)
_PLACE = re.compile(r"\b(?:in|at|on) the (center|middle|left|right|top|bottom)\b")
_RELATION = re.compile(r"\b(to the left of|to the right of|above|below)\b")
_BACKGROUND = re.compile(rf"\ban? ({_one_of(tuple(BACKGROUNDS))}) (?:background|wall)\b")
_OPPOSITE = {
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
    "above": ("top", "bottom"),
    "below": ("bottom", "top"),
}


def asked(prompt: str) -> Asked:
    """Reads a prompt with the class word ("a small red heart on the left on a pink background").

    Raises:
        ValueError: it names no object of the world.
    """
    found = [match.groupdict() for match in _OBJECT.finditer(prompt)]
    if not found:
        raise ValueError(f"prompt {prompt!r} names no object of the Sprites world: {', '.join(SHAPES)}")
    place, relation = _PLACE.search(prompt), _RELATION.search(prompt)
    positions: tuple[str, ...]
    if relation:
        positions = _OPPOSITE[relation[1]]
    else:
        said = place[1].replace("middle", "center") if place and len(found) == 1 else ""
        positions = (said,) * len(found)
    objects = [
        Seen(**{key: word or "" for key, word in words.items()}, position=position)
        for words, position in zip(found, positions, strict=True)
    ]
    return Asked(objects=tuple(objects), background=named_background(prompt) or "")


def named_background(prompt: str) -> str | None:
    """The background that `prompt` names, if it names one of the world's."""
    match = _BACKGROUND.search(prompt)
    return match[1] if match else None


def shown(scene: Scene) -> Asked:
    """Everything that can be said of a scene."""
    objects = tuple(
        Seen(noun=s.noun, color=s.color, texture=s.paint.pattern if s.color else "", size=s.size, position=s.position)
        for s in scene.sprites
    )
    return Asked(objects=objects, background=scene.background)


def answers(question: Asked, seen: Sequence[Seen], background: str) -> dict[str, bool]:
    """Per attribute that `question` names, whether the picture has it right for all of the objects; and `all` at once.

    The objects asked for are matched with those shown so that most is right. Objects that nobody asked for are counted
    by `count`.
    """
    slots: list[Seen | None] = [*seen, *(None for _ in question.objects)]
    matches = (
        [
            (attribute, other is not None and getattr(other, attribute) == word)
            for wanted, other in zip(question.objects, choice, strict=True)
            for attribute in ("noun", "color", "texture", "size", "position")
            if (word := getattr(wanted, attribute))
        ]
        for choice in permutations(slots, len(question.objects))
    )
    best = max(matches, key=lambda pairs: sum(right for _, right in pairs))
    result = {name: all(right for key, right in best if key == name) for name in dict(best)}
    if question.background:
        result["background"] = background == question.background
    result["count"] = len(seen) == len(question.objects)
    result["all"] = all(result.values())
    return result
