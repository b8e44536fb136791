"""What guidance did in every denoising step, beside the samples that it drew."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from report.plots import STYLE, Plot, svg

FILE = "guidance.json"
_TITLES = {
    "effective_cfg_scale": "effective CFG scale w + s·w_con·a",
    "cosine": "cosine of consistency guidance and CFG",
}


def save_diagnostics(diagnostics: Mapping[str, Any], prompts: Sequence[str], folder: Path) -> None:
    """Writes the mean over each prompt's pictures to `folder/guidance.json`; nothing where nothing was told.

    Args:
        diagnostics: name -> `[steps, pictures]`, the pictures in the order of the prompts, equally many of each.
        prompts: as they were asked.
    """
    if diagnostics:
        values = {
            name: np.asarray(each).reshape(len(each), len(prompts), -1).mean(2).T.round(4).tolist()
            for name, each in diagnostics.items()
        }
        (folder / FILE).write_text(json.dumps({"prompts": list(prompts), **values}, indent=1))


def guidance_plots(path: Path) -> list[Plot]:
    """A plot of every quantity in `guidance.json`, a line for each prompt; none where there is no such file.

    Raises:
        ValueError: the file is not what `save_diagnostics` writes.
    """
    if not path.is_file():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        prompts = content.pop("prompts")
        return [_plot(name, prompts, np.asarray(values, dtype=float)) for name, values in content.items()]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not the guidance of some samples ({error!r}); draw them again") from error


def _plot(name: str, prompts: Sequence[str], values: np.ndarray) -> Plot:
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, len(prompts)))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 2.9), layout="constrained")
        axes = figure.subplots()
        for line, colour in zip(values, colours, strict=True):
            axes.plot(np.arange(1, len(line) + 1), line, color=colour, linewidth=1.0)
        axes.plot(np.arange(1, values.shape[1] + 1), values.mean(0), color="black", linewidth=1.6)
        axes.set_xlabel("denoising step")
        axes.locator_params(axis="both", nbins=6)
        means = ", ".join(f"{prompt!r}: {line.mean():.3g}" for prompt, line in zip(prompts, values, strict=True))
        title = _TITLES.get(name, name)
        alt = f"Plot of the {title} over the denoising steps, a line for each prompt; mean by prompt: {means}."
        return Plot(title, svg(figure), alt, width=442)
