"""Predicted x0 along the denoising trajectory, tuned beside base model, from the same noise (a figure of APT's)."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from checks.values import at_least
from datamodules.subject import PromptPair
from evaluation.samples import evenly
from models.family import DiffusionFamily
from report.tile_grid import Tile, tile_grid
from sampling.guidance import Guidance
from sampling.sampler import sample, sample_guided


class Trajectory:
    """Draws the first prompts once more with both models, and what each believes the picture to be on the way.

    Each model follows its own trajectory, guided as its samples are; see `DiffusionFamily.record_trajectory`.

    Args:
        num_prompts: the first so many of the evaluated prompts.
        num_columns: steps that are shown, evenly apart, the first and the last among them.
    """

    def __init__(self, *, num_prompts: int, num_columns: int) -> None:
        for name, value, least in (("num_prompts", num_prompts, 1), ("num_columns", num_columns, 2)):
            at_least(f"evaluation.trajectory.{name}", value, least, what="and evaluation.trajectory=null draws none")
        self.num_prompts, self.num_columns = num_prompts, num_columns

    def __call__(
        self, model: DiffusionFamily, pairs: Sequence[PromptPair], guidance: Guidance, *, seed: int, folder: Path
    ) -> None:
        """Writes `folder/<prompt number>.png`.

        Args:
            model: with a run's adapter loaded into its pipeline.
            pairs: all evaluated prompts.
            guidance: of the tuned model.
            seed: of the noise that both start from.
            folder: made here.
        """
        folder.mkdir(parents=True)
        for number, pair in enumerate(pairs[: self.num_prompts]):
            with model.pretrained_pipeline(), model.record_trajectory() as base:
                sample(
                    model,
                    [pair.prior],
                    seeds=[seed],
                    guidance_scale=guidance.guidance_scale,
                    description="the base model's trajectory",
                )
            with model.record_trajectory() as tuned:
                sample_guided(model, [pair], guidance, seeds=[seed], description="the tuned model's trajectory")
            rows = {name: self._tiles(model, each.predicted) for name, each in (("base", base), ("tuned", tuned))}
            tile_grid(rows).save(folder / f"{number:02d}.png")

    def _tiles(self, model: DiffusionFamily, predicted: Sequence[tuple[int, Tensor]]) -> list[Tile]:
        shown = [predicted[step] for step in evenly(len(predicted), self.num_columns)]
        return [Tile(model.decode(latents)[0], f"t = {timestep}") for timestep, latents in shown]
