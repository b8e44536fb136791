"""Guidance side by side: `python -m benchmarks.guidance.run` writes `docs/benchmarks/guidance.md`.

Trains DreamBooth, APT and DCO on each subject, draws the evaluation prompts under every guidance from the same noise,
and scores identity and prompt adherence (`metrics/sprites/`). Nothing that lies in the folder is done again, so the
command goes on where it was interrupted.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.methods.plan import DEFAULT
from benchmarks.shared.command import ROOT, positive, typed
from benchmarks.shared.pool import claim, recipe_hash, run_all

# What benchmarks.methods reports: pictures of each prompt of each subject.
SUBJECTS, PROMPTS, PICTURES = DEFAULT.subjects, DEFAULT.prompts, DEFAULT.pictures
DENOISING_STEPS = DEFAULT.denoising_steps
GUIDANCE_SCALES = (None, 1.5, 2.5, 5.5, 7.5)  # of CFG; None is the model's own, as of everything else
EXPERIMENTS = ("dreambooth", "apt_dreambooth", "dco_dreambooth")
CONSISTENCY_SCALES = (1.0, 2.0, 3.0, 5.0, 7.5)
MINUTES_PER_SUBJECT = 16  # of one core of the machine that docs/benchmarks/guidance.md was made on


@dataclass(frozen=True)
class Variant:
    """One experiment's adapter under one guidance; `label` names its line in the picture."""

    experiment: str
    label: str
    guidance: tuple[str, ...]
    consistency_scale: float | None = None
    guidance_scale: float | None = None

    @property
    def name(self) -> str:
        scale = "" if self.consistency_scale is None else f" w_con={self.consistency_scale:g}"
        return f"{self.label}{scale}" + ("" if self.guidance_scale is None else f" w={self.guidance_scale:g}")

    def overrides(self) -> list[str]:
        scale = [] if self.consistency_scale is None else [f"guidance.consistency_scale={self.consistency_scale}"]
        return [*self.guidance, *scale]


def variants() -> list[Variant]:
    """CFG of every method at several scales, then DCO under every kind of consistency guidance at every scale."""

    def rescaled(rule: str, *settings: str) -> tuple[str, ...]:
        # Every setting is given, for the defaults follow from this benchmark.
        return ("guidance=parallel_rescaled", f"guidance.rule={rule}", *settings)

    kinds = {
        "DCO + consistency": ("guidance=consistency",),
        **{f"DCO + rescaled, s={s:g}": rescaled("constant", f"guidance.scale={s}") for s in (0.0, 0.25, 0.5)},
        "DCO + rescaled, cfg_clamp κ=0.2": rescaled("cfg_clamp", "guidance.kappa=0.2"),
        "DCO + rescaled, negative_only s=0": rescaled("negative_only", "guidance.scale=0.0"),
    }
    plain = [
        Variant(experiment, f"{name} + CFG", ("guidance=cfg",), guidance_scale=scale)
        for scale in GUIDANCE_SCALES
        for name, experiment in (("DreamBooth", "dreambooth"), ("APT", "apt_dreambooth"), ("DCO", "dco_dreambooth"))
    ]
    return plain + [
        Variant("dco_dreambooth", label, guidance, scale)
        for label, guidance in kinds.items()
        for scale in CONSISTENCY_SCALES
    ]


def train(folder: Path, subject: str, experiment: str) -> Path:
    """The finished run's folder."""
    run_dir, unfinished = folder / subject / experiment, folder / subject / f".{experiment}"
    if not run_dir.exists():
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [
            sys.executable, "run.py", f"experiment={experiment}", f"data.subject={subject}", "logger=csv",
            "evaluation.max_prompts=1", "evaluation.images_per_prompt=1", f"hydra.run.dir='{unfinished}'",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-2000:]}")
        unfinished.replace(run_dir)
    return run_dir


def draw(folder: Path, subject: str) -> None:
    """Every variant's pictures of one subject, `<folder>/<subject>/<variant>/<prompt>-<copy>.png`."""
    import torch
    from hydra.utils import instantiate

    from benchmarks.shared.lanes import compose_run
    from sampling.sampler import sample, sample_guided

    torch.set_num_threads(1)
    os.chdir(ROOT)
    cfg = compose_run(["logger=csv", f"data.subject={subject}", f"model.num_inference_steps={DENOISING_STEPS}"])
    pairs = [pair for pair in instantiate(cfg.data).evaluation_prompts[:PROMPTS] for _ in range(PICTURES)]
    seeds = list(range(PICTURES)) * PROMPTS

    def save(pictures: list[Any], name: str) -> None:
        unfinished = folder / subject / f".{name}"
        unfinished.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            prompt, copy = divmod(number, PICTURES)
            picture.save(unfinished / f"{prompt:02d}-{copy}.png")
        unfinished.replace(folder / subject / name)

    if not (folder / subject / "base").exists():
        model = instantiate(cfg.model)
        prompts = [pair.prior for pair in pairs]
        drawn = sample(model, prompts, seeds=seeds, guidance_scale=model.guidance_scale, description=None)
        save(drawn, "base")
    for experiment in EXPERIMENTS:
        todo = [v for v in variants() if v.experiment == experiment and not (folder / subject / v.name).exists()]
        if not todo:
            continue
        run_dir = train(folder, subject, experiment)
        model = instantiate(cfg.model)
        instantiate(cfg.adapter).load(model, run_dir)
        for variant in todo:
            guidance = instantiate(compose_run([*variant.overrides(), "logger=csv"]).guidance)
            guidance.guidance_scale = variant.guidance_scale or cfg.model.guidance_scale
            save(sample_guided(model, pairs, guidance, seeds=seeds, description=None)[0], variant.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "runs/benchmark_guidance", help="folder of the pictures")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/guidance.md")
    parser.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes of one thread each")
    args = parser.parse_args()
    root = args.root.resolve()
    recipes = [[f"experiment={name}"] for name in EXPERIMENTS]
    drawn = {variant.name: [variant.experiment, *variant.overrides()] for variant in variants()}
    protocol = [SUBJECTS, PROMPTS, PICTURES, DENOISING_STEPS, drawn]
    claim(root, {"protocol": protocol, "recipe": recipe_hash(recipes, "assets/sprites-sd")})
    left = [s for s in SUBJECTS if any(not (root / s / v.name).exists() for v in variants())]
    minutes = -(-len(left) // args.workers) * MINUTES_PER_SUBJECT
    print(
        f"{len(left)} subjects × {MINUTES_PER_SUBJECT} min / {args.workers} processes: about {minutes} minutes in all"
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    began = time.perf_counter()
    run_all(draw, [(root, subject) for subject in left], workers=args.workers, what="drawing")

    from benchmarks.guidance.table import write
    from benchmarks.shared.scores import Scores

    scores = Scores(PROMPTS)
    write(root, args.out, variants(), SUBJECTS, scores, copies=PICTURES, command=typed(__spec__.name))
    print(
        f"{(time.perf_counter() - began) / 60:.1f} minutes; the result lies in {args.out}, all pictures in {args.root}"
    )


if __name__ == "__main__":
    main()
