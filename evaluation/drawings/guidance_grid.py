"""One prompt from one noise under many guidances: what `w_con` and `s` do to a run's pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks.values import at_least, finite, share
from datamodules.subject import PromptPair
from models.family import DiffusionFamily
from report.guidance_grid import save_guidance_grid
from sampling.guidance import ConsistencyGuidance, Guidance, ParallelRescaledGuidance
from sampling.sampler import sample_guided


@dataclass(frozen=True, slots=True)
class Cells:
    """Guidances by row and column with the labels of both, and the place (row, column) of the run's own guidance."""

    rows: list[str]
    columns: list[str]
    guidances: list[list[ParallelRescaledGuidance]]
    own: tuple[int, int]


def guidance_cells(
    guidance: ConsistencyGuidance, *, consistency_scales: Sequence[float], scales: Sequence[float]
) -> Cells:
    """Rows by `w_con`, columns by the constant `s` that rescales the part parallel to CFG (1: plain consistency).

    The guidance's own values are put among the others, in their order. A rule other than "constant" has no one `s`, so
    it is a column of its own, the last. All else (`start`, `stop`) is as in `guidance`.

    Args:
        guidance: the run's own.
        consistency_scales: `w_con`.
        scales: `s`, in [0, 1].
    """
    plain = {"rule": "constant", "scale": 1.0, "kappa": 0.0}
    own: dict[str, Any] = plain | guidance.settings
    is_constant = own["rule"] == "constant"
    weights = sorted({*consistency_scales, own["consistency_scale"]})
    constants = sorted({*scales, own["scale"]} if is_constant else {*scales})
    columns: dict[str, dict[str, Any]] = {f"s={s:g}": {"rule": "constant", "scale": s} for s in constants}
    if not is_constant:
        setting = "kappa={kappa:g}" if own["rule"] == "cfg_clamp" else "s={scale:g}"
        columns[f"{own['rule']} {setting.format(**own)}"] = {}
    return Cells(
        rows=[f"w_con={weight:g}" for weight in weights],
        columns=list(columns),
        guidances=[
            [ParallelRescaledGuidance(**own | column | {"consistency_scale": weight}) for column in columns.values()]
            for weight in weights
        ],
        own=(
            weights.index(own["consistency_scale"]),
            constants.index(own["scale"]) if is_constant else len(constants),
        ),
    )


class GuidanceGrid:
    """Draws the grid of `guidance_cells` for one prompt, as many cells at once as `model.inference_batch_size`.

    Args:
        prompt: number of the evaluation prompt, from 0.
        consistency_scales: `w_con` of the rows.
        scales: `s` of the columns, in [0, 1].
    """

    def __init__(self, *, prompt: int, consistency_scales: Sequence[float], scales: Sequence[float]) -> None:
        key = "evaluation.guidance_grid"
        at_least(f"{key}.prompt", prompt, 0, what="for evaluation prompts are counted from 0")
        for name, values in (("consistency_scales", consistency_scales), ("scales", scales)):
            if isinstance(values, str | int | float) or not len(values):
                raise ValueError(f"{key}.{name}={values}: a list of numbers is needed; {key}=null draws no grid")
            for value in values:
                finite(f"{key}.{name}", value)
        for scale in scales:
            share(f"{key}.scales", scale, what="for the parallel part is kept (1), shrunk or dropped (0)")
        self.prompt, self.consistency_scales, self.scales = prompt, list(consistency_scales), list(scales)

    def draws(self, guidance: Guidance) -> bool:
        """Whether there is a `w_con` to vary; a class from elsewhere may not have the settings of ours."""
        return type(guidance) in (ConsistencyGuidance, ParallelRescaledGuidance)

    def check(self, num_prompts: int) -> None:
        """Asked before training.

        Raises:
            ValueError: there are not so many evaluation prompts.
        """
        if self.prompt >= num_prompts:
            raise ValueError(
                f"evaluation.guidance_grid.prompt={self.prompt}: there are {num_prompts} evaluation prompts, from 0"
            )

    def __call__(
        self,
        model: DiffusionFamily,
        prompts: Sequence[PromptPair],
        guidance: Guidance,
        folder: Path,
        *,
        seed: int,
    ) -> None:
        """Writes `guidance_grid.png` and `guidance_grid.json`.

        Args:
            model: with a run's adapter loaded into its pipeline.
            prompts: the evaluation prompts.
            guidance: the run's own, which `draws` has agreed to; its cell is framed.
            folder: exists.
            seed: of the one noise.
        """
        assert isinstance(guidance, ConsistencyGuidance)
        cells = guidance_cells(guidance, consistency_scales=self.consistency_scales, scales=self.scales)
        flat = [cell for row in cells.guidances for cell in row]
        pair, count = prompts[self.prompt], len(flat)
        pictures, _ = sample_guided(model, [pair] * count, flat, seeds=[seed] * count, description="guidance grid")
        save_guidance_grid(
            pictures,
            rows=cells.rows,
            columns=cells.columns,
            own=cells.own,
            prompt=pair.instance,
            seed=seed,
            folder=folder,
        )
