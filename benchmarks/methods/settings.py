"""Which settings were tried on subjects of their own, and which of them were chosen."""

from collections.abc import Mapping, Sequence

import numpy as np
from omegaconf import OmegaConf

from benchmarks.shared.command import ROOT
from benchmarks.shared.curves import front_area
from benchmarks.shared.scores import RunScores
from benchmarks.shared.section import table_row

Tried = Mapping[str, Mapping[str, Sequence[RunScores]]]  # of a method and its settings, the subjects that are chosen on
LEARNING_RATE = OmegaConf.load(ROOT / "conf/experiment/dreambooth.yaml").optimizer.lr  # which all experiments take


def chosen_settings(tried: Mapping[str, Sequence[RunScores]]) -> str:
    """The settings whose curves dominate the largest area, mean over the subjects that are chosen on."""
    return max(tried, key=lambda settings: float(np.mean([area(scores) for scores in tried[settings]])))


def area(scores: RunScores) -> float:
    """What the run's curve dominates above the untouched model's identity and no adherence."""
    identity, adherence = scores.curve()
    return front_area(list(zip(identity, adherence, strict=True)), floor=(float(identity[0]), 0.0))


def settings_said(tried: Tried) -> str:
    """How far settings change what a method's curve dominates, in a sentence: they may be why a part is of no use."""
    ranges = []
    for method, settings in tried.items():
        areas = {name: float(np.mean([area(scores) for scores in runs])) for name, runs in settings.items()}
        low, *between, high = sorted(areas, key=lambda name: areas[name])
        beside = f", with the defaults {areas['defaults']:.3f}" if "defaults" in between else ""
        ranges.append(f"{method} from {areas[low]:.3f} ({low}) to {areas[high]:.3f} ({high}){beside}")
    return (
        f"By their settings, the area that a curve dominates on subjects of their own goes, of {'; of '.join(ranges)}."
    )


def tried_section(tried: Tried, chosen_on: Sequence[str]) -> list[str]:
    """Which settings were tried, with means over the subjects that they were chosen on, and which were chosen."""
    chosen = [f"of {method} **{chosen_settings(settings)}**" for method, settings in tried.items()]
    lines = [
        f"Settings were chosen on {', '.join(chosen_on)}, one seed each, by the area that a curve dominates above the "
        f"untouched model's identity: {', '.join(chosen)}. What has some of APT's parts takes their settings. The "
        f"learning rate was not chosen: all methods have that of `experiment=dreambooth`, {LEARNING_RATE:g}.",
        "",
        table_row(["method", "settings", "area", "last identity", "last adherence"]),
        "|---|---|---:|---:|---:|",
    ]
    for method, settings in tried.items():
        for name, runs in settings.items():
            lasts = [[axis[-1] for axis in scores.curve()] for scores in runs]
            figures = (np.mean([area(scores) for scores in runs]), *np.mean(lasts, axis=0))
            lines.append(table_row([method, name, *(f"{value:.3f}" for value in figures)]))
    return lines
