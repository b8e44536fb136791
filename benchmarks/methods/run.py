"""APT beside what it is measured against: `python -m benchmarks.methods.run` writes its section of `docs/benchmark.md`.

Every run is drawn with at several steps of its training, so that a method is a curve of identity against prompt
adherence (METHODS.md §5). The settings of APT and of prior preservation are chosen on subjects of their own. A run that
lies in the folder is not repeated, so the command goes on where it was interrupted; `--size full` takes a night, of one
piece or of several.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.methods.draw_along import DrawAlong
from benchmarks.shared.pool import claim, recipe_hash, run_all

ROOT = Path(__file__).parents[2]
ASSET = "assets/sprites-sd"  # the others only score
INDICATOR, STABILIZATION, ALIGNMENT = "overfitting_indicator", "representation_stabilization", "attention_alignment"
PARTS = (INDICATOR, STABILIZATION, ALIGNMENT)
PRIOR = "prior_preservation"
AUGMENTATION = "model.indicator_augmentation=true"  # which this model leaves out
METHODS: dict[str, tuple[str, tuple[str, ...]]] = {  # the experiment and, of its parts, those that stay
    "DreamBooth": ("dreambooth", ()),
    "DreamBooth + prior": ("dreambooth_prior", (PRIOR,)),
    "APT": ("apt_dreambooth", PARTS),
    "APT without indicator": ("apt_dreambooth", (STABILIZATION, ALIGNMENT)),
    "APT without stabilization": ("apt_dreambooth", (INDICATOR, ALIGNMENT)),
    "APT without alignment": ("apt_dreambooth", (INDICATOR, STABILIZATION)),
    "indicator alone": ("apt_dreambooth", (INDICATOR,)),
    "stabilization alone": ("apt_dreambooth", (STABILIZATION,)),
    "alignment alone": ("apt_dreambooth", (ALIGNMENT,)),
}
APT_SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {  # of its parts
    "defaults": {},
    "augmentation": {INDICATOR: (AUGMENTATION,)},
    "augmentation of at most a tenth": {
        INDICATOR: (AUGMENTATION, "regularizer.overfitting_indicator.max_probability=0.1")
    },
    "augmentation, zoom at most 1.5": {INDICATOR: (AUGMENTATION, "module.augmentation.max_zoom=1.5")},
    "augmentation, border left out": {INDICATOR: (AUGMENTATION, "module.augmentation.mask_border=true")},
    "T = 4": {INDICATOR: ("model.indicator_scale=4",)},
    "T = 64": {INDICATOR: ("model.indicator_scale=64",)},
    "sites in the whole UNet": {
        STABILIZATION: ("regularizer.representation_stabilization.sites=['*.attn1']",),
        ALIGNMENT: ("regularizer.attention_alignment.sites=['*.attn2']",),
    },
    "weights × 10": {
        STABILIZATION: ("regularizer.representation_stabilization.weight=0.15",),
        ALIGNMENT: ("regularizer.attention_alignment.weight=1",),
    },
    "weights × 100": {
        STABILIZATION: ("regularizer.representation_stabilization.weight=1.5",),
        ALIGNMENT: ("regularizer.attention_alignment.weight=10",),
    },
}
SETTINGS = {  # to choose from, of the methods of one experiment: that of them which has every part tries them
    "DreamBooth + prior": {
        f"weight {weight}": {PRIOR: (f"regularizer.prior_preservation.weight={weight}",)} for weight in (0.3, 1, 3)
    },
    "APT": APT_SETTINGS,
}


@dataclass(frozen=True)
class Size:
    """How much is run; `seconds` of one run on one core of the machine that docs/benchmark.md was made on."""

    chosen_on: tuple[str, ...]
    subjects: tuple[str, ...]
    seeds: int
    prompts: int
    pictures: int
    steps: tuple[int, ...]
    denoising_steps: int
    seconds: int


DEFAULT = Size(
    chosen_on=("square_bolt", "circle_quarters"),
    subjects=("heart_face", "star_badge", "triangle_halves", "moon_halves"),
    seeds=2,
    prompts=10,
    pictures=2,
    steps=(0, 50, 100, 200, 300),
    denoising_steps=15,
    seconds=83,
)
FULL = replace(
    DEFAULT,
    seeds=5,
    prompts=20,
    pictures=4,
    steps=(0, 50, 100, 150, 200, 300, 400, 600),
    denoising_steps=20,
    seconds=340,  # reckoned from the default's, not measured
)
SIZES = {"default": DEFAULT, "full": FULL}


@dataclass(frozen=True)
class Run:
    """One training of a method of `METHODS`, with a choice of `SETTINGS` for those parts that it has."""

    method: str
    settings: str
    subject: str
    seed: int

    def folder(self, root: Path) -> Path:
        settings = f", {self.settings}" if METHODS[self.method][1] else ""
        return root / self.subject / f"{self.method}{settings}, seed {self.seed}"

    def overrides(self) -> list[str]:
        experiment, parts = METHODS[self.method]
        whole = tried_by(self.method)
        dropped = [f"~regularizer.{part}" for part in METHODS[whole][1] if part not in parts]
        settings = [each for part in parts for each in SETTINGS[whole][self.settings].get(part, ())]
        return [
            f"experiment={experiment}", *dropped, *settings, f"data.subject={self.subject}", f"seed={self.seed}"
        ]  # fmt: skip


def train(run: Run, root: Path, size: Size) -> None:
    """Trains and draws, and notes with which commit; the folder appears when it is complete."""
    import torch

    from benchmarks.shared.lanes import build, compose_run
    from report.provenance import write_provenance

    torch.set_num_threads(1)
    os.chdir(ROOT)
    folder = run.folder(root)
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    overrides = [
        *run.overrides(), "logger=csv", "trainer.accelerator=cpu",
        f"trainer.max_steps={max(size.steps)}", "+trainer.limit_val_batches=0", "~callbacks.model_checkpoint",
        "+trainer.enable_checkpointing=false", f"model.num_inference_steps={size.denoising_steps}",
        f"module.class_image_dir='{root / 'class_images'}'",
    ]  # fmt: skip
    draw_along = DrawAlong(unfinished, root / "untouched" / run.subject, size)
    _, module, datamodule, trainer = build(compose_run(overrides), draw_along)
    trainer.fit(module, datamodule=datamodule)
    if missing := [step for step in size.steps if not (unfinished / f"{step}").is_dir()]:
        raise RuntimeError(f"{folder}: nothing was drawn at steps {missing}")
    write_provenance(unfinished)
    unfinished.replace(folder)


def tried_by(method: str) -> str:
    """The method that has every part of this one's experiment, the first: its settings serve both."""
    return next(name for name, (experiment, _) in METHODS.items() if experiment == METHODS[method][0])


def runs(choices: Iterable[tuple[str, str]], subjects: Iterable[str], seeds: int) -> list[Run]:
    """Every combination with these methods and settings; one seed after the other: a first table is there early."""
    every = product(range(seeds), subjects, choices)
    return [Run(method, settings, subject, seed) for seed, subject, (method, settings) in every]


def trials(size: Size) -> list[Run]:
    """Those that settings are chosen by."""
    return runs([(method, name) for method in SETTINGS for name in SETTINGS[method]], size.chosen_on, 1)


def with_chosen(chosen: Mapping[str, str], size: Size) -> list[Run]:
    """Those that are reported, every method with the settings `chosen` of `SETTINGS`."""
    return runs([(method, chosen.get(tried_by(method), "")) for method in METHODS], size.subjects, size.seeds)


def positive(text: str) -> int:
    """An argparse type.

    Raises:
        ArgumentTypeError: `text` is no whole number above 0.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def commit_of(folder: Path) -> str:
    """The commit that a run was made with, by the `provenance.json` that `train` writes."""
    return str(json.loads((folder / "provenance.json").read_text())["git_commit"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--seeds", type=positive, help="fewer than the size has: the rest can be added later")
    parser.add_argument("--root", type=Path, help="folder of the runs, runs/benchmark_<size> if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmark.md")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes of one thread each")
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.seeds and options.seeds > size.seeds:
        parser.error(f"--seeds {options.seeds}: --size {options.size} has {size.seeds}")
    if not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    recipe = recipe_hash([[f"experiment={name}"] for name, _ in METHODS.values()], ASSET)
    told = {"seeds": None, "seconds": None}  # neither changes a run
    made_with = {"size": asdict(size) | told, "methods": [METHODS, SETTINGS], "recipe": recipe}
    size = replace(size, seeds=options.seeds or size.seeds)
    root = (options.root or ROOT / f"runs/benchmark_{options.size}").resolve()
    claim(root, made_with)
    tried = trials(size)
    count = len(tried) + len(with_chosen({}, size))
    minutes = count * size.seconds / options.workers / 60
    print(
        f"{count} runs × {size.seconds} s / {options.workers} processes: about {minutes:.0f} minutes in all, less what "
        f"lies in {root}"
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.perf_counter()

    def train_all(todo: list[Run], what: str) -> None:
        left = [(run, root, size) for run in todo if not run.folder(root).exists()]
        run_all(train, left, workers=options.workers, what=what)

    train_all(tried, "choosing settings")
    from benchmarks.methods.table import chosen_settings, write
    from benchmarks.shared.scores import Scores

    scores = Scores(size.prompts)

    def score(run: Run) -> Any:
        return scores.of([run.folder(root) / f"{step}" for step in size.steps], run.subject, size.pictures)

    scored = {
        method: {name: [score(run) for run in tried if (run.method, run.settings) == (method, name)] for name in names}
        for method, names in SETTINGS.items()
    }
    reported = with_chosen({method: chosen_settings(each) for method, each in scored.items()}, size)
    train_all(reported, "training")
    table = {
        name: [
            [score(run) for run in reported if (run.method, run.subject) == (name, subject)]  # seed by seed
            for subject in size.subjects
        ]
        for name in METHODS
    }
    first = {run.method: run for run in reported if (run.subject, run.seed) == (size.subjects[0], 0)}
    command = " ".join(["python -m benchmarks.methods.run", *sys.argv[1:]])
    commits = sorted({commit_of(run.folder(root)) for run in (*tried, *reported)})
    write(options.out, root, size, scores, table, first, tried=scored, commits=commits, command=command)
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes; the result lies in {options.out}, all pictures in {root}")


if __name__ == "__main__":
    main()
