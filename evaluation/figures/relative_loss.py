"""How well the tuned model denoises what was held out."""

from pathlib import Path

import numpy as np

from evaluation.figures.figure import Compared, Figure
from report.metrics_csv import read_metrics


def relative_loss_figure(compared: Compared) -> dict[str, Figure]:
    """`heldout/relative_loss` at the last validation of a training; None where nothing was validated."""
    loss, at_step = _final_relative_loss(compared.metrics_csv, steps=compared.steps)
    count = len(compared.subject.heldout) if loss is not None else 0
    return {
        "heldout/relative_loss": Figure(
            tuned=loss,
            base=None if loss is None else 1.0,
            reference=None,
            no_reference="the loss is a model's, and real pictures have none",
            description="denoising loss on held-out pictures over the base model's, mean over timestep bins"
            + (f", after step {at_step}, the last that was validated" if at_step is not None else ""),
            model=compared.model.pretrained,
            checkpoint=compared.model_checkpoint,
            transform=compared.model.transform,
            template="none: the captions as they are, the class word in the identifier's place for the base model",
            pairing="both models on the same noisy latents of each held-out picture",
            counts={"tuned": count, "base": count, "reference": 0},
            prompts="the held-out pictures' captions",
            seed=compared.seed,
        )
    }


def _final_relative_loss(path: Path, *, steps: int) -> tuple[float | None, int | None]:
    """The mean over the bins at the last validation of the first `steps` steps, and its step; None, None without one.

    A row's step is counted from 0, and weights of a later step may have been thrown away.
    """
    curves = [points for name, points in read_metrics(path).items() if name.startswith("heldout/relative_loss/")]
    bins = [kept for points in curves if (kept := [point for point in points if point[0] < steps])]
    return (float(np.mean([points[-1][1] for points in bins])), int(bins[0][-1][0])) if bins else (None, None)
