"""What `run.py` writes: tables with standard errors under a paragraph that says what they mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

NAMES = {
    "linear_probe_vit": "linear probe",
    "finetune_vit": "fine-tuning",
    "l2sp_vit": "L2-SP",
    "bss_vit": "BSS",
    "attention_kl_vit": "attention KL",
    "gta_vit": "GTA",
    "gta_transmix_vit": "GTA + TransMix",
}
TABLES = {
    "test/accuracy": "Accuracy (%)",
    "test/attention_jaccard/head_mean": "Jaccard of the [CLS] attention, heads' mean (%)",
    "test/attention_jaccard/best_head": "Jaccard of the [CLS] attention, best head (%)",
}
CONTROLS = {
    "base/test/attention_jaccard/head_mean": "the source, heads' mean",
    "base/test/attention_jaccard/best_head": "the source, best head",
    "test/attention_jaccard/random": "random attention, heads' mean",
    "test/attention_jaccard/random_best_head": "random attention, best head",
    "test/attention_jaccard/centred_square": "a centred square",
}
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Results:
    """Figures of every run, by method and share of the data, one entry a seed.

    Args:
        figures: by metric.
        weights: those chosen.
        tried: those there were to choose from.
        record: `metrics.json` of one run on all data.
        command: what was typed.
    """

    figures: Mapping[tuple[str, float], Sequence[Figures]]
    weights: Mapping[tuple[str, float], float | None]
    tried: Mapping[str, Sequence[float]]
    record: Mapping[str, Any]
    command: str

    @property
    def fractions(self) -> list[float]:
        return sorted({fraction for _, fraction in self.figures})

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(experiment for experiment, _ in self.figures))

    @property
    def seeds(self) -> int:
        return len(next(iter(self.figures.values())))

    def values(self, experiment: str, fraction: float, name: str) -> list[float]:
        return [100 * figures[name] for figures in self.figures[experiment, fraction]]

    def paired(self, name: str, one: str, other: str, fraction: float) -> tuple[float, float]:
        """Mean and standard error of the difference within each seed."""
        pairs = zip(self.values(one, fraction, name), self.values(other, fraction, name), strict=True)
        return summary([a - b for a, b in pairs])

    def has(self, name: str) -> bool:
        return all(name in each for group in self.figures.values() for each in group)


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error, which is NaN of a single value."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def verdict(results: Results) -> str:
    """What the tables say of GTA at the smallest share of the data."""
    fraction = results.fractions[0]
    gain, error = results.paired("test/accuracy", "gta_vit", "finetune_vit", fraction)
    beats = "beats it by more than" if gain > 2 * error else "does not beat it by"
    text = (
        f"At {fraction:.0%} of the training pictures GTA's accuracy is {gain:+.1f} ± {error:.1f} points from plain "
        f"fine-tuning's (paired by seed, {results.seeds} seeds): it {beats} two standard errors."
    )
    others = [each for each in results.methods if each not in ("gta_vit", "finetune_vit")]
    differences = {each: results.paired("test/accuracy", each, "finetune_vit", fraction) for each in others}
    text += " The others: " + ", ".join(f"{NAMES[e]} {d:+.1f} ± {s:.1f}" for e, (d, s) in differences.items()) + "."
    if results.has("test/attention_jaccard/head_mean"):
        name = "test/attention_jaccard/head_mean"
        gain, error = results.paired(name, "gta_vit", "finetune_vit", fraction)
        source, tuned, kept = (
            mean(results.values(method, fraction, key))
            for method, key in (("gta_vit", f"base/{name}"), ("finetune_vit", name), ("gta_vit", name))
        )
        text += (
            f" The [CLS] attention (heads' mean) overlaps the objects by {source:.1f} points of Jaccard in the source, "
            f"{tuned:.1f} after fine-tuning and {kept:.1f} after GTA ({gain:+.1f} ± {error:.1f})."
        )
    return text


def table(results: Results, name: str) -> list[str]:
    """A row a method, a column a share."""
    lines = [f"| method | {' | '.join(f'{each:.0%}' for each in results.fractions)} |"]
    lines.append("|---|" + "---:|" * len(results.fractions))
    for method in results.methods:
        cells = [summary(results.values(method, fraction, name)) for fraction in results.fractions]
        lines.append(f"| {NAMES[method]} | {' | '.join(f'{value:.1f} ± {error:.1f}' for value, error in cells)} |")
    return [*lines, ""]


def write(path: Path, results: Results) -> None:
    """Writes the page."""
    from report.provenance import provenance

    record, largest = results.record, results.fractions[-1]
    lines = [
        f"# GTA beside what it is compared with, on {record['subject']}",
        "",
        verdict(results),
        "",
        f"`{results.command}`, commit {provenance()['git_commit']}. {len(record['classes'])} classes, "
        f"{record['pictures']['train']} training pictures at {largest:.0%}, {record['pictures']['test']} test "
        f"pictures; each seed draws data, subset, head and order anew; mean ± standard error over {results.seeds} "
        f"seeds. Every method trains {record['steps']} steps with its experiment's settings. Weights were chosen by "
        "accuracy on a quarter of the training pictures, held out, in draws with seeds of their own (two at the shares "
        "below 30 %, one otherwise): a coarse choice. GTA with TransMix takes GTA's weight. The test pictures were "
        "looked at once.",
        "",
    ]
    for name, title in TABLES.items():
        if results.has(name):
            lines += [f"## {title}", "", *table(results, name)]
    if results.has("test/attention_jaccard/random"):
        lines += ["Beside them, over all runs of GTA (%):", ""]
        for name, title in CONTROLS.items():
            values = [v for fraction in results.fractions for v in results.values("gta_vit", fraction, name)]
            lines.append(f"- {title}: {mean(values):.1f}")
        lines.append("")
    lines += [
        "## Weights chosen",
        "",
        f"| method | {' | '.join(f'{each:.0%}' for each in results.fractions)} | tried |",
    ]
    lines.append("|---|" + "---:|" * len(results.fractions) + "---|")
    for method, tried in results.tried.items():
        chosen = " | ".join(f"{results.weights[method, fraction]:g}" for fraction in results.fractions)
        lines.append(f"| {NAMES[method]} | {chosen} | {', '.join(f'{weight:g}' for weight in tried)} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
