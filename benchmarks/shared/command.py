"""What the benchmarks' command lines share."""

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def positive(text: str) -> int:
    """An argparse type.

    Raises:
        ArgumentTypeError: `text` is no whole number above 0.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def typed(module: str) -> str:
    """The command that was typed, for the page that it writes; `module` is the `__spec__.name` of what it runs."""
    return " ".join([f"python -m {module}", *([shlex.join(sys.argv[1:])] if sys.argv[1:] else [])])
