"""What a finished run is judged by: base and tuned model under the same prompts, from the same noise, and a report."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from checks.values import at_least
from datamodules.subject import PromptPair, Subject
from evaluation.drawings.guidance_grid import GuidanceGrid
from evaluation.drawings.token_attention import TokenAttention
from evaluation.drawings.trajectory import Trajectory
from evaluation.evaluation import Evaluation, FinishedRun
from evaluation.figures.every import every_figure
from evaluation.figures.figure import Compared
from evaluation.figures.pictures import check_metrics
from evaluation.samples import save_compared, save_references
from metrics.picture_metric import Drawn, PictureMetric
from models.family import DiffusionFamily
from report.diagnostic_grids import TOKEN_ATTENTION, TRAJECTORY
from sampling.guidance import Guidance
from sampling.sampler import sample, sample_guided


class PictureEvaluation(Evaluation):
    """Draws the evaluation prompts with both models; writes `samples/`, `references/`, `metrics.json`, `report.html`.

    What each figure of `metrics.json` says of itself is in `evaluation.figures.figure.Figure`.

    The base model is given the class word alone, since it cannot know the identifier; without one, the same prompts.

    Args:
        images_per_prompt: pictures a prompt, from the seeds `seed`, `seed + 1`, …, the same for every prompt and model.
        max_prompts: the first so many of the subject's prompts.
        seed: of the first picture.
        guidance: of the tuned model's pictures; the base model's have classifier-free guidance.
        guidance_grid: draws a prompt over the scales of a consistency guidance; None draws none.
        trajectory: draws predicted x0 along the denoising, or None.
        token_attention: draws the cross-attention to every token of the first prompt, or None.
        judge: folder of the `SpritesJudge` that reads what is drawn of an `EmbeddedSubject`, or None; other pictures
            are none of its world's, and it is not asked.
        identity: folder of the `Identity` that compares what is drawn of such a subject with its held-out pictures.
        metrics: further figures of the pictures, by their keys in `evaluation.metrics`.
    """

    def __init__(
        self,
        *,
        images_per_prompt: int,
        max_prompts: int,
        seed: int,
        guidance: Guidance,
        guidance_grid: GuidanceGrid | None,
        trajectory: Trajectory | None,
        token_attention: TokenAttention | None,
        judge: str | None,
        identity: str | None,
        metrics: Mapping[str, PictureMetric],
    ) -> None:
        for name, value in (("images_per_prompt", images_per_prompt), ("max_prompts", max_prompts)):
            at_least(f"evaluation.{name}", value, 1, what="to judge a run")
        self.images_per_prompt, self.max_prompts, self.seed = images_per_prompt, max_prompts, seed
        if guidance is None:
            raise ValueError(
                "evaluation=default judges what is drawn, and guidance is null: guidance=cfg is classifier-free"
            )
        self.guidance, self.trajectory, self.token_attention = guidance, trajectory, token_attention
        self.guidance_grid = guidance_grid if guidance_grid and guidance_grid.draws(guidance) else None
        if metrics is None:
            raise ValueError("evaluation.metrics=null: evaluation/metrics=[] has none")
        self.metrics = dict(metrics)
        self._every_figure = every_figure(judge=judge or None, identity=identity or None, metrics=self.metrics)

    def check(self, model: Any, data: Subject) -> None:
        """Whether this evaluation can judge `model` on `data`, asked before training; may download metrics' weights.

        Raises:
            ValueError: the model draws no pictures, or has no such cross-attention; a metric cannot be had; or see
                `GuidanceGrid.check`.
            FileNotFoundError: a metric's weights are missing.
        """
        if not hasattr(model, "draw"):
            raise ValueError(f"evaluation=default judges drawn pictures, and a {type(model).__name__} draws none")
        if self.token_attention:
            self.token_attention.check(model)
        if self.guidance_grid:
            self.guidance_grid.check(len(data.evaluation_prompts))
        self._check_class_prompt(data)
        num_prompts = min(self.max_prompts, len(data.evaluation_prompts))
        check_metrics(self.metrics, num_prompts=num_prompts, images_per_prompt=self.images_per_prompt)

    def _check_class_prompt(self, subject: Subject) -> None:
        trained = {picture.prompts.instance for picture in subject.train}
        for key, metric in self.metrics.items():
            if metric.num_class_pictures and (not subject.class_prompt or subject.class_prompt in trained):
                raise ValueError(
                    f"evaluation.metrics.{key} draws the bare class, and the class prompt {subject.class_prompt!r} is "
                    "empty or one that is trained: it is for subjects with an identifier beside a class word"
                )

    def evaluate(self, run: FinishedRun) -> dict[str, Any]:
        """Draws, judges and shows both models' pictures, in `run.out_dir`; see `Evaluation.evaluate`."""
        model, subject = run.model, run.datamodule.subject
        self.check(model, subject)
        save_references(subject, run.out_dir / "references", model.resolution)
        compared, diagnostics = self._draw_both(run)
        metrics = self._figures(compared)
        folder, base, tuned = run.out_dir / "samples", compared.base.pictures, compared.tuned.pictures
        pairs = subject.evaluation_prompts[: self.max_prompts]
        save_compared(folder, pairs, subject, base=base, tuned=tuned, diagnostics=diagnostics)
        self._drawings(model, subject, base[0], tuned[0], folder)
        return {"subject": subject.name, "evaluation": self._settings, "metrics": metrics}

    def _draw_both(self, run: FinishedRun) -> tuple[Compared, Any]:
        """What both models draw, the tuned one behind the base model, with the diagnostics of its guidance."""
        model, subject = run.model, run.datamodule.subject
        pairs = [pair for pair in subject.evaluation_prompts[: self.max_prompts] for _ in range(self.images_per_prompt)]
        seeds = [self.seed + number % self.images_per_prompt for number in range(len(pairs))]
        class_pairs = self._class_pairs(subject)
        class_seeds = [self.seed + copy for copy in range(len(class_pairs))]
        base = Drawn(
            pictures=self._draw(model, pairs, seeds, "the base model draws"),
            prompts=[pair.prior for pair in pairs],
            class_pictures=self._draw(model, class_pairs, class_seeds, "the base model's class"),
        )
        run.adapter.load(model, run.run_dir)
        pictures, diagnostics = self._draw_guided(model, pairs, seeds, "the tuned model draws")
        class_pictures, _ = self._draw_guided(model, class_pairs, class_seeds, "the tuned model's class")
        compared = Compared(
            model=model,
            subject=subject,
            pairs=pairs,
            tuned=replace(base, pictures=pictures, class_pictures=class_pictures),
            base=base,
            metrics_csv=run.out_dir / "metrics.csv",
            steps=run.info["steps"],
            seed=run.info["seed"],
        )
        return compared, diagnostics

    def _class_pairs(self, subject: Subject) -> list[PromptPair]:
        """The bare class prompt, as often as the metrics ask for pictures of it."""
        count = max((metric.num_class_pictures for metric in self.metrics.values()), default=0)
        return [PromptPair(instance=subject.class_prompt, prior=subject.class_prompt)] * count

    def _draw(
        self, model: DiffusionFamily, pairs: Sequence[PromptPair], seeds: list[int], text: str
    ) -> list[Image.Image]:
        prompts = [pair.prior for pair in pairs]
        return sample(model, prompts, seeds=seeds, guidance_scale=self.guidance.guidance_scale, description=text)

    def _draw_guided(
        self, model: DiffusionFamily, pairs: Sequence[PromptPair], seeds: list[int], text: str
    ) -> tuple[list[Image.Image], Any]:
        return sample_guided(model, pairs, self.guidance, seeds=seeds, description=text) if pairs else ([], None)

    def _figures(self, compared: Compared) -> dict[str, dict[str, Any]]:
        """For `metrics.json`, by name."""
        count = len(compared.pairs) // self.images_per_prompt
        prompts = f"the subject's first {count}, {_whose(compared.subject)}"
        return {
            name: figure.record(prompts=prompts, seed=self.seed)
            for figures in self._every_figure
            for name, figure in figures(compared).items()
        }

    def _drawings(
        self, model: DiffusionFamily, subject: Subject, base: Image.Image, tuned: Image.Image, folder: Path
    ) -> None:
        """What both models do on the way to a picture, as grids in `folder`; `base`, `tuned`: of the first prompt."""
        pairs = subject.evaluation_prompts[: self.max_prompts]
        if self.trajectory:
            self.trajectory(model, pairs, self.guidance, seed=self.seed, folder=folder / TRAJECTORY)
        if self.token_attention and _fits(model, pairs[0]):
            path = folder / TOKEN_ATTENTION / "00.png"
            self.token_attention(model, pairs[0], base, tuned, seed=self.seed, path=path)
        if self.guidance_grid:
            self.guidance_grid(model, subject.evaluation_prompts, self.guidance, folder, seed=self.seed)

    @property
    def _settings(self) -> dict[str, Any]:
        """For `metrics.json`."""
        settings = {name: getattr(self, name) for name in ("images_per_prompt", "max_prompts", "seed")}
        settings |= {"guidance": {"name": type(self.guidance).__name__, **self.guidance.settings}}
        drawings = {name: getattr(self, name) for name in (TRAJECTORY, TOKEN_ATTENTION, "guidance_grid")}
        return settings | {name: node and vars(node) for name, node in drawings.items()}


def _fits(model: DiffusionFamily, pair: PromptPair) -> bool:
    """Whether no part of a prompt is cut off, which would mislabel the tokens; tells of it otherwise."""
    try:
        model.tokenize([pair.prior, pair.instance])
    except ValueError as error:
        warnings.warn(f"no picture of the attention to each token: {error}", stacklevel=2)
        return False
    return True


def _whose(subject: Subject) -> str:
    if subject.identifier is None:
        return "the same for the tuned and the base model"
    return f"with {subject.identifier} (tuned) or the class word (base)"
