"""APT beside what it is measured against: `python -m benchmarks.methods.run` writes `docs/benchmarks/methods.md`.

Every run is drawn with at several steps of its training, so that a method is a curve of identity against prompt
adherence. The settings of APT and of prior preservation are chosen on subjects of their own. A run that
lies in the folder is not repeated, so the command goes on where it was interrupted; `--size full` takes a night, of one
piece or of several.
"""

import argparse
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.methods.plan import METHODS, SETTINGS, SIZES, Run, Size, trials, with_chosen
from benchmarks.shared.command import ROOT, positive, typed
from benchmarks.shared.pool import claim, recipe_hash, run_all

if TYPE_CHECKING:
    from benchmarks.shared.scores import RunScores, Scores

ASSET = "assets/sprites-sd"  # the others only score


def train(run: Run, root: Path, size: Size) -> None:
    """Trains and draws, and notes with which commit; the folder appears when it is complete."""
    import torch

    from benchmarks.methods.draw_along import DrawAlong
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


def commit_of(folder: Path) -> str:
    """The commit that a run was made with, by the `provenance.json` that `train` writes."""
    return str(json.loads((folder / "provenance.json").read_text())["git_commit"])


@dataclass(frozen=True)
class Bench:
    """Where runs lie, how much of them there is, and how many are made at a time, in processes of one thread each."""

    root: Path
    size: Size
    workers: int

    def train_all(self, runs: Sequence[Run], what: str) -> None:
        """Trains what is missing."""
        left = [(run, self.root, self.size) for run in runs if not run.folder(self.root).exists()]
        run_all(train, left, workers=self.workers, what=what)

    def score(self, scores: "Scores", run: Run) -> "RunScores":
        """What the run's pictures show, a row a step."""
        folders = [run.folder(self.root) / f"{step}" for step in self.size.steps]
        return scores.of(folders, run.subject, self.size.pictures)

    def tried(self, scores: "Scores", runs: Sequence[Run]) -> dict[str, dict[str, list["RunScores"]]]:
        """Of every method and each of its settings, a run of every subject that is chosen on."""

        def of(method: str, settings: str) -> list["RunScores"]:
            return [self.score(scores, run) for run in runs if (run.method, run.settings) == (method, settings)]

        return {method: {name: of(method, name) for name in names} for method, names in SETTINGS.items()}

    def table(self, scores: "Scores", runs: Sequence[Run]) -> dict[str, list[list["RunScores"]]]:
        """Of every method, `[subjects][seeds]`."""

        def of(method: str, subject: str) -> list["RunScores"]:  # seed by seed
            return [self.score(scores, run) for run in runs if (run.method, run.subject) == (method, subject)]

        return {method: [of(method, subject) for subject in self.size.subjects] for method in METHODS}


def parse() -> tuple[Bench, Path]:
    """What was typed, checked, and the page to write; the folder of the runs is claimed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="default")
    parser.add_argument("--seeds", type=positive, help="fewer than the size has: the rest can be added later")
    parser.add_argument("--root", type=Path, help="folder of the runs, runs/benchmark_<size> if not given")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/methods.md")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes of one thread each")
    options = parser.parse_args()
    size = SIZES[options.size]
    if options.seeds and options.seeds > size.seeds:
        parser.error(f"--seeds {options.seeds}: --size {options.size} has {size.seeds}")
    if not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: there is no such folder")
    root = (options.root or ROOT / f"runs/benchmark_{options.size}").resolve()
    claim(root, made_with(size))
    return Bench(root, replace(size, seeds=options.seeds or size.seeds), options.workers), options.out


def made_with(size: Size) -> dict[str, Any]:
    """All that decides a run of this size."""
    told = {"seeds": None, "seconds": None}  # neither changes a run
    recipe = recipe_hash([[f"experiment={name}"] for name, _ in METHODS.values()], ASSET)
    return {"size": asdict(size) | told, "methods": [METHODS, SETTINGS], "recipe": recipe}


def announce(bench: Bench) -> None:
    """How long it will take."""
    count = len(trials(bench.size)) + len(with_chosen({}, bench.size))
    minutes = count * bench.size.seconds / bench.workers / 60
    print(
        f"{count} runs × {bench.size.seconds} s / {bench.workers} processes: about {minutes:.0f} minutes in all, less "
        f"what lies in {bench.root}"
    )


def shown(reported: Sequence[Run], size: Size) -> Mapping[str, Run]:
    """The run of each method that the grid of pictures shows: of the first subject and seed."""
    return {run.method: run for run in reported if (run.subject, run.seed) == (size.subjects[0], 0)}


def main() -> None:
    bench, out = parse()
    announce(bench)
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.perf_counter()
    chosen_on = trials(bench.size)
    bench.train_all(chosen_on, "choosing settings")

    from benchmarks.methods.settings import chosen_settings
    from benchmarks.methods.table import write
    from benchmarks.shared.scores import Scores

    scores = Scores(bench.size.prompts)
    tried = bench.tried(scores, chosen_on)
    reported = with_chosen({method: chosen_settings(each) for method, each in tried.items()}, bench.size)
    bench.train_all(reported, "training")
    write(
        out, bench.root, bench.size, scores, bench.table(scores, reported), shown(reported, bench.size), tried=tried,
        commits=sorted({commit_of(run.folder(bench.root)) for run in (*chosen_on, *reported)}),
        command=typed(__spec__.name),
    )  # fmt: skip
    minutes = (time.perf_counter() - began) / 60
    print(f"{minutes:.1f} minutes; the result lies in {out}, all pictures in {bench.root}")


if __name__ == "__main__":
    main()
