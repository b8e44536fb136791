"""Range checks of config values, in one wording: key, value, and what is needed; no torch."""

import math
from collections.abc import Iterable
from typing import Any


def finite(key: str, value: Any) -> None:
    """Raises ValueError where `value` is no number, infinite or NaN."""
    if not _is_number(value):
        raise ValueError(f"{key}={value}: a finite number is needed")


def at_least(key: str, value: Any, least: float, *, what: str = "") -> None:
    """Raises ValueError where `value` is no finite number of `least` or more.

    Args:
        key: of the config, "trainer.max_steps".
        what: what it is or does, said behind the range.
    """
    if not _is_number(value) or value < least:
        raise ValueError(f"{key}={value}: {least:g} or more is needed{_because(what)}")


def share(key: str, value: Any, *, what: str = "") -> None:
    """Raises ValueError where `value` is no number in [0, 1]."""
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"{key}={value}: a number in [0, 1] is needed{_because(what)}")


def one_of(key: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises ValueError where `value` is none of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{key}={value}: choose one of {', '.join(map(str, choices))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _because(what: str) -> str:
    return f", {what}" if what else ""


def check_noise_offset(noise_offset: Any) -> None:
    """`module.noise_offset`, asked before the model is loaded and by the module itself."""
    at_least("module.noise_offset", noise_offset, 0, what="0 is none, DCO's style recipe has 0.1")
