"""Colours and textures of the Sprites world, and the patterns that it never draws: those belong to its subjects."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
RGB = tuple[int, int, int]

COLORS: Mapping[str, RGB] = {
    "red": (222, 38, 38),
    "orange": (245, 140, 25),
    "yellow": (250, 222, 50),
    "green": (45, 170, 60),
    "blue": (45, 90, 225),
    "purple": (145, 60, 190),
    "brown": (125, 75, 40),
    "white": (248, 248, 248),
}

BACKGROUNDS: Mapping[str, RGB] = {
    "black": (20, 20, 24),
    "gray": (128, 128, 132),
    "beige": (226, 205, 168),
    "pink": (250, 170, 195),
    "navy": (25, 40, 105),
    "olive": (105, 112, 40),
    "sky": (135, 200, 240),
    "mint": (160, 236, 190),
    "maroon": (110, 25, 45),
    "teal": (20, 122, 126),
}


@dataclass(frozen=True, slots=True)
class Paint:
    """A pattern in two colours: `pattern` is a key of `TEXTURES` or `SUBJECT_PATTERNS`."""

    pattern: str
    first: RGB
    second: RGB


def shade(color: RGB) -> RGB:
    """The darker tone that a texture of `color` alternates with."""
    red, green, blue = (int(0.42 * channel) for channel in color)
    return red, green, blue


def _solid(x: Array, y: Array, radius: float) -> Array:
    return np.zeros_like(x)


def _striped(x: Array, y: Array, radius: float) -> Array:
    return _edge(np.sin(2 * np.pi * radius * y / 6.0), 6.0 / (2 * np.pi))


def _dotted(x: Array, y: Array, radius: float) -> Array:
    cell = 6.5 / radius
    u, v = (x / cell) % 1 - 0.5, (y / cell) % 1 - 0.5
    return _edge(0.3 - np.hypot(u, v), 6.5)


def _checkered(x: Array, y: Array, radius: float) -> Array:
    wave = np.pi * radius / 5.0
    return _edge(np.sin(wave * x) * np.sin(wave * y), 5.0 / np.pi)


def _face(x: Array, y: Array, radius: float) -> Array:
    eyes = 0.17 - np.hypot(np.abs(x) - 0.3, y + 0.22)
    mouth = np.minimum(0.09 - np.abs(np.hypot(x, y - 0.0) - 0.38), y - 0.12)
    return _edge(np.maximum(eyes, mouth), radius)


def _halves(x: Array, y: Array, radius: float) -> Array:
    return _edge(x, radius)


def _quarters(x: Array, y: Array, radius: float) -> Array:
    return _edge(np.sign(x) * np.sign(y) * np.minimum(np.abs(x), np.abs(y)), radius)


def _badge(x: Array, y: Array, radius: float) -> Array:
    distance = np.hypot(x, y)
    return _edge(np.maximum(0.16 - distance, 0.11 - np.abs(distance - 0.42)), radius)


def _bolt(x: Array, y: Array, radius: float) -> Array:
    return _edge(0.16 - np.abs(x + 0.45 * y + 0.28 * np.sign(y)), radius)


def _rim(x: Array, y: Array, radius: float) -> Array:
    return _edge(np.maximum(np.abs(x), np.abs(y)) - 0.42, radius)


def _edge(distance: Array, pixels: float) -> Array:
    """How much of the second colour shows: an edge about one pixel wide where `distance` passes 0."""
    return np.clip(0.5 + distance * pixels, 0, 1)


Pattern = Callable[[Array, Array, float], Array]
TEXTURES: Mapping[str, Pattern] = {
    "solid": _solid,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}
SUBJECT_PATTERNS: Mapping[str, Pattern] = {
    "face": _face,
    "halves": _halves,
    "quarters": _quarters,
    "badge": _badge,
    "bolt": _bolt,
    "rim": _rim,
}
PATTERNS: Mapping[str, Pattern] = {**TEXTURES, **SUBJECT_PATTERNS}
