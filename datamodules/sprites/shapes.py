"""The nouns of the Sprites world as signed distances: negative inside, 0 on the outline, about 1 radius away at 1."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 0.95


def _square(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _triangle(x: Array, y: Array) -> Array:
    return np.maximum(y - 0.7, 0.87 * np.abs(x) - 0.5 * y - 0.5)


def _diamond(x: Array, y: Array) -> Array:
    return (1.3 * np.abs(x) + 0.85 * np.abs(y) - 0.9) / 1.5


def _heart(x: Array, y: Array) -> Array:
    lobes = np.hypot(np.abs(x) - 0.45, y + 0.3) - 0.5
    tip = np.maximum(0.72 * np.abs(x) + 0.7 * y - 0.62, -0.25 - y)
    return np.minimum(lobes, tip)


def _star(x: Array, y: Array) -> Array:
    angle = (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
    radius = np.hypot(x, y)
    return 0.62 * (radius * np.cos(angle) - 1.0) + 0.8 * radius * np.abs(np.sin(angle))


def _cross(x: Array, y: Array) -> Array:
    bar = np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.32)
    return np.minimum(bar, np.maximum(np.abs(y) - 0.95, np.abs(x) - 0.32))


def _ring(x: Array, y: Array) -> Array:
    return np.abs(np.hypot(x, y) - 0.68) - 0.27


def _moon(x: Array, y: Array) -> Array:
    return np.maximum(np.hypot(x, y) - 0.95, 0.75 - np.hypot(x - 0.55, y))


def _flower(x: Array, y: Array) -> Array:
    petals = 0.72 + 0.24 * np.cos(5 * np.arctan2(x, -y))
    return 0.75 * (np.hypot(x, y) - petals)


SHAPES: Mapping[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "heart": _heart,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "moon": _moon,
    "flower": _flower,
}
