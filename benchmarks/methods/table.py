"""What `benchmarks/methods/run.py` writes: a verdict and tables, beside the curves and pictures of `plot.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from benchmarks.methods.plot import draw_curves, draw_grid
from benchmarks.shared.curves import Gap, bootstrap_error, front_area, paired
from benchmarks.shared.scores import RunScores, Scores
from benchmarks.shared.section import write_section
from callbacks.adherence_stopping import last_step_before_drop
from report.provenance import provenance

if TYPE_CHECKING:
    from benchmarks.methods.run import Run, Size

Array = NDArray[np.float64]
Table = Mapping[str, Sequence[Sequence[RunScores]]]  # of a method, [subjects][seeds]
Tried = Mapping[str, Mapping[str, Sequence[RunScores]]]  # of a method and its settings, the subjects that are chosen on
STOPPED = "early-stopped DreamBooth"
FIRST, REST = slice(0, 1), slice(1, None)  # copies of a prompt's picture: steps are chosen on the first
CONF = Path(__file__).parents[2] / "conf"
RULE = OmegaConf.load(CONF / "callbacks/adherence_stopping.yaml").adherence_stopping
LEARNING_RATE = OmegaConf.load(CONF / "experiment/dreambooth.yaml").optimizer.lr  # which all methods' experiments take


def chosen_settings(tried: Mapping[str, Sequence[RunScores]]) -> str:
    """The settings whose curves dominate the largest area, mean over the subjects that are chosen on."""
    return max(tried, key=lambda settings: float(np.mean([area(scores) for scores in tried[settings]])))


def area(scores: RunScores) -> float:
    """What the run's curve dominates above the untouched model's identity and no adherence."""
    identity, adherence = scores.curve()
    return front_area(list(zip(identity, adherence, strict=True)), floor=(float(identity[0]), 0.0))


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


def with_error(values: Array, digits: int = 3, *, sign: str = "") -> str:
    """Mean ± bootstrap error of `[subjects, seeds]`, without those that have no value."""
    if not np.isfinite(values).any():
        return "–"
    mean, error = np.nanmean(values), bootstrap_error(values)
    return f"{mean:{sign}.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else " (no error from so few)")


def gaps(table: Table, one: str, other: str) -> Gap:
    """`curves.paired` of two methods."""
    return paired(*([[scores.curve() for scores in row] for row in table[name]] for name in (one, other)))


def says(gap: Gap) -> str:
    if not gap.pairs:
        return "no common range of identity"
    error = f" ± {gap.error:.3f}" if np.isfinite(gap.error) else ""
    return f"{gap.mean:+.3f}{error} ({gap.pairs} of {gap.of} pairs, over {gap.share:.0%} of the latter's rise)"


def verdict(table: Table, steps: Sequence[int]) -> str:
    """The first paragraph: whether plain DreamBooth overfits here, whether APT keeps more, and what its parts do."""
    curves = [[scores.curve() for scores in row] for row in table["DreamBooth"]]
    learned = np.array([[identity[-1] - identity[0] for identity, _ in row] for row in curves])
    lost = np.array([[adherence[-1] - adherence[0] for _, adherence in row] for row in curves])
    text = (
        f"Plain DreamBooth, from step 0 to {steps[-1]}: identity {with_error(learned)} up, adherence "
        f"{with_error(lost)} from the untouched model's. "
    )
    to_plain, to_prior = gaps(table, "APT", "DreamBooth"), gaps(table, "APT", "DreamBooth + prior")
    beside = all_beside_stopped(table, steps)
    to_stopped, to_best = (beside[..., 2, 2] - beside[..., row, 2] for row in (0, 3))
    text += (
        f"At equal identity APT {_keeps(to_plain)} DreamBooth, by two standard errors: {says(to_plain)}. "
        f"It {_keeps(to_prior)} prior preservation: {says(to_prior)}. "
        f"Where it reaches the identity of {STOPPED} (kept: steps "
        f"{', '.join(f'{step:.0f}' for step in beside[..., 0, 0].flat)}), {int(np.isfinite(to_stopped).sum())} of "
        f"{to_stopped.size} pairs, its adherence differs by {with_error(to_stopped, sign='+')}; by "
        f"{with_error(to_best, sign='+')} from that of DreamBooth's best step at that identity."
    )
    parts = [f"without {part} {says(gaps(table, 'APT', f'APT without {part}'))}" for part in _PARTS]
    alone = [f"{part} {says(gaps(table, f'{part} alone', 'DreamBooth'))}" for part in _PARTS]
    return (
        f"{text} What each part contributes: APT's gap to itself {'; '.join(parts)}. Each part alone, its gap to "
        f"DreamBooth: {'; '.join(alone)}."
    )


def _keeps(gap: Gap) -> str:
    if abs(gap.mean) > 2 * gap.error:
        return "keeps more adherence than" if gap.mean > 0 else "keeps less adherence than"
    return "cannot be told apart from"


_PARTS = ("indicator", "stabilization", "alignment")


_BESIDE = {  # columns: of `beside_stopped`, row and axis
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


def stopped_section(table: Table, size: "Size") -> list[str]:
    """DreamBooth stopped early, run by run and in the mean, beside its last step and APT."""
    beside = all_beside_stopped(table, size.steps)

    def cell(values: Array, row: int, axis: int) -> str:
        return "–" if np.isnan(values[row, axis]) else f"{values[row, axis]:.{0 if axis == 0 else 3}f}"

    runs = [
        _row([subject, f"{seed}", *(cell(values, *at) for at in _BESIDE.values())])
        for subject, seeds in zip(size.subjects, beside, strict=True)
        for seed, values in enumerate(seeds)
    ]
    means = ["" if axis == 0 else with_error(beside[..., row, axis]) for row, axis in _BESIDE.values()]
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
        _row(["subject", "seed", *_BESIDE]),
        f"|---|{'---:|' * (len(_BESIDE) + 1)}",
        *runs,
        _row(["mean", "", *means]),
    ]


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
        _row(["method", "settings", "area", "last identity", "last adherence"]),
        "|---|---|---:|---:|---:|",
    ]
    for method, settings in tried.items():
        for name, runs in settings.items():
            lasts = [[axis[-1] for axis in scores.curve()] for scores in runs]
            figures = (np.mean([area(scores) for scores in runs]), *np.mean(lasts, axis=0))
            lines.append(_row([method, name, *(f"{value:.3f}" for value in figures)]))
    return lines


def page(
    table: Table, size: "Size", *, tried: Tried, ceilings: Mapping[str, float], commits: Sequence[str], command: str
) -> list[str]:
    """The page's lines, without its pictures.

    Args:
        ceilings: what real pictures have of "identity", of "adherence" and of "nearest".
        commits: those that the runs were made with.
    """
    head = ["method", *(f"step {step}" for step in size.steps)]
    lines = [
        "# APT and what it is measured against",
        "",
        f"{verdict(table, size.steps)} {settings_said(tried)}",
        "",
        f"`{command}`, commit {provenance()['git_commit']}, with runs of {' and '.join(commits)}. "
        f"{len(size.subjects)} subjects "
        f"({', '.join(size.subjects)}) × {size.seeds} seeds, {size.prompts} prompts × {size.pictures} pictures at "
        f"each of {len(size.steps)} steps, {size.denoising_steps} denoising steps, the same noise for all; ± is a "
        "bootstrap over subjects, each with all of its seeds: the noise that pictures start from, the same for all, is "
        "not in it, and of many gaps some reach two standard errors by chance. Identity: mean cosine to the subject's "
        "*held-out* pictures (`assets/sprites-identity`), recolouring prompts left out. "
        "Adherence: share of the pictures in which the "
        "judge (`assets/sprites-judge`) finds all that the prompt asks for. A gap is the mean difference in the "
        "highest adherence attained at an identity or above, over the identities that both curves cover from their "
        "first step after training began on, paired by subject and seed. The real training pictures have an identity "
        f"of {ceilings['identity']:.3f}; of the subjects rendered as the prompts ask, the judge finds "
        f"{ceilings['adherence']:.3f} right.",
        "",
        *tried_section(tried, size.chosen_on),
    ]
    for title, pick in (("Identity", 0), ("Adherence", 1)):
        lines += ["", f"## {title} along training", "", _row(head), _row(["---", *["---:"] * len(size.steps)])]
        for name, rows in table.items():
            along = np.array([[scores.curve()[pick] for scores in row] for row in rows])
            lines.append(_row([name, *(with_error(along[..., step]) for step in range(len(size.steps)))]))
    lines += [
        "",
        *stopped_section(table, size),
        "",
        "## Similarity to the nearest training picture, last step",
        "",
        "Of whole pictures, by `assets/sprites-vit`: 1 is a copy, background and place included.",
        "",
        _row(["method", "nearest"]),
        "|---|---:|",
    ]
    for name, rows in table.items():
        lines.append(_row([name, with_error(_nearest(rows, -1))]))
    lines += [
        _row(["untouched model", with_error(_nearest(next(iter(table.values())), 0))]),
        _row(["held-out pictures", f"{ceilings['nearest']:.3f}"]),
        "",
        "## Gaps at equal identity",
        "",
        _row(["method", "to DreamBooth", "to DreamBooth + prior"]),
        "|---|---:|---:|",
    ]
    for name in table:
        lines.append(_row([name, *(says(gaps(table, name, each)) for each in ("DreamBooth", "DreamBooth + prior"))]))
    return [*lines, ""]


def _nearest(rows: Sequence[Sequence[RunScores]], step: int) -> Array:
    return np.array([[scores.nearest[step].mean() for scores in row] for row in rows])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(
    out: Path, root: Path, size: "Size", scores: Scores, table: Table, runs: Mapping[str, "Run"], *,
    tried: Tried, commits: Sequence[str], command: str,
) -> None:  # fmt: skip
    """Writes the page, the curves and the grid of the given run of each method."""
    ceilings = scores.ceilings(size.subjects)
    # Before the pictures, which make git's checkout dirty: the page names its commit.
    lines = page(table, size, tried=tried, ceilings=ceilings, commits=commits, command=command)
    plot, grid = (out.with_name(f"{out.stem}_methods{kind}.png") for kind in ("", "_grid"))
    identity, adherence = all_beside_stopped(table, size.steps)[..., 0, 1:].mean((0, 1))
    draw_curves(table, {STOPPED: (identity, adherence)}).savefig(plot)
    draw_grid(root, runs, size, grid)
    pictures = [
        "",
        f"![identity against adherence along training]({plot.name})",
        "",
        f"One seed of `{size.subjects[0]}` after {size.steps[-1]} steps, the same prompts and noise:",
        "",
        f"![pictures by method and prompt]({grid.name})",
    ]
    at = next(number for number, line in enumerate(lines) if line.startswith("`python "))
    write_section(out, [*lines[: at - 1], *pictures, "", *lines[at:]], first=True)
