"""DreamBooth stopped early, beside its last step and what APT has at the same identity."""

from collections.abc import Sequence

import numpy as np
from omegaconf import OmegaConf

from benchmarks.methods.figures import Array, Table, with_error
from benchmarks.methods.plan import Size
from benchmarks.shared.command import ROOT
from benchmarks.shared.scores import RunScores
from benchmarks.shared.section import table_row
from callbacks.adherence_stopping import last_step_before_drop

STOPPED = "early-stopped DreamBooth"
FIRST, REST = slice(0, 1), slice(1, None)  # copies of a prompt's picture: steps are chosen on the first
RULE = OmegaConf.load(ROOT / "conf/callbacks/adherence_stopping.yaml").adherence_stopping
COLUMNS = {  # of `beside_stopped`, row and axis
    "kept step": (0, 0),
    "identity": (0, 1),
    "adherence": (0, 2),
    "last step: identity": (1, 1),
    "adherence there": (1, 2),
    "APT: step": (2, 0),
    "its identity": (2, 1),
    "its adherence": (2, 2),
    "DreamBooth's best: adherence": (3, 2),
}


def stopped(scores: RunScores, steps: Sequence[int]) -> int:
    """Index of the step that `adherence_stopping` would keep, by the first copy of every prompt's picture."""
    rule = {name: RULE[name] for name in ("num_standard_errors", "patience")}
    choice = last_step_before_drop(steps, scores.shares[..., FIRST].mean(2), **rule)
    return list(steps).index(choice.step)


def beside_stopped(apt: RunScores, dreambooth: RunScores, steps: Sequence[int]) -> Array:
    """Step, identity and adherence `[4, 3]` of DreamBooth's kept and last step, then of APT's and DreamBooth's best.

    A best step is that of the most adherence among those that know the subject at least as well as the kept one; NaN
    where none does. The rule that keeps a step does not know which is the best: DreamBooth's own tells what of APT's
    lead is hindsight. Steps are chosen on the first copies and scored on the others: a step that is chosen on the
    pictures it is scored on looks better than it is.
    """

    def scored(scores: RunScores, index: int) -> list[float]:
        return [steps[index], *(float(axis[index]) for axis in scores.curve(REST))]

    at = stopped(dreambooth, steps)
    needed = dreambooth.curve(FIRST)[0][at]

    def best(scores: RunScores) -> list[float]:
        identity, adherence = scores.curve(FIRST)
        reached = identity >= needed
        return scored(scores, int(np.where(reached, adherence, -1).argmax())) if reached.any() else [float("nan")] * 3

    return np.array([scored(dreambooth, at), scored(dreambooth, len(steps) - 1), best(apt), best(dreambooth)])


def all_beside_stopped(table: Table, steps: Sequence[int]) -> Array:
    """`beside_stopped` `[subjects, seeds, 4, 3]`."""
    pairs = zip(table["APT"], table["DreamBooth"], strict=True)
    return np.array([[beside_stopped(apt, plain, steps) for apt, plain in zip(*rows, strict=True)] for rows in pairs])


def stopped_section(table: Table, size: Size) -> list[str]:
    """DreamBooth stopped early, run by run and in the mean, beside its last step and APT."""
    beside = all_beside_stopped(table, size.steps)

    def cell(values: Array, row: int, axis: int) -> str:
        return "–" if np.isnan(values[row, axis]) else f"{values[row, axis]:.{0 if axis == 0 else 3}f}"

    runs = [
        table_row([subject, f"{seed}", *(cell(values, *at) for at in COLUMNS.values())])
        for subject, seeds in zip(size.subjects, beside, strict=True)
        for seed, values in enumerate(seeds)
    ]
    means = ["" if axis == 0 else with_error(beside[..., row, axis]) for row, axis in COLUMNS.values()]
    return [
        "## DreamBooth stopped early",
        "",
        f"The step of {', '.join(f'{step}' for step in size.steps)} that `adherence_stopping` would keep; the last "
        "step; and of the same subject's and seed's APT the step of the most adherence among those that reach the kept "
        "one's identity (– where none does: the mean is over the others), and DreamBooth's own such step, for the rule "
        "knows no best one. The rule sees few and uneven checks here, one picture of each prompt, and a drop at the "
        "last one cannot count. Steps are chosen on the first copy of every prompt's picture and scored on the rest, "
        "as is the star in the plot.",
        "",
        table_row(["subject", "seed", *COLUMNS]),
        f"|---|{'---:|' * (len(COLUMNS) + 1)}",
        *runs,
        table_row(["mean", "", *means]),
    ]
