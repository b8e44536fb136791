"""Attribute adherence: whether pictures of the Sprites world show what their prompts ask for."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from datamodules.sprites.attributes import Asked, answers, asked
from metrics.sprites.background_adherence import read_background
from metrics.sprites.sprites_judge import SpritesJudge

NAMES = ("noun", "color", "texture", "size", "position", "background", "count", "all")


def attribute_adherence(
    judge: SpritesJudge, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]
) -> dict[str, float]:
    """Share in [0, 1] of the pictures that have it right, per attribute, among those whose prompt names it.

    Args:
        judge: in evaluation mode.
        pictures: `[H, W, 3]` each, all of one size.
        prompts: with the class word, one for each picture.

    Returns:
        `noun`, `color`, `texture`, `size`, `position`, `background` as far as a prompt names them; `count`, no object
        too many or too few; `all`, everything named and the count.
    """
    return score(judge, pictures, [asked(prompt) for prompt in prompts])


def score(judge: SpritesJudge, pictures: Sequence[NDArray[np.uint8]], questions: Sequence[Asked]) -> dict[str, float]:
    """`attribute_adherence` for questions that were read already."""
    verdicts = defaultdict(list)
    for verdict in _verdicts(judge, pictures, questions):
        for name, right in verdict.items():
            verdicts[name].append(right)
    return {name: float(np.mean(values)) for name, values in verdicts.items()}


def all_answers(
    judge: SpritesJudge, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]
) -> list[dict[str, bool]]:
    """Of each picture what `answers` says; the arguments are those of `attribute_adherence`."""
    return _verdicts(judge, pictures, [asked(prompt) for prompt in prompts])


def share_right(verdict: Mapping[str, bool]) -> float:
    """Share in [0, 1] of what a prompt names that its picture has right, the count of objects included."""
    return float(np.mean([right for name, right in verdict.items() if name != "all"]))


def shares_right(judge: SpritesJudge, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> list[float]:
    """`share_right` of each picture; the arguments are those of `attribute_adherence`."""
    return [share_right(verdict) for verdict in all_answers(judge, pictures, prompts)]


def _verdicts(
    judge: SpritesJudge, pictures: Sequence[NDArray[np.uint8]], questions: Sequence[Asked]
) -> list[dict[str, bool]]:
    return [
        answers(question, shown, read_background(picture))
        for picture, shown, question in zip(pictures, judge.read(pictures), questions, strict=True)
    ]


def times_named(prompts: Sequence[str]) -> dict[str, int]:
    """How many of the prompts name each attribute: the pictures behind each share of `attribute_adherence`."""
    counts: dict[str, int] = defaultdict(int)
    for prompt in prompts:
        for name in answers(asked(prompt), (), ""):
            counts[name] += 1
    return dict(counts)


class AttributeAdherence(Metric):
    """`attribute_adherence`, added up over updates and processes.

    Args:
        judge: in evaluation mode.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    right: Tensor
    named: Tensor

    def __init__(self, judge: SpritesJudge) -> None:
        super().__init__()
        self.judge = judge
        for state in ("right", "named"):  # pictures of each of `NAMES`
            self.add_state(state, torch.zeros(len(NAMES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, pictures: Sequence[NDArray[np.uint8]], prompts: Sequence[str]) -> None:
        """Takes what `attribute_adherence` does."""
        for verdict in all_answers(self.judge, pictures, prompts):
            self.right += torch.tensor([verdict.get(name, False) for name in NAMES])
            self.named += torch.tensor([name in verdict for name in NAMES])

    @property
    def counts(self) -> dict[str, int]:
        """How many of the prompts name each attribute, as `times_named` counts them; here, before any `compute`."""
        return {name: count for name, count in zip(NAMES, self.named.tolist(), strict=True) if count}

    def compute(self) -> dict[str, Tensor]:
        """Shares in float64 of the attributes that a prompt names."""
        shares = self.right.double() / self.named
        return {name: share for name, share, count in zip(NAMES, shares, self.named, strict=True) if count}
