"""Pictures along a benchmark's run: what its curves of identity and adherence are read off."""

import os
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from benchmarks.methods.plan import Size


class DrawAlong(L.Callback):
    """Draws the same prompts from the same noise at some of the steps, into `<folder>/<step>/<prompt>-<copy>.png`.

    Args:
        folder: of the run.
        untouched: of what the untouched model draws, which is the same for all runs of a subject.
        size: at which steps, and how much.
    """

    def __init__(self, folder: Path, untouched: Path, size: Size) -> None:
        self.folder, self.untouched, self.size = folder, untouched, size

    def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
        if 0 not in self.size.steps:
            return
        if not self.untouched.is_dir():
            mine = self.untouched.with_name(f"{self.untouched.name}-{os.getpid()}")  # others may be at it as well
            shutil.rmtree(mine, ignore_errors=True)
            self._draw(module, mine)
            try:
                mine.rename(self.untouched)
            except OSError:  # another run was first
                shutil.rmtree(mine)
        shutil.copytree(self.untouched, self.folder / "0")

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *args: Any) -> None:
        if trainer.global_step in self.size.steps:
            self._draw(module, self.folder / f"{trainer.global_step}")

    def _draw(self, module: Any, folder: Path) -> None:
        from sampling.guidance import ClassifierFreeGuidance
        from sampling.sampler import sample_guided

        guidance = ClassifierFreeGuidance(guidance_scale=module.model.guidance_scale)
        pairs = module.trainer.datamodule.subject.evaluation_prompts[: self.size.prompts]
        repeated = [pair for pair in pairs for _ in range(self.size.pictures)]
        seeds = [copy for _ in pairs for copy in range(self.size.pictures)]
        pictures, _ = sample_guided(module.model, repeated, guidance, seeds=seeds, description=None)
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures):
            prompt, copy = divmod(number, self.size.pictures)
            picture.save(folder / f"{prompt:02d}-{copy}.png")
