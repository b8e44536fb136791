"""GTA beside what it is compared with: `python benchmarks/gta.py [--size default|full|tiny]` writes `docs/benchmark_gta.md`.

Of every method that has a weight, the weight is chosen first, for each share of the data, on pictures held out of that
share of the *training* pictures; then every method trains on the whole share, for each seed, and is tested once. A run
that lies in the folder already is not repeated, so the command goes on where it was interrupted.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

METHODS = {  # experiment -> the key and the values of the weight that is chosen
    "linear_probe_vit": None,
    "finetune_vit": None,
    "l2sp_vit": ("regularizer.l2sp.weight", (0.1, 1.0, 10.0)),
    "bss_vit": ("regularizer.bss.weight", (0.0001, 0.001, 0.01)),
    "attention_kl_vit": ("regularizer.attention_kl.weight", (0.1, 1.0, 10.0)),
    "gta_vit": ("regularizer.spatial_attention_transfer.weight", (0.01, 0.1, 1.0)),
    "gta_transmix_vit": ("regularizer.spatial_attention_transfer.weight", (0.01, 0.1, 1.0)),
}
NAMES = {
    "linear_probe_vit": "linear probe", "finetune_vit": "fine-tuning", "l2sp_vit": "L2-SP", "bss_vit": "BSS",
    "attention_kl_vit": "attention KL", "gta_vit": "GTA", "gta_transmix_vit": "GTA + TransMix",
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    fractions: tuple[float, ...]
    seeds: int
    overrides: tuple[str, ...]
    run_seconds: float  # of one run on one core, for the budget that is stated before the start


SIZES = {
    "tiny": Size(
        (0.5,), 2, ("trainer.max_steps=4", "data.num_train=4", "data.num_test=1", "datamodule.batch_size=4"), 5
    ),
    "default": Size((0.15, 0.3, 0.5, 1.0), 4, (), 36),
    "full": Size((0.15, 0.3, 0.5, 1.0), 12, (), 36),
}


@dataclass(frozen=True)
class Run:
    """One training: `weight` None where the method has none."""

    experiment: str
    fraction: float
    seed: int
    weight: float | None
    validation_share: float

    def folder(self, root: Path) -> Path:
        kind = "select" if self.validation_share else "test"
        weight = "" if self.weight is None else f"_weight={self.weight:g}"
        return root / kind / self.experiment / f"fraction={self.fraction:g}{weight}_seed={self.seed}"

    def overrides(self) -> list[str]:
        key = METHODS[self.experiment]
        chosen = [f"{key[0]}={self.weight}"] if key and self.weight is not None else []
        return [
            f"experiment={self.experiment}", f"data.fraction={self.fraction}", f"seed={self.seed}",
            f"data.seed={self.seed}", f"data.validation_share={self.validation_share}", "logger=csv", *chosen,
        ]  # fmt: skip


def train(run: Run, root: Path, overrides: Sequence[str]) -> None:
    """What `python run.py <overrides>` does, in this process, which has imported torch already."""
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    import run as holdfast

    torch.set_num_threads(1)
    folder = run.folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        output = f"hydra.runtime.output_dir='{folder}'"
        cfg = compose("config", [*run.overrides(), *overrides, output], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    holdfast.fit(cfg, folder)


def quiet() -> None:
    """In the workers: a benchmark has one progress bar, its own."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)


def train_all(runs: Iterable[Run], root: Path, overrides: Sequence[str], workers: int, what: str) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    missing = [run for run in runs if not (run.folder(root) / "report.html").exists()]
    for run in missing:  # a run that was interrupted begins anew
        for path in sorted(run.folder(root).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task(what, total=len(missing))
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=quiet) as pool:
            for future in as_completed([pool.submit(train, run, root, overrides) for run in missing]):
                future.result()
                progress.advance(bar)


def figure(run: Run, root: Path, name: str) -> float:
    record = json.loads((run.folder(root) / "metrics.json").read_text())
    return float(record["metrics"][name]["tuned"])


def weights_tried(size: Size) -> list[Run]:
    return [
        Run(experiment, fraction, seed, weight, 0.25)
        for fraction in size.fractions
        for experiment, key in METHODS.items()
        if key
        for weight in key[1]
        for seed in (100,)
    ]


def chosen_weight(experiment: str, fraction: float, tried: Sequence[Run], root: Path) -> float | None:
    """The weight of the highest accuracy on held-out training pictures; among equals the one in the middle."""
    mine = [run for run in tried if run.experiment == experiment and run.fraction == fraction]
    if not mine:
        return None
    scores = {run.weight: figure(run, root, "validation/accuracy") for run in mine}
    best = sorted(weight for weight, score in scores.items() if score == max(scores.values()))
    return best[(len(best) - 1) // 2]


def summary(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error; the error of a single value is unknown, NaN."""
    return mean(values), stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def table(title: str, name: str, runs: dict[tuple[str, float], list[Run]], size: Size, root: Path) -> list[str]:
    lines = [f"## {title}", "", "| method | " + " | ".join(f"{fraction:.0%}" for fraction in size.fractions) + " |"]
    lines.append("|---|" + "---:|" * len(size.fractions))
    for experiment in METHODS:
        cells = []
        for fraction in size.fractions:
            middle, error = summary([figure(run, root, name) for run in runs[experiment, fraction]])
            cells.append(f"{100 * middle:.1f} ± {100 * error:.1f}")
        lines.append(f"| {NAMES[experiment]} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def paired(name: str, one: list[Run], other: list[Run], root: Path) -> tuple[float, float]:
    """Mean and standard error of the difference within each seed."""
    return summary([figure(a, root, name) - figure(b, root, name) for a, b in zip(one, other, strict=True)])


def verdict(runs: dict[tuple[str, float], list[Run]], size: Size, root: Path) -> str:
    fraction = size.fractions[0]
    gta, plain = runs["gta_vit", fraction], runs["finetune_vit", fraction]
    gain, error = paired("test/accuracy", gta, plain, root)
    looks, looks_error = paired("test/attention_jaccard/head_mean", gta, plain, root)
    is_better = gain > 2 * error
    source = json.loads((gta[0].folder(root) / "metrics.json").read_text())["metrics"]
    base = source["test/attention_jaccard/head_mean"]["base"]
    text = (
        f"At {fraction:.0%} of the training pictures GTA is {abs(100 * gain):.1f} ± {100 * error:.1f} points of accuracy "
        f"{'above' if gain >= 0 else 'below'} plain fine-tuning (paired by seed, {size.seeds} seeds): it "
        f"{'beats it by more than two standard errors' if is_better else 'does not beat it by two standard errors'}. "
        f"Its [CLS] attention overlaps the objects by {abs(100 * looks):.1f} ± {100 * looks_error:.1f} points of Jaccard "
        f"{'more' if looks >= 0 else 'less'} than fine-tuning's; the source's own is {100 * base:.1f}."
    )
    for experiment in METHODS:
        if experiment not in ("gta_vit", "finetune_vit"):
            difference, its_error = paired("test/accuracy", runs[experiment, fraction], plain, root)
            text += f" {NAMES[experiment]}: {100 * difference:+.1f} ± {100 * its_error:.1f}."
    return text


def write(
    path: Path, runs: dict[tuple[str, float], list[Run]], weights: dict[tuple[str, float], Any], size: Size, root: Path
) -> None:
    sys.path.insert(0, str(ROOT))
    from report.provenance import provenance

    one = json.loads((runs["gta_vit", size.fractions[-1]][0].folder(root) / "metrics.json").read_text())
    controls = {
        name: 100 * one["metrics"][f"test/attention_jaccard/{name}"]["tuned"] for name in ("random", "centred_square")
    }
    lines = [
        "# GTA on the embedded task",
        "",
        verdict(runs, size, root),
        "",
        f"`python benchmarks/gta.py`, commit {provenance()['git_commit']}. Task: `data=cluttered_objects`, "
        f"{len(one['classes'])} classes, {one['pictures']['train']} training pictures at 100 %, "
        f"{one['pictures']['test']} test pictures; each seed draws task, subset, head and order anew. "
        f"Mean ± standard error over {size.seeds} seeds. Every method trains {one['steps']} steps with the settings of its "
        "experiment; weights were chosen by accuracy on a quarter of each share's training pictures, with a seed of "
        "their own, and the test pictures were looked at once.",
        "",
        *table("Accuracy (%)", "test/accuracy", runs, size, root),
        *table("Jaccard of the [CLS] attention, head mean (%)", "test/attention_jaccard/head_mean", runs, size, root),
        *table("Jaccard of the [CLS] attention, best head (%)", "test/attention_jaccard/best_head", runs, size, root),
        f"Controls: random attention {controls['random']:.1f}, a centred square {controls['centred_square']:.1f}.",
        "",
        "## Weights chosen",
        "",
        "| method | " + " | ".join(f"{fraction:.0%}" for fraction in size.fractions) + " | tried |",
        "|---|" + "---:|" * len(size.fractions) + "---|",
    ]
    for experiment, key in METHODS.items():
        if key:
            chosen = " | ".join(f"{weights[experiment, fraction]:g}" for fraction in size.fractions)
            lines.append(f"| {NAMES[experiment]} | {chosen} | {', '.join(f'{w:g}' for w in key[1])} |")
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--root", type=Path, default=ROOT / "runs/benchmark_gta")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmark_gta.md")
    parser.add_argument("overrides", nargs="*", help="of run.py, for every run")
    options = parser.parse_args()
    size, root = SIZES[options.size], options.root / options.size
    overrides = [*size.overrides, *options.overrides]
    tried = weights_tried(size)
    count = len(tried) + len(METHODS) * len(size.fractions) * size.seeds
    minutes = count * size.run_seconds / options.workers / 60
    print(f"{count} runs × {size.run_seconds:.0f} s / {options.workers} processes: about {minutes:.0f} minutes in all")
    started = time.perf_counter()
    train_all(tried, root, overrides, options.workers, "choosing weights")
    weights = {
        (experiment, fraction): chosen_weight(experiment, fraction, tried, root)
        for experiment in METHODS
        for fraction in size.fractions
    }
    runs = {
        (experiment, fraction): [Run(experiment, fraction, seed, weight, 0.0) for seed in range(size.seeds)]
        for (experiment, fraction), weight in weights.items()
    }
    train_all([run for group in runs.values() for run in group], root, overrides, options.workers, "training")
    write(options.out, runs, weights, size, root)
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes; the result lies in {options.out}, the runs in {root}")


if __name__ == "__main__":
    main()
