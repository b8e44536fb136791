"""DreamBench: `python -m benchmarks.dreambench --root <dataset> [run.py overrides]` writes a table of its figures.

Every subject of a folder in the layout of google/dreambooth under all of its prompts, four pictures each, as in
DreamBooth (arXiv:2208.12242), for each experiment. A run that lies in the folder is not repeated. The metrics' weights
come from the hub or from disk; where there are none, name others:
`'evaluation/metrics=[image_similarity,nearest_training_similarity]'`.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.shared.command import ROOT, positive, typed
from benchmarks.shared.pool import claim, fit, recipe_hash, run_all
from datamodules.dreambooth import TABLE, read_prompt_table
from report.provenance import provenance

METRICS = (
    "evaluation/metrics=[dino,clip_i,clip_t,nearest_training_similarity]",
    "evaluation.metrics.nearest_training_similarity.backbone=dino_vits16",
)
PUBLISHED = {  # DINO, CLIP-I, CLIP-T of arXiv:2208.12242; not measured here
    "real pictures": (0.774, 0.885, None),
    "DreamBooth, Imagen": (0.696, 0.812, 0.306),
    "DreamBooth, Stable Diffusion": (0.668, 0.803, 0.305),
    "Textual Inversion, Stable Diffusion": (0.569, 0.780, 0.255),
}
Figures = Mapping[str, Mapping[str, Any]]  # of a metric: tuned, base, reference, counts


def subjects(root: Path) -> list[str]:
    """Those of the dataset's table that have a folder.

    Raises:
        FileNotFoundError: there is no table, or none of its subjects.
    """
    if not (root / TABLE).is_file():
        raise FileNotFoundError(f"{root / TABLE} is not there; --root is the folder `dataset` of google/dreambooth")
    found = [name for name in read_prompt_table(root / TABLE).classes if (root / name).is_dir()]
    if not found:
        raise FileNotFoundError(f"{root} has a folder of none of the subjects in {TABLE}")
    return found


def table(figures: Mapping[str, Sequence[Figures]]) -> list[str]:
    """A row for each experiment, with the untouched model and the real pictures of the first; ± over subjects."""
    names = [name for name, each in next(iter(figures.values()))[0].items() if each.get("tuned") is not None]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    first = next(iter(figures))
    rows = [("untouched model", first, "base"), ("real pictures", first, "reference")]
    for label, experiment, kind in [*rows, *((each, each, "tuned") for each in figures)]:
        cells = []
        for name in names:
            values = [value for each in figures[experiment] if (value := each[name].get(kind)) is not None]
            error = f" ± {stdev(values) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.3f}{error}" if values else "–")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def pictures_drawn(figures: Mapping[str, Sequence[Figures]]) -> str:
    """How many pictures of a subject the figures are over: what `counts` says, from the fewest to the most."""
    every = [each for runs in figures.values() for run in runs for each in run.values()]
    counts = {each["counts"]["tuned"] for each in every if each.get("tuned") is not None}
    return f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def published() -> list[str]:
    """The paper's figures, as they stand there."""
    rows = [
        f"| {name} | {' | '.join('–' if value is None else f'{value:.3f}' for value in values)} |"
        for name, values in PUBLISHED.items()
    ]
    return ["| published | DINO | CLIP-I | CLIP-T |", "|---|---:|---:|---:|", *rows]


def says_what_is_left(left: int, runs: int, workers: int, seconds: float | None) -> str:
    """Before the start; without the `seconds` of a run nobody knows how long, until `run_all` has seen one."""
    text = f"{left} of {runs} runs are to be done, {workers} at a time"
    if seconds is None:
        return text
    return f"{text}: {left} × {seconds:g} s / {workers} processes, about {left * seconds / workers / 60:.0f} minutes"


@dataclass(frozen=True)
class Bench:
    """Which experiments are run on which subjects, and where they lie.

    Args:
        runs: folder of the runs, in which each experiment has one, so that another one can be added.
        overrides: of run.py, for every run.
        workers: processes of one thread each.
    """

    runs: Path
    experiments: Sequence[str]
    subjects: Sequence[str]
    overrides: Sequence[str]
    workers: int

    def folder(self, experiment: str, subject: str) -> Path:
        return (self.runs / experiment / subject).resolve()

    def claim(self) -> None:
        for name in self.experiments:
            recipe = recipe_hash([[f"experiment={name}", f"data.subject={self.subjects[0]}", *self.overrides]])
            claim(self.runs / name, {"overrides": self.overrides, "recipe": recipe})

    def left(self) -> list[tuple[Path, list[str]]]:
        """Folder and overrides of every run that is to be done."""
        return [
            (self.folder(experiment, subject), [f"experiment={experiment}", f"data.subject={subject}", *self.overrides])
            for experiment in self.experiments
            for subject in self.subjects
            if not (self.folder(experiment, subject) / "report.html").exists()
        ]

    def figures(self) -> dict[str, list[Figures]]:
        """Of every experiment, those of its subjects."""
        return {
            experiment: [
                json.loads((self.folder(experiment, subject) / "metrics.json").read_text())["metrics"]
                for subject in self.subjects
            ]
            for experiment in self.experiments
        }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the folder `dataset` of google/dreambooth")
    parser.add_argument("--experiments", nargs="+", default=["dreambooth", "apt_dreambooth", "dco_dreambooth"])
    parser.add_argument("--subjects", nargs="+", help="of the dataset; all if not given")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/dreambench", help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/dreambench.md")
    parser.add_argument(
        "--workers", type=positive, default=1, help="processes of one thread each, on a CPU; one on a GPU"
    )
    parser.add_argument("--seconds-per-run", type=float, help="if known: how long it will take is said at the start")
    parser.add_argument("overrides", nargs="*", help="of run.py, for every run: model=sd15 …")
    return parser.parse_intermixed_args()


def bench_of(options: argparse.Namespace) -> Bench:
    """What was asked for.

    Raises:
        SystemExit: there is no dataset, or no such subject in it.
    """
    try:
        present = subjects(options.root)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    if unknown := set(options.subjects or ()) - set(present):
        sys.exit(
            f"error: {', '.join(sorted(unknown))}: no such subject in {options.root}; there are {', '.join(present)}"
        )
    metrics = () if any(each.startswith("evaluation/metrics=") for each in options.overrides) else METRICS
    overrides = ["data=dreambooth", f"data.root='{options.root.resolve()}'", "evaluation.max_prompts=25",
                 "evaluation.images_per_prompt=4", "logger=csv", *metrics, *options.overrides]  # fmt: skip
    return Bench(options.runs, options.experiments, options.subjects or present, overrides, options.workers)


def page(figures: Mapping[str, Sequence[Figures]], num_subjects: int, command: str) -> list[str]:
    return [
        "# DreamBench", "",
        f"`{command}`, commit {provenance()['git_commit']}. {num_subjects} subjects, {pictures_drawn(figures)} "
        "pictures of each; ± is the standard error over subjects. A high `nearest_training_similarity` is that of "
        "copies; of real pictures it needs held-out ones (`data.num_heldout`). Each run's `metrics.json` says what a "
        "figure was measured with.",
        "", *table(figures), "", "Published, on other models and hardware; not measured here:", "",
        *published(), "",
    ]  # fmt: skip


def main() -> None:
    options = parse()
    bench = bench_of(options)
    bench.claim()
    left, runs = bench.left(), len(bench.experiments) * len(bench.subjects)
    print(says_what_is_left(len(left), runs, bench.workers, options.seconds_per_run))
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.perf_counter()
    run_all(fit, left, workers=bench.workers, what="DreamBench")
    lines = page(bench.figures(), len(bench.subjects), typed(__spec__.name))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(lines))
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes; the table lies in {options.out}, all runs in {options.runs}")


if __name__ == "__main__":
    main()
