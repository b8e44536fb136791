"""GTA beside what it is compared with: `python -m benchmarks.gta.run` writes `docs/benchmarks/gta.md`.

Of every method that has a weight, the weight is chosen first, for each share of the data, on a quarter of the
*training* pictures, held out, with seeds of their own (GTA with TransMix takes GTA's); then every method trains on the
whole share, once for each seed, and is tested once. A run that lies in the folder already is not repeated, so the
command goes on where it was interrupted. Other data:
`python -m benchmarks.gta.run --root runs/x --out x.md --fractions 1 data=image_folder data.root=…` (overrides).
"""

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.gta.table import Results, write
from benchmarks.shared.command import ROOT, positive, typed
from benchmarks.shared.pool import claim, fit, recipe_hash, run_all

WEIGHTS: dict[str, tuple[str, tuple[float, ...] | None] | None] = {  # the key and values of the weight to choose
    "linear_probe_vit": None,
    "finetune_vit": None,
    "l2sp_vit": ("regularizer.l2sp.weight", (0.1, 1.0, 10.0, 100.0)),
    "bss_vit": ("regularizer.bss.weight", (0.0001, 0.001, 0.01, 0.1)),
    "attention_kl_vit": ("regularizer.attention_kl.weight", (0.1, 1.0, 10.0, 100.0)),
    "gta_vit": ("regularizer.spatial_attention_transfer.weight", (0.01, 0.1, 1.0, 10.0)),
    "gta_transmix_vit": ("regularizer.spatial_attention_transfer.weight", None),  # GTA's
}
RUN_SECONDS = 32  # of one run on one core of the machine that docs/benchmarks/gta.md was made on
HELD_OUT = 0.25
SELECTION_SEEDS = (100, 101)  # of draws of their own; the largest shares have pictures enough for the first one alone


@dataclass(frozen=True)
class Run:
    """One training; `weight` is None where the method has none."""

    experiment: str
    fraction: float
    seed: int
    weight: float | None
    validation_share: float

    @property
    def folder(self) -> str:
        weight = "" if self.weight is None else f"_weight={self.weight:g}"
        kind = "select" if self.validation_share else "test"
        return f"{kind}/{self.experiment}/fraction={self.fraction:g}{weight}_seed={self.seed}"

    def overrides(self) -> list[str]:
        key = WEIGHTS[self.experiment]
        chosen = [f"{key[0]}={self.weight}"] if key and self.weight is not None else []
        return [
            f"experiment={self.experiment}", f"seed={self.seed}", f"data.seed={self.seed}", *chosen,
            f"data.fraction={self.fraction}", f"data.validation_share={self.validation_share}",
            "logger=csv", "trainer.accelerator=cpu",
        ]  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where runs lie, and what all of them share.

    Args:
        root: folder of the runs.
        overrides: of run.py, for every run.
        workers: processes of one thread each.
    """

    root: Path
    overrides: tuple[str, ...]
    workers: int

    def train_all(self, runs: Iterable[Run], what: str) -> None:
        """Trains what is missing, `workers` at a time."""
        missing = [run for run in runs if not (self.root / run.folder / "report.html").exists()]
        jobs = [((self.root / run.folder).resolve(), [*run.overrides(), *self.overrides]) for run in missing]
        run_all(fit, jobs, workers=self.workers, what=what)

    def figures(self, run: Run) -> dict[str, float]:
        """What the run's `metrics.json` says of the tuned model, by name; the source's under `base/…`."""
        metrics = self.record(run)["metrics"]
        bases = {f"base/{name}": entry["base"] for name, entry in metrics.items() if entry["base"] is not None}
        return {name: entry["tuned"] for name, entry in metrics.items()} | bases

    def record(self, run: Run) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self.root / run.folder / "metrics.json").read_text())
        return record


def weights_tried(fractions: Iterable[float]) -> list[Run]:
    """Every weight of every method at every share, trained without the pictures that it is chosen on."""
    return [
        Run(experiment, fraction, seed, weight, HELD_OUT)
        for fraction in fractions
        for experiment, key in WEIGHTS.items()
        if key
        for weight in key[1] or ()
        for seed in (SELECTION_SEEDS if fraction < 0.3 else SELECTION_SEEDS[:1])
    ]


def chosen_weight(accuracy: dict[float, float]) -> float:
    """The weight of the highest accuracy; among equals the one in the middle."""
    best = sorted(weight for weight, score in accuracy.items() if score == max(accuracy.values()))
    return best[(len(best) - 1) // 2]


def choose(bench: Bench, tried: Sequence[Run], fractions: Iterable[float]) -> dict[tuple[str, float], float | None]:
    """The weight of every method at every share, by its mean accuracy over the seeds; None where it has none."""
    chosen: dict[tuple[str, float], float | None] = {}
    for fraction in fractions:
        for experiment in WEIGHTS:
            scores: dict[float, list[float]] = {}
            for run in tried:
                if (run.experiment, run.fraction) == (experiment, fraction):
                    scores.setdefault(float(run.weight or 0), []).append(bench.figures(run)["validation/accuracy"])
            accuracy = {weight: mean(values) for weight, values in scores.items()}
            chosen[experiment, fraction] = chosen_weight(accuracy) if accuracy else None
        chosen["gta_transmix_vit", fraction] = chosen["gta_vit", fraction]
    return chosen


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.15, 0.3, 0.5, 1.0])
    parser.add_argument("--seeds", type=positive, default=4)
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, default=ROOT / "runs/benchmark_gta")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/gta.md")
    parser.add_argument("overrides", nargs="*", help="of run.py, for every run")
    return parser.parse_intermixed_args()


def announce(count: int, workers: int) -> None:
    """How long that many runs will take."""
    minutes = count * RUN_SECONDS / workers / 60
    print(f"{count} runs × {RUN_SECONDS} s / {workers} processes: about {minutes:.0f} minutes in all")


def main() -> None:
    options = parse()
    bench = Bench(options.root, tuple(options.overrides), options.workers)
    recipes = [[f"experiment={name}", *bench.overrides] for name in WEIGHTS]
    claim(bench.root, {"overrides": list(bench.overrides), "recipe": recipe_hash(recipes, "assets/sprites-vit")})
    fractions = sorted(options.fractions)
    tried = weights_tried(fractions)
    announce(len(tried) + len(WEIGHTS) * len(fractions) * options.seeds, bench.workers)
    started = time.perf_counter()
    bench.train_all(tried, "choosing weights")
    chosen = choose(bench, tried, fractions)
    runs = {
        (experiment, fraction): [Run(experiment, fraction, seed, weight, 0.0) for seed in range(options.seeds)]
        for (experiment, fraction), weight in chosen.items()
    }
    bench.train_all([run for group in runs.values() for run in group], "training")
    results = Results(
        figures={key: [bench.figures(run) for run in group] for key, group in runs.items()},
        weights=chosen,
        tried={experiment: key[1] for experiment, key in WEIGHTS.items() if key and key[1]},
        record=bench.record(runs["gta_vit", fractions[-1]][0]),
        command=typed(__spec__.name),
    )
    write(options.out, results)
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} minutes; the result lies in {options.out}, all runs in {bench.root}")


if __name__ == "__main__":
    main()
