"""What a finished run is judged by: base and tuned model under the same prompts, from the same noise, and a report."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from checks.folders import pipeline_weights
from datamodules.subject import Picture, PromptPair, Subject
from datamodules.subject_datamodule import SubjectDataModule, square_tensor
from evaluation.drawings.guidance_grid import GuidanceGrid
from evaluation.drawings.token_attention import TokenAttention
from evaluation.drawings.trajectory import Trajectory
from evaluation.figures.attributes import attribute_figures
from evaluation.figures.background import background_figure
from evaluation.figures.diffusion_similarity import DiffusionSimilarity
from evaluation.figures.identity import identity_figure
from evaluation.figures.pictures import check_metrics, picture_figures
from evaluation.figures.relative_loss import relative_loss_figure
from evaluation.samples import write_metrics
from metrics.checkpoint_hash import checkpoint_hash
from metrics.embeddings import Embeddings
from metrics.picture_metric import Drawn, PictureMetric
from models.adapters import Adapter
from models.families.sd import StableDiffusion
from report.diagnostic_grids import TOKEN_ATTENTION, TRAJECTORY
from report.grid import picture_grid
from report.guidance import save_diagnostics
from report.page import write_report
from sampling.guidance import Guidance
from sampling.sampler import sample, sample_guided

Pictures = Sequence[Image.Image]


class Evaluation:
    """Draws the evaluation prompts with both models; writes `samples/`, `references/`, `metrics.json`, `report.html`.

    What each figure of `metrics.json` says of itself is in `evaluation.figures.figure`.

    The base model is given the class word alone, since it cannot know the identifier; without one, the same prompts.

    Args:
        images_per_prompt: pictures a prompt, from the seeds `seed`, `seed + 1`, …, the same for every prompt and model.
        max_prompts: the first so many of the subject's prompts.
        seed: of the first picture.
        guidance: of the tuned model's pictures; the base model's have classifier-free guidance.
        guidance_grid: draws a prompt over the scales of a consistency guidance; None draws none.
        trajectory: draws predicted x0 along the denoising, or None.
        token_attention: draws the cross-attention to every token of the first prompt, or None.
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
        metrics: Mapping[str, PictureMetric],
    ) -> None:
        for name, value in (("images_per_prompt", images_per_prompt), ("max_prompts", max_prompts)):
            if value < 1:
                raise ValueError(f"evaluation.{name}={value}: at least one picture is needed to judge a run")
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

    def check(self, model: Any, subject: Subject) -> None:
        """Whether this evaluation can judge `model` on `subject`, asked before training; may download metrics' weights.

        Raises:
            ValueError: the model draws no pictures, or has no such cross-attention; a metric cannot be had; or see
                `GuidanceGrid.check`.
            FileNotFoundError: a metric's weights are missing.
        """
        if not isinstance(model, StableDiffusion):
            raise ValueError(f"evaluation=default judges drawn pictures, and a {type(model).__name__} draws none")
        if self.token_attention:
            self.token_attention.check(model)
        if self.guidance_grid:
            self.guidance_grid.check(len(subject.evaluation_prompts))
        self._check_class_prompt(subject)
        num_prompts = min(self.max_prompts, len(subject.evaluation_prompts))
        check_metrics(self.metrics, num_prompts=num_prompts, images_per_prompt=self.images_per_prompt)

    def _check_class_prompt(self, subject: Subject) -> None:
        trained = {picture.prompts.instance for picture in subject.train}
        for key, metric in self.metrics.items():
            if metric.num_class_pictures and (not subject.class_prompt or subject.class_prompt in trained):
                raise ValueError(
                    f"evaluation.metrics.{key} draws the bare class, and the class prompt {subject.class_prompt!r} is "
                    "empty or one that is trained: it is for subjects with an identifier beside a class word"
                )

    def __call__(
        self,
        model: StableDiffusion,
        adapter: Adapter,
        datamodule: SubjectDataModule,
        *,
        run_dir: Path,
        out_dir: Path,
        info: dict[str, Any],
    ) -> Path:
        """Judges the run in `run_dir` and writes to `out_dir`, which may be the same folder.

        Args:
            model: the pretrained pipeline, untouched: the tuned weights are loaded into it half-way.
            info: goes into `metrics.json`: `steps` that the weights were trained for, the training's `seed`,
                experiment, `seconds` so far.

        Returns:
            The report's path.
        """
        started = perf_counter()
        subject = datamodule.subject
        self.check(model, subject)
        save_references(subject, out_dir / "references", model.resolution)
        pairs = subject.evaluation_prompts[: self.max_prompts]
        base = self._draw(model, [pair.prior for pair in pairs], "the base model draws")
        base_class_pictures = self._draw_class(model, subject, is_tuned=False)
        similarity = DiffusionSimilarity(model, subject)
        figures = {"base": similarity(base)}
        adapter.load(model, run_dir)
        tuned, diagnostics = self._draw_guided(model, pairs)
        tuned_class_pictures = self._draw_class(model, subject, is_tuned=True)
        # The features are the pretrained model's: the adapter is off while they are taken.
        figures["tuned"] = similarity(tuned)
        figures["reference"] = similarity.of_training_pictures

        repeated = [pair for pair in pairs for _ in range(self.images_per_prompt)]
        prompts = [pair.prior for pair in repeated]
        weights = pipeline_weights(model.pretrained)
        checkpoint = {part: checkpoint_hash(file) if file else None for part, file in weights.items()}
        metrics = {
            **background_figure(subject, tuned=_arrays(tuned), base=_arrays(base), prompts=prompts),
            **identity_figure(subject, tuned=_arrays(tuned), base=_arrays(base), prompts=repeated),
            **attribute_figures(subject, tuned=_arrays(tuned), base=_arrays(base), prompts=prompts),
            **picture_figures(
                self.metrics,
                subject,
                Embeddings(device=model.pipeline.device, batch_size=model.inference_batch_size),
                tuned=Drawn(pictures=tuned, prompts=prompts, class_pictures=tuned_class_pictures),
                base=Drawn(pictures=base, prompts=prompts, class_pictures=base_class_pictures),
            ),
            "similarity/diffusion_features": figures | similarity.describe(checkpoint, num_drawn=len(tuned)),
            **relative_loss_figure(model, subject, out_dir / "metrics.csv", checkpoint=checkpoint, info=info),
        }
        drawn = {"prompts": f"the subject's first {len(pairs)}, {_whose(subject)}", "seed": self.seed}
        metrics = {name: drawn | figure for name, figure in metrics.items()}
        self._save_samples(out_dir / "samples", pairs, base, tuned)
        save_diagnostics(diagnostics, [pair.instance for pair in pairs], out_dir / "samples")
        self._draw_diagnostics(model, pairs, base[0], tuned[0], out_dir / "samples")
        if self.guidance_grid:
            self.guidance_grid(model, subject.evaluation_prompts, self.guidance, out_dir / "samples", seed=self.seed)
        columns = slice(0, 8 * self.images_per_prompt, self.images_per_prompt)
        references = [picture.image for picture in subject.train]
        grid = picture_grid([pair.instance for pair in pairs[:8]], references, base[columns], tuned[columns])
        grid.save(out_dir / "samples" / "grid.png")
        settings = {name: getattr(self, name) for name in ("images_per_prompt", "max_prompts", "seed")}
        settings |= {"guidance": {"name": type(self.guidance).__name__, **self.guidance.settings}}
        drawings = {name: getattr(self, name) for name in (TRAJECTORY, TOKEN_ATTENTION, "guidance_grid")}
        settings |= {name: node and vars(node) for name, node in drawings.items()}
        record = info | {"subject": subject.name, "evaluation": settings, "metrics": metrics}
        write_metrics(out_dir, record, started=started)
        return write_report(out_dir, force=False)

    def _draw_diagnostics(
        self, model: StableDiffusion, pairs: Sequence[PromptPair], base: Image.Image, tuned: Image.Image, folder: Path
    ) -> None:
        """What both models do on the way to a picture, as grids in `folder`; `base`, `tuned`: of the first prompt."""
        if self.trajectory:
            self.trajectory(model, pairs, self.guidance, seed=self.seed, folder=folder / TRAJECTORY)
        if self.token_attention:
            try:
                model.tokenize([pairs[0].prior, pairs[0].instance])
            except ValueError as error:  # the pipeline cuts a long prompt off, which would mislabel the tokens
                warnings.warn(f"no picture of the attention to each token: {error}", stacklevel=2)
                return
            path = folder / TOKEN_ATTENTION / "00.png"
            self.token_attention(model, pairs[0], base, tuned, seed=self.seed, path=path)

    def _seeds(self, num_prompts: int) -> list[int]:
        return [self.seed + copy for _ in range(num_prompts) for copy in range(self.images_per_prompt)]

    def _draw_guided(self, model: StableDiffusion, pairs: Sequence[PromptPair]) -> tuple[list[Image.Image], Any]:
        repeated = [pair for pair in pairs for _ in range(self.images_per_prompt)]
        seeds = self._seeds(len(pairs))
        return sample_guided(model, repeated, self.guidance, seeds=seeds, description="the tuned model draws")

    def _draw(self, model: StableDiffusion, prompts: list[str], description: str) -> list[Image.Image]:
        repeated = [prompt for prompt in prompts for _ in range(self.images_per_prompt)]
        return _draw(model, repeated, self._seeds(len(prompts)), description)

    def _draw_class(self, model: StableDiffusion, subject: Subject, *, is_tuned: bool) -> list[Image.Image]:
        """Pictures of the bare class prompt, as many as the metrics ask for."""
        count = max((metric.num_class_pictures for metric in self.metrics.values()), default=0)
        prompt, seeds = subject.class_prompt, [self.seed + copy for copy in range(count)]
        if count and is_tuned:
            pairs = [PromptPair(instance=prompt, prior=prompt)] * count
            return sample_guided(model, pairs, self.guidance, seeds=seeds, description="the tuned model's class")[0]
        return _draw(model, [prompt] * count, seeds, "the base model's class")

    def _save_samples(self, folder: Path, pairs: Sequence[Any], base: Pictures, tuned: Pictures) -> None:
        entries = []
        for number, pair in enumerate(pairs):
            entry: dict[str, Any] = {"prompt": pair.instance, "prior_prompt": pair.prior, "base": [], "tuned": []}
            for kind, pictures in (("base", base), ("tuned", tuned)):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                for copy in range(self.images_per_prompt):
                    path = f"{kind}/{number:02d}-{copy}.png"
                    pictures[number * self.images_per_prompt + copy].save(folder / path)
                    entry[kind].append(path)
            entries.append(entry)
        (folder / "samples.json").write_text(json.dumps(entries, indent=2))


def _draw(model: StableDiffusion, prompts: list[str], seeds: list[int], description: str) -> list[Image.Image]:
    return sample(
        model.pipeline,
        prompts,
        seeds=seeds,
        guidance_scale=model.guidance_scale,
        num_inference_steps=model.num_inference_steps,
        batch_size=model.inference_batch_size,
        resolution=model.resolution,
        description=description,
    )


def save_references(subject: Subject, folder: Path, resolution: int) -> None:
    """Training pictures into `folder`, held-out ones into `folder/heldout`, as the model sees them."""
    groups: tuple[tuple[Path, tuple[Picture, ...]], ...] = (
        (folder, subject.train),
        (folder / "heldout", subject.heldout),
    )
    for target, pictures in groups:
        target.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            pixels = square_tensor(picture.image, resolution).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(target / f"{number:02d}.png")


def _whose(subject: Subject) -> str:
    if subject.identifier is None:
        return "the same for the tuned and the base model"
    return f"with {subject.identifier} (tuned) or the class word (base)"


def _arrays(pictures: Pictures) -> list[Any]:
    return [np.asarray(picture) for picture in pictures]
