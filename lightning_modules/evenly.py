"""A few of many, from the first to the last."""

import numpy as np


def evenly(count: int, chosen: int) -> list[int]:
    """`chosen` of the numbers below `count`, evenly apart, with the first and the last; all where they are fewer."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(chosen, count))})
