"""What `benchmarks/methods.py` writes: a verdict, tables, curves and a grid of pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from omegaconf import OmegaConf
from PIL import Image, ImageDraw, ImageFont

from benchmarks.curves import Gap, bootstrap_error, front_area, paired
from benchmarks.methods_scores import RunScores, Scores
from benchmarks.section import write_section
from lightning_modules.adherence_stopping import last_step_before_drop
from report.provenance import provenance

if TYPE_CHECKING:
    from benchmarks.methods import Run, Size

Array = NDArray[np.float64]
Table = Mapping[str, Sequence[Sequence[RunScores]]]  # of a method, [subjects][seeds]
STOPPED = "early-stopped DreamBooth"
FIRST, REST = slice(0, 1), slice(1, None)  # copies of a prompt's picture: steps are chosen on the first
RULE = OmegaConf.load(Path(__file__).parents[1] / "conf/callbacks/adherence_stopping.yaml").adherence_stopping


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


def gap_to_stopped(one: RunScores, dreambooth: RunScores, steps: Sequence[int]) -> float:
    """Adherence of `one` minus that of the stopped DreamBooth, where `one` knows the subject at least as well.

    Both steps are chosen on the first copies, of `one` the best adherence among those that reach the stopped identity,
    and scored on the others: a step that is chosen on the pictures it is scored on looks better than it is. NaN where
    `one` never reaches it.
    """
    at = stopped(dreambooth, steps)
    (identity, adherence), (needed, _) = one.curve(FIRST), dreambooth.curve(FIRST)
    if not (reached := identity >= needed[at]).any():
        return float("nan")
    best = int(np.where(reached, adherence, -1).argmax())
    return float(one.curve(REST)[1][best] - dreambooth.curve(REST)[1][at])


def with_error(values: Array, digits: int = 3) -> str:
    """Mean ± bootstrap error of `[subjects, seeds]`, without those that have no value."""
    if not np.isfinite(values).any():
        return "–"
    mean, error = np.nanmean(values), bootstrap_error(values)
    return f"{mean:.{digits}f}" + (f" ± {error:.{digits}f}" if np.isfinite(error) else " (no error from so few)")


def gaps(table: Table, one: str, other: str) -> Gap:
    """`curves.paired` of two methods."""
    return paired(*([[scores.curve() for scores in row] for row in table[name]] for name in (one, other)))


def says(gap: Gap) -> str:
    if not gap.pairs:
        return "no common range of identity"
    return f"{gap.mean:+.3f} ± {gap.error:.3f} ({gap.pairs} of {gap.of} pairs, over {gap.share:.0%} of its rise)"


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
    to_stopped = np.array(
        [
            [gap_to_stopped(a, d, steps) for a, d in zip(*rows, strict=True)]
            for rows in zip(table["APT"], table["DreamBooth"], strict=True)
        ]
    )
    mean, error = to_plain.mean, to_plain.error
    keeps = "keeps more" if mean > 2 * error else ("keeps less" if mean < -2 * error else "does not keep more")
    at = [[steps[stopped(scores, steps)] for scores in row] for row in table["DreamBooth"]]
    text += (
        f"At equal identity APT {keeps} adherence than DreamBooth by two standard errors: {says(to_plain)}. "
        f"Against {STOPPED} (kept: steps {', '.join(str(step) for row in at for step in row)}) it is "
        f"{with_error(to_stopped)} where it reaches that identity, {int(np.isfinite(to_stopped).sum())} of "
        f"{to_stopped.size} pairs; "
        f"against prior preservation {says(to_prior)}."
    )
    parts = [f"without {part} {says(gaps(table, 'APT', f'APT without {part}'))}" for part in _PARTS]
    alone = [f"{part} {says(gaps(table, f'{part} alone', 'DreamBooth'))}" for part in _PARTS]
    return (
        f"{text} What each part contributes: APT's gap to itself {'; '.join(parts)}. Each part alone, its gap to "
        f"DreamBooth: {'; '.join(alone)}."
    )


_PARTS = ("indicator", "stabilization", "alignment")


def page(
    table: Table, size: "Size", *, tried: Mapping[str, Sequence[RunScores]], ceiling: float, command: str
) -> list[str]:
    """The page's lines, without its pictures."""
    head = ["method", *(f"step {step}" for step in size.steps)]
    lines = [
        "# APT and what it is measured against",
        "",
        verdict(table, size.steps),
        "",
        f"`{command}`, commit {provenance()['git_commit']}. {len(size.subjects)} subjects "
        f"({', '.join(size.subjects)}) × {size.seeds} seeds, {size.prompts} prompts × {size.pictures} pictures at "
        f"each of {len(size.steps)} steps, {size.denoising_steps} denoising steps, the same noise for all; ± is a "
        "bootstrap over subjects and seeds, of the training: the noise that pictures start from is "
        "not in it. Identity: mean cosine to the subject's *held-out* pictures "
        "(`assets/sprites-identity`), recolouring prompts left out. Adherence: share of the pictures in which the "
        "judge (`assets/sprites-judge`) finds all that the prompt asks for. A gap is the mean difference in the "
        "highest adherence attained at an identity or above, over the identities that both curves cover, paired by "
        "subject and seed. The real "
        f"training pictures have an identity of {ceiling:.3f}.",
        "",
        f"APT's settings were chosen on {', '.join(size.chosen_on)}, one seed each, by the area that a curve dominates "
        f"above the untouched model's identity. Chosen: **{chosen_settings(tried)}**.",
        "",
        _row(["settings", "area", "last identity", "last adherence"]),
        "|---|---:|---:|---:|",
        *(_row([name, *_settings_figures(runs)]) for name, runs in tried.items()),
    ]
    for title, pick in (("Identity", 0), ("Adherence", 1)):
        lines += ["", f"## {title} along training", "", _row(head), _row(["---", *["---:"] * len(size.steps)])]
        for name, rows in table.items():
            along = np.array([[scores.curve()[pick] for scores in row] for row in rows])
            lines.append(_row([name, *(with_error(along[..., step]) for step in range(len(size.steps)))]))
    lines += [
        "",
        "## Similarity to the nearest training picture, last step",
        "",
        _row(["method", "nearest"]),
        "|---|---:|",
    ]
    for name, rows in table.items():
        nearest = np.array([[np.nanmean(scores.nearest[-1]) for scores in row] for row in rows])
        lines.append(_row([name, with_error(nearest)]))
    lines += [
        "",
        "## Gaps at equal identity",
        "",
        _row(["method", "to DreamBooth", "to DreamBooth + prior"]),
        "|---|---:|---:|",
    ]
    for name in table:
        lines.append(_row([name, *(says(gaps(table, name, each)) for each in ("DreamBooth", "DreamBooth + prior"))]))
    return [*lines, ""]


def _settings_figures(runs: Sequence[RunScores]) -> list[str]:
    """Means over the subjects that settings are chosen on."""
    lasts = [[axis[-1] for axis in scores.curve()] for scores in runs]
    return [f"{value:.3f}" for value in (np.mean([area(scores) for scores in runs]), *np.mean(lasts, axis=0))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(
    out: Path, root: Path, size: "Size", scores: Scores, table: Table, runs: Mapping[str, "Run"], *,
    tried: Mapping[str, Sequence[RunScores]], command: str,
) -> None:  # fmt: skip
    """Writes the page, the curves and the grid of the given run of each method."""
    plot, grid = (out.with_name(f"{out.stem}_methods{kind}.png") for kind in ("", "_grid"))
    draw_curves(table, plot)
    draw_grid(root, runs, size, grid)
    lines = page(table, size, tried=tried, ceiling=scores.ceiling(size.subjects), command=command)
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


def draw_curves(table: Table, path: Path) -> None:
    """Each method's mean over subjects and seeds, a marker a step."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    for number, (name, rows) in enumerate(table.items()):
        means = np.mean([scores.curve() for row in rows for scores in row], axis=0)
        style = "-" if name in ("DreamBooth", "DreamBooth + prior", "APT") else "--"
        axes.plot(*means, style, marker="o", markersize=4, color=f"C{number}", label=name)
    axes.set_xlabel("identity (mean cosine to held-out pictures)")
    axes.set_ylabel("adherence (all that was asked)")
    axes.grid(color="0.9")
    axes.legend(fontsize=7)
    figure.savefig(path)


def draw_grid(root: Path, runs: Mapping[str, "Run"], size: "Size", path: Path, *, tile: int = 80) -> None:
    """A row for each method, a column for each prompt, the first copy of each."""
    left = 170
    grid = Image.new("RGB", (left + tile * size.prompts, tile * len(runs)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(11)
    for row, (name, run) in enumerate(runs.items()):
        draw.text((2, row * tile + tile // 2 - 6), name, fill="black", font=font)
        for column in range(size.prompts):
            picture = Image.open(run.folder(root) / f"{size.steps[-1]}" / f"{column:02d}-0.png")
            grid.paste(picture.resize((tile, tile), Image.Resampling.NEAREST), (left + column * tile, row * tile))
    grid.save(path)
