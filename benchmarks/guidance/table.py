"""The scores of `run.py`: a table, the picture of the front, and which rule it favours."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from benchmarks.shared.curves import front_area
from benchmarks.shared.scores import Scores
from benchmarks.shared.section import table_row, write_section
from report.provenance import provenance

Score = tuple[float, float]  # identity, adherence


def scores_of(
    root: Path, names: Sequence[str], subjects: Sequence[str], scores: Scores, copies: int
) -> dict[str, dict[str, Score]]:
    """Identity and adherence of every variant for every subject, `[variant][subject]`."""
    found: dict[str, dict[str, Score]] = {name: {} for name in names}
    for name, subject in product(names, subjects):
        identity, adherence = scores.of([root / subject / name], subject, copies).curve()
        found[name][subject] = (float(identity[0]), float(adherence[0]))
    return found


def with_error(values: Sequence[float], digits: int) -> str:
    """Mean ± standard error."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{mean(values):.{digits}f} ± {error:.{digits}f}"


def fronts(found: Mapping[str, Mapping[str, Score]], lines: Mapping[str, Sequence[str]]) -> dict[str, list[float]]:
    """Of every line of scales and each subject, the area it dominates above the base's identity and no adherence."""
    return {
        label: [
            front_area([found[name][subject] for name in names], floor=(base[0], 0.0))
            for subject, base in found["base"].items()
        ]
        for label, names in lines.items()
    }


def protocol(subjects: Sequence[str], prompts: int, copies: int, command: str) -> str:
    """What was run, and what the figures are."""
    return (
        f"`{command}`, commit {provenance()['git_commit']}. {len(subjects)} subjects ({', '.join(subjects)}), one run "
        f"of each method with its experiment's settings, {copies} pictures of each of {prompts} evaluation "
        "prompts, the same noise under every guidance; mean ± standard error over subjects. Identity: mean cosine of "
        "the object to that of held-out pictures (`assets/sprites-identity`), without the prompts that repaint it. "
        "Adherence: share of the pictures in which the judge (`assets/sprites-judge`) finds all that the prompt asks "
        "for. Base: the pretrained model, given the class word."
    )


def scores_section(found: Mapping[str, Mapping[str, Score]]) -> list[str]:
    """A row a variant."""
    rows = [
        [name, *(with_error([score[axis] for score in by.values()], 3) for axis in (0, 1))]
        for name, by in found.items()
    ]
    head = ["## Scores", "", "| method and guidance | identity | adherence |", "|---|---:|---:|"]
    return [*head, *map(table_row, rows)]


def areas_section(areas: Mapping[str, Sequence[float]]) -> list[str]:
    """A row a line of scales."""
    return [
        "## Area under each front",
        "",
        "What a line of scales dominates above the base model's identity and no adherence, per subject.",
        "",
        "| line | area |",
        "|---|---:|",
        *(table_row([label, with_error(values, 3)]) for label, values in areas.items()),
    ]


def write(
    root: Path, out: Path, variants: Sequence[Any], subjects: Sequence[str], scores: Scores, *, copies: int,
    command: str,
) -> None:  # fmt: skip
    """Writes the page and, beside it, the picture of the front."""
    found = scores_of(root, ["base", *(variant.name for variant in variants)], subjects, scores, copies)
    labels = list(dict.fromkeys(variant.label for variant in variants))
    lines = {label: [variant.name for variant in variants if variant.label == label] for label in labels}
    areas = fronts(found, lines)
    plot, grid = (out.with_name(f"{out.stem}{kind}.png") for kind in ("", "_grid"))
    page = [
        "# Guidance: identity against prompt adherence",
        "",
        verdict(areas),
        "",
        protocol(subjects, scores.prompts, copies, command),
        "",
        f"![identity against adherence]({plot.name})",
        "",
        f"One prompt of `{subjects[0]}` from one noise, w_con downwards, the kind of guidance to the right:",
        "",
        f"![pictures by scale and guidance]({grid.name})",
        "",
        *scores_section(found),
        "",
        *areas_section(areas),
        "",
    ]
    draw_front(found, lines, plot)  # behind the page, which names a commit: git is dirty from here on
    draw_grid(root / subjects[0], variants, grid)
    write_section(out, page, first=False)


def verdict(areas: Mapping[str, Sequence[float]]) -> str:
    """The first paragraph: which rule is best, and whether rescaling beats plain consistency guidance."""
    plain = areas["DCO + consistency"]
    rules = {label: values for label, values in areas.items() if "rescaled" in label}
    best = max(rules, key=lambda label: mean(rules[label]))
    gain = [one - other for one, other in zip(rules[best], plain, strict=True)]
    error = stdev(gain) / len(gain) ** 0.5
    beats = "more" if mean(gain) > 2 * error else "not more"
    cfg = {label: values for label, values in areas.items() if label.endswith("CFG")}
    strongest = max(cfg, key=lambda label: mean(cfg[label]))
    over = [one - other for one, other in zip(rules[best], cfg[strongest], strict=True)]
    return (
        f"Of the rules, `{best}` dominates the largest area, {with_error(rules[best], 3)}; plain consistency guidance "
        f"{with_error(plain, 3)}. The paired difference is {mean(gain):+.3f} ± {error:.3f} over {len(gain)} subjects, "
        f"{beats} than two standard errors; it is the best of {len(rules)} rules on the subjects that chose it, "
        f"so no proof. The best of classifier-free guidance, `{strongest}`, dominates "
        f"{with_error(cfg[strongest], 3)}: {with_error(over, 3)} from it, paired."
    )


def draw_front(found: Mapping[str, Mapping[str, Score]], lines: Mapping[str, Sequence[str]], path: Path) -> None:
    """Means over subjects: a line for each guidance that has a scale, a marker for each that has none."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained", dpi=130)
    axes = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, sum(len(names) > 1 for names in lines.values())))
    palette = iter(colours)
    for label, names in [("base", ["base"]), *lines.items()]:
        points = [[mean(score[axis] for score in found[name].values()) for name in names] for axis in (0, 1)]
        if len(names) > 1:
            axes.plot(*points, marker="o", markersize=4, color=next(palette), label=label)
        else:
            axes.plot(*points, marker="*" if label == "base" else "s", linestyle="none", label=label)
    axes.set_xlabel("identity (mean cosine to the held-out pictures)")
    axes.set_ylabel("adherence (all that was asked)")
    axes.grid(color="0.9")
    axes.legend(fontsize=7)
    figure.savefig(path)


def draw_grid(folder: Path, variants: Sequence[Any], path: Path, *, number: int = 3, tile: int = 96) -> None:
    """Picture `number` of one subject: a row for each `w_con`, a column for each guidance that has one."""
    scaled = [variant for variant in variants if variant.consistency_scale is not None]
    columns = list(dict.fromkeys(variant.label for variant in scaled))
    rows = sorted({variant.consistency_scale for variant in scaled})
    left, top = 60, 34
    grid = Image.new("RGB", (left + tile * len(columns), top + tile * len(rows)), "white")
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(10)
    for column, label in enumerate(columns):
        text = textwrap.fill(label.removeprefix("DCO + ").replace("κ", "kappa"), 16)
        draw.multiline_text((left + column * tile + 2, 2), text, fill="black", font=font, spacing=1)
    for row, scale in enumerate(rows):
        draw.text((2, top + row * tile + tile // 2 - 6), f"w_con={scale:g}", fill="black", font=font)
    for variant in scaled:
        picture = Image.open(folder / variant.name / f"{number:02d}-0.png")
        picture = picture.resize((tile, tile), Image.Resampling.NEAREST)
        place = (columns.index(variant.label), rows.index(variant.consistency_scale))
        grid.paste(picture, (left + place[0] * tile, top + place[1] * tile))
    grid.save(path)
