"""Identity and prompt adherence along the training: a few evaluation prompts drawn every so many steps."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch import Callback
from PIL import Image
from torch import Tensor

from checks.values import at_least
from datamodules.sprites.embedded_subject import EmbeddedSubject
from datamodules.subject import PromptPair, Subject
from evaluation.figures.identity import kept_paint, mean_identity
from evaluation.figures.similarity_curves import SimilarityCurves, curve_names
from evaluation.samples import evenly
from metrics.picture_metric import PictureMetric
from metrics.sprites.attribute_adherence import shares_right
from metrics.sprites.identity import Identity
from metrics.sprites.sprites_judge import SpritesJudge
from metrics.text_similarity import TextSimilarity
from report.training_strip import TILE, training_strip
from report.wandb_logger import log_picture
from sampling.sampler import sample_guided

_ROWS = 4  # prompts that the strip shows
_JUDGED = "heldout/attribute_adherence"
Listener = Callable[[L.Trainer, L.LightningModule, list[float]], None]


class SampleEvaluation(Callback):
    """Draws the same prompts from the same noise before training, every `every_n_steps` steps and at the end.

    Logs `heldout/attribute_adherence`, the mean over the pictures of the share right of what their prompts name, where
    the subject is one of the embedded world; `heldout/identity`, where it is an object of it; and the image and text
    similarities that the run's evaluation names, see `curve_names`. Writes `training.png`, a column a check, and shows
    it in W&B as it grows. Pictures are drawn by the module's own guidance, as those that the run is judged by.
    Figures stand in the row of the step that was last taken, as those of the held-out loss do. Process 0 draws, with
    generators of its own: no draw of the training changes.

    Args:
        every_n_steps: optimiser steps between two checks; 2 or more, for each check has a row of its own in the logs.
        num_prompts: of the subject's evaluation prompts, evenly from the first to the last; one picture each.
        num_inference_steps: denoising steps; fewer than in the final evaluation are enough to compare checks.
        seed: of the first prompt's noise, the others' follow; not the final evaluation's, so that its pictures are
            not those that a step was chosen by.
        dirpath: folder of `training.png`.
        judge, identity: see `evaluation.pictures.PictureEvaluation`.
        metrics: those of the evaluation, by their keys in `evaluation.metrics`.
    """

    draws_along: ClassVar[bool] = True
    """Whether a callback draws pictures along the training; read off the source by `checks`."""

    def __init__(
        self,
        *,
        every_n_steps: int,
        num_prompts: int,
        num_inference_steps: int,
        seed: int,
        dirpath: str,
        judge: str | None,
        identity: str | None,
        metrics: Mapping[str, PictureMetric],
    ) -> None:
        least = {"every_n_steps": (every_n_steps, 2), "num_prompts": (num_prompts, 1)}
        for name, (value, minimum) in (least | {"num_inference_steps": (num_inference_steps, 1)}).items():
            at_least(f"callbacks.sample_evaluation.{name}", value, minimum)
        self.every_n_steps, self.num_prompts = every_n_steps, num_prompts
        self.num_inference_steps, self.seed, self.dirpath = num_inference_steps, seed, Path(dirpath)
        self.judge, self.identity, self.metrics = judge, identity, dict(metrics)
        self.listeners: list[Listener] = []
        """Called after every check, in every process, with each picture's adherence; not where nothing tells it."""
        self.adherence_figure: str | None = None
        """What the listeners are told, by its name in the logs: the judge's figure, or else a text similarity."""
        self._judge: SpritesJudge | None = None
        self._identity: Identity | None = None
        self._steps: list[int] = []
        self._strip: list[Tensor] = []  # uint8 [rows, H, W, 3] a check: pictures no larger than the strip shows them

    def setup(self, trainer: L.Trainer, pl_module: Any, stage: str) -> None:
        subject: Subject = trainer.datamodule.subject  # type: ignore[attr-defined]
        prompts = subject.evaluation_prompts
        self.pairs: list[PromptPair] = [prompts[i] for i in evenly(len(prompts), self.num_prompts)]
        self._heldout = subject.heldout
        similarities = curve_names(self.metrics, subject)
        read = (name for name, each in similarities.items() if isinstance(each, TextSimilarity))
        is_embedded = isinstance(subject, EmbeddedSubject)
        self.adherence_figure = _JUDGED if is_embedded and self.judge else next(read, None)
        if trainer.is_global_zero:
            with torch.random.fork_rng(devices=[]):  # networks draw their first weights before they read the real ones
                if is_embedded and self.judge:
                    self._judge = SpritesJudge.from_pretrained(Path(self.judge).expanduser())
                if isinstance(subject, EmbeddedSubject) and subject.is_object and self.identity:
                    self._identity = Identity.from_pretrained(Path(self.identity).expanduser())
                self._similarities = SimilarityCurves(
                    similarities,
                    subject,
                    [pair.prior for pair in self.pairs],
                    batch_size=pl_module.model.inference_batch_size,
                )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step == 0:
            self._check(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        step = trainer.global_step
        is_due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if is_due and step > 0 and step not in self._steps:  # with accumulated gradients a step takes several batches
            self._check(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step not in self._steps:  # it ended otherwise, by max_time or max_epochs
            self._check(trainer, pl_module)

    def _check(self, trainer: L.Trainer, pl_module: Any) -> None:
        adherence: list[float] = []
        self._steps.append(trainer.global_step)
        if trainer.is_global_zero:
            pictures = self._draw(pl_module)
            arrays = [np.asarray(picture) for picture in pictures]
            of_each = self._similarities(pictures)
            if self._judge:
                prompts = [pair.prior for pair in self.pairs]
                of_each[_JUDGED] = shares_right(self._judge, arrays, prompts)
            if self.adherence_figure:
                adherence = of_each[self.adherence_figure]
            figures = {name: float(np.mean(values)) for name, values in of_each.items()}
            if self._identity and self._heldout and (kept := kept_paint(self.pairs)):
                figures["heldout/identity"] = mean_identity(self._identity, [arrays[i] for i in kept], self._heldout)
            strip, step = self._extend_strip(pictures), max(trainer.global_step - 1, 0)
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=step)
                log_picture(logger, "training", strip, step=step)
        adherence = trainer.strategy.broadcast(adherence)
        for listener in self.listeners if adherence else []:
            listener(trainer, pl_module, adherence)

    def _draw(self, pl_module: Any) -> list[Image.Image]:
        model = pl_module.model
        model.move_encoders(pl_module.device)
        try:
            pictures, _ = sample_guided(
                model,
                self.pairs,
                pl_module.guidance,
                seeds=[self.seed + number for number in range(len(self.pairs))],
                num_inference_steps=self.num_inference_steps,
                description=None,
            )
            return pictures
        finally:
            pl_module.release_encoders()

    def _extend_strip(self, pictures: Sequence[Image.Image]) -> Image.Image:
        shown = [pictures[i].copy() for i in evenly(len(pictures), _ROWS)]
        for picture in shown:
            picture.thumbnail((TILE, TILE))
        self._strip.append(torch.stack([torch.from_numpy(np.array(picture)) for picture in shown]))
        self.dirpath.mkdir(parents=True, exist_ok=True)
        columns = [[Image.fromarray(tile.numpy()) for tile in column] for column in self._strip]
        prompts = [self.pairs[i].instance for i in evenly(len(self.pairs), _ROWS)]
        strip = training_strip(prompts, self._steps, columns)
        strip.save(self.dirpath / "training.png")
        return strip

    @property
    def _drawn(self) -> dict[str, Any]:
        names = ("num_prompts", "num_inference_steps", "seed", "adherence_figure")
        return {name: getattr(self, name) for name in names}

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self._drawn, "steps": self._steps, "strip": self._strip}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises:
        ValueError: the checkpoint's pictures were drawn otherwise, so that later ones would not compare with them.
        """
        for name, value in state_dict["drawn"].items():
            if value != getattr(self, name):
                raise ValueError(
                    f"callbacks.sample_evaluation.{name} is {getattr(self, name)}, and {value} in the checkpoint: "
                    "resume it under its own settings"
                )
        self._steps, self._strip = list(state_dict["steps"]), list(state_dict["strip"])
