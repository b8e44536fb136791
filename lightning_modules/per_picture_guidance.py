"""Several guidances in one batch, so that pictures which differ in nothing but their guidance are drawn at once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_modules.guidance import Guidance, Guided


class PerPictureGuidance(Guidance):
    """Guides every picture of a batch by a guidance of its own.

    Args:
        guidances: one for each picture of the batch.

    Raises:
        ValueError: they do not take the same predictions.
    """

    def __init__(self, guidances: Sequence[Guidance]) -> None:
        if len({guidance.rows for guidance in guidances}) != 1:
            names = ", ".join(type(guidance).__name__ for guidance in guidances)
            raise ValueError(f"{names}: guidances of one batch take the same predictions; draw them in turn")
        self.rows = guidances[0].rows
        self._guidances = guidances

    def begin(self) -> None:
        for guidance in self._guidances:
            guidance.begin()

    def __call__(self, predictions: Mapping[str, Tensor], *, guidance_scale: float, progress: float) -> Guided:
        each = [
            guidance(
                {name: rows[i : i + 1] for name, rows in predictions.items()},
                guidance_scale=guidance_scale,
                progress=progress,
            )
            for i, guidance in enumerate(self._guidances)
        ]
        told = {name: torch.cat([one.diagnostics[name] for one in each]) for name in each[0].diagnostics}
        return Guided(torch.cat([one.prediction for one in each]), told)
