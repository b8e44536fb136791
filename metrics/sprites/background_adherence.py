"""Background adherence: whether a picture of the Sprites world stands on the background that its prompt names."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.sprites.attributes import named_background
from datamodules.sprites.paint import BACKGROUNDS
from metrics.mean_metric import MeanMetric


def read_background(picture: NDArray[np.uint8]) -> str:
    """The world's background nearest in RGB to the median of the outermost 3 pixels of `picture` `[H, W, 3]`."""
    inner = np.zeros(picture.shape[:2], bool)
    inner[3:-3, 3:-3] = True
    border = np.median(picture[~inner], axis=0)
    return min(BACKGROUNDS, key=lambda name: float(np.square(border - BACKGROUNDS[name]).sum()))


def background_adherence(pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> float | None:
    """Share in [0, 1] of the pictures on the named background, among those whose prompt names one; None without any."""
    named = [
        (picture, name) for picture, prompt in zip(pictures, prompts, strict=True) if (name := named_background(prompt))
    ]
    if not named:
        return None
    return sum(read_background(picture) == name for picture, name in named) / len(named)


class BackgroundAdherence(MeanMetric):
    """`background_adherence`, added up; `count` is how many of the prompts name a background, and nan is of none."""

    higher_is_better = True

    def update(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> None:
        """Takes pictures `[H, W, 3]` and a prompt for each."""
        share = background_adherence(pictures, prompts)
        if share is not None:
            self.add(torch.tensor(share, dtype=torch.float64), count=sum(map(bool, map(named_background, prompts))))
