"""What `run.py` writes: a verdict and tables, beside the curves and pictures of `plot.py`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.methods.figures import Array, Table, gaps, says, with_error
from benchmarks.methods.plan import Run, Size
from benchmarks.methods.plot import draw_curves, draw_grid
from benchmarks.methods.settings import Tried, settings_said, tried_section
from benchmarks.methods.stopped import STOPPED, all_beside_stopped, stopped_section
from benchmarks.shared.curves import Gap
from benchmarks.shared.scores import RunScores, Scores
from benchmarks.shared.section import table_row, write_section
from report.provenance import provenance

PARTS = ("indicator", "stabilization", "alignment")  # of APT, as methods are named after them


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
    parts = [f"without {part} {says(gaps(table, 'APT', f'APT without {part}'))}" for part in PARTS]
    alone = [f"{part} {says(gaps(table, f'{part} alone', 'DreamBooth'))}" for part in PARTS]
    return (
        f"{text} What each part contributes: APT's gap to itself {'; '.join(parts)}. Each part alone, its gap to "
        f"DreamBooth: {'; '.join(alone)}."
    )


def _keeps(gap: Gap) -> str:
    if abs(gap.mean) > 2 * gap.error:
        return "keeps more adherence than" if gap.mean > 0 else "keeps less adherence than"
    return "cannot be told apart from"


def protocol(size: Size, ceilings: Mapping[str, float], *, commits: Sequence[str], command: str) -> str:
    """What was run, and what the figures are."""
    return (
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
        f"{ceilings['adherence']:.3f} right."
    )


def along_section(title: str, axis: int, table: Table, steps: Sequence[int]) -> list[str]:
    """Identity (axis 0) or adherence (1), a row a method, a column a step."""
    lines = [
        f"## {title} along training",
        "",
        table_row(["method", *(f"step {step}" for step in steps)]),
        table_row(["---", *["---:"] * len(steps)]),
    ]
    for name, rows in table.items():
        along = np.array([[scores.curve()[axis] for scores in row] for row in rows])
        lines.append(table_row([name, *(with_error(along[..., step]) for step in range(len(steps)))]))
    return lines


def nearest_section(table: Table, heldout: float) -> list[str]:
    """Whether training pictures are copied; `heldout` is how near the held-out ones are to them."""
    return [
        "## Similarity to the nearest training picture, last step",
        "",
        "Of whole pictures, by `assets/sprites-vit`: 1 is a copy, background and place included.",
        "",
        table_row(["method", "nearest"]),
        "|---|---:|",
        *(table_row([name, with_error(_nearest(rows, -1))]) for name, rows in table.items()),
        table_row(["untouched model", with_error(_nearest(next(iter(table.values())), 0))]),
        table_row(["held-out pictures", f"{heldout:.3f}"]),
    ]


def _nearest(rows: Sequence[Sequence[RunScores]], step: int) -> Array:
    return np.array([[scores.nearest[step].mean() for scores in row] for row in rows])


def gaps_section(table: Table) -> list[str]:
    """Every method beside the two that DreamBooth's paper has."""
    others = ("DreamBooth", "DreamBooth + prior")
    return [
        "## Gaps at equal identity",
        "",
        table_row(["method", *(f"to {other}" for other in others)]),
        "|---|---:|---:|",
        *(table_row([name, *(says(gaps(table, name, other)) for other in others)]) for name in table),
    ]


def page(
    table: Table, size: Size, *, tried: Tried, ceilings: Mapping[str, float], commits: Sequence[str], command: str,
    pictures: Sequence[str],
) -> list[str]:  # fmt: skip
    """The page's lines.

    Args:
        ceilings: what real pictures have of "identity", of "adherence" and of "nearest".
        commits: those that the runs were made with.
        pictures: the lines that show them.
    """
    sections = [
        tried_section(tried, size.chosen_on),
        along_section("Identity", 0, table, size.steps),
        along_section("Adherence", 1, table, size.steps),
        stopped_section(table, size),
        nearest_section(table, ceilings["nearest"]),
        gaps_section(table),
    ]
    return [
        "# APT and what it is measured against",
        "",
        f"{verdict(table, size.steps)} {settings_said(tried)}",
        "",
        *pictures,
        protocol(size, ceilings, commits=commits, command=command),
        *(line for section in sections for line in ["", *section]),
        "",
    ]


def write(
    out: Path, root: Path, size: Size, scores: Scores, table: Table, runs: Mapping[str, Run], *,
    tried: Tried, commits: Sequence[str], command: str,
) -> None:  # fmt: skip
    """Writes the page, the curves and the grid of the given run of each method."""
    plot, grid = (out.with_name(f"{out.stem}{kind}.png") for kind in ("", "_grid"))
    pictures = [
        f"![identity against adherence along training]({plot.name})",
        "",
        f"One seed of `{size.subjects[0]}` after {size.steps[-1]} steps, the same prompts and noise:",
        "",
        f"![pictures by method and prompt]({grid.name})",
        "",
    ]
    ceilings = scores.ceilings(size.subjects)
    # Before the pictures are drawn, which makes git's checkout dirty: the page names its commit.
    lines = page(table, size, tried=tried, ceilings=ceilings, commits=commits, command=command, pictures=pictures)
    identity, adherence = all_beside_stopped(table, size.steps)[..., 0, 1:].mean((0, 1))
    draw_curves(table, {STOPPED: (identity, adherence)}).savefig(plot)
    draw_grid(root, runs, size, grid)
    write_section(out, lines, first=True)
