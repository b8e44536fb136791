"""When to stop: the last step before held-out adherence has dropped by more than its own noise."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks.sample_evaluation import SampleEvaluation
from checks.values import at_least, one_of


def paired_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean of `after − before` over prompts that both were drawn for, and its standard error.

    Args:
        before, after: `[prompts]`, 2 or more, in one order and from the same noise: what makes a prompt hard for both
            then cancels.
    """
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


@dataclass(frozen=True, slots=True)
class Check:
    """Adherence after `step` steps, and its paired difference to the best check before it (0 and 0 of the first)."""

    step: int
    adherence: float
    difference: float
    standard_error: float
    is_below: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The step to keep, the first check of the drop (None where there was none), and what it was read from."""

    step: int
    dropped_at: int | None
    curve: tuple[Check, ...]


def last_step_before_drop(
    steps: Sequence[int], adherence: Sequence[Sequence[float]], *, num_standard_errors: float, patience: int
) -> Choice:
    """The last step before adherence has dropped by more than its own noise; the last of all where it has not.

    A check is below where its mean paired difference to the best check before it is less than `−num_standard_errors`
    of that difference's standard errors. The first `patience` checks in a row that are below make the drop. The best
    of several noisy checks is somewhat too good, so that drops are found too readily rather than too late; patience
    answers for that. Not stated in the sources.

    Args:
        steps: `[checks]`, rising.
        adherence: `[checks, prompts]`, on any scale, the same 2 or more prompts from the same noise in every check.
    """
    curve: list[Check] = []
    best, in_a_row, first_below = 0, 0, None
    for number, (step, values) in enumerate(zip(steps, adherence, strict=True)):
        difference, error = paired_difference(adherence[best], values)
        is_below = difference < -num_standard_errors * error
        curve.append(Check(step, float(np.mean(values)), difference, error, is_below))
        in_a_row = in_a_row + 1 if is_below else 0
        if in_a_row == patience and first_below is None:
            first_below = number - patience + 1
        if difference > 0:
            best = number
    if first_below is None:
        return Choice(steps[-1], None, tuple(curve))
    return Choice(steps[first_below - 1], steps[first_below], tuple(curve))


class AdherenceStopping(Callback):
    """Keeps what was trained by `last_step_before_drop`, on the pictures of `SampleEvaluation`, and may stop training.

    Adherence is the judge's, or where there is none the text similarity of each picture, see
    `SampleEvaluation.adherence_figure`. What is kept goes into the run's adapter (and token); checkpoints stay as
    Lightning wrote them. Its state, and with it every checkpoint, holds a second copy of what trains.

    Args:
        num_standard_errors: how far below the best check one must lie, in standard errors of the paired difference.
        patience: so many checks in a row.
        stop: end the training with the drop; otherwise it goes on, and the figures with it.
        keep: "best", the chosen step's weights, or "last", those that the training ended with.
    """

    stops_by_adherence: ClassVar[bool] = True
    """Whether a callback needs to know what pictures show; read off the source by `checks`."""

    def __init__(self, *, num_standard_errors: float, patience: int, stop: bool, keep: str) -> None:
        at_least("callbacks.adherence_stopping.num_standard_errors", num_standard_errors, 0)
        at_least("callbacks.adherence_stopping.patience", patience, 1, what="checks that make a drop")
        one_of("callbacks.adherence_stopping.keep", keep, ("best", "last"))
        self.num_standard_errors, self.patience, self.stop, self.keep = num_standard_errors, patience, stop, keep
        self._steps: list[int] = []
        self._adherence: list[list[float]] = []
        self._chosen: dict[str, Tensor] = {}  # weights of the last check that was not below

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Raises:
        ValueError: nobody draws. Data that nothing can read, or with too few prompts, `check_callbacks` has refused.
        """
        evaluation = next((each for each in trainer.callbacks if isinstance(each, SampleEvaluation)), None)  # type: ignore[attr-defined]
        if evaluation is None:
            raise ValueError(
                "callbacks.adherence_stopping looks at what callbacks.sample_evaluation draws, and that is left out: "
                "+callbacks=[sample_evaluation,adherence_stopping]"
            )
        if self._observe not in evaluation.listeners:
            evaluation.listeners.append(self._observe)
        self._evaluation = evaluation

    @property
    def has_looked(self) -> bool:
        """Whether there was a check: not where a finished run is resumed without a step to go."""
        return bool(self._steps)

    @property
    def kept_step(self) -> int:
        """The step whose weights the run ends with."""
        return self.choice.step if self.keep == "best" else self._steps[-1]

    @property
    def choice(self) -> Choice:
        """Of the checks so far; there is one at least once training has begun."""
        return last_step_before_drop(
            self._steps, self._adherence, num_standard_errors=self.num_standard_errors, patience=self.patience
        )

    @property
    def record(self) -> dict[str, Any]:
        """For `metrics.json`: `chosen_step`, whose weights were kept, the figure that was read as `adherence`, the
        `reason` in one sentence, and the curve.
        """
        choice = self.choice
        rule = reason(choice, num_standard_errors=self.num_standard_errors, patience=self.patience)
        return {
            "chosen_step": choice.step,
            "keep": self.keep,
            "adherence": self._evaluation.adherence_figure,
            "reason": f"keeps {rule}"
            if self.keep == "best"
            else f"keeps the end of the training, and would choose {rule}",
            "curve": [asdict(check) for check in choice.curve],
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._steps and self.choice.dropped_at is not None:  # a checkpoint of a run that had found its drop
            trainer.should_stop = trainer.should_stop or self.stop

    def _observe(self, trainer: L.Trainer, pl_module: L.LightningModule, adherence: list[float]) -> None:
        self._steps.append(trainer.global_step)
        self._adherence.append(adherence)
        choice = self.choice
        if choice.dropped_at is None and not choice.curve[-1].is_below:
            self._chosen = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}
        if choice.dropped_at is not None and self.stop:
            trainer.should_stop = True

    @torch.no_grad()
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Behind on_train_end, in which Lightning may write the last checkpoint.
        if self.keep == "best" and self._steps and self.choice.dropped_at is not None:
            pl_module.load_state_dict(self._chosen)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "adherence": self._adherence, "chosen": self._chosen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._adherence = list(state_dict["steps"]), [list(each) for each in state_dict["adherence"]]
        self._chosen = dict(state_dict["chosen"])


def reason(choice: Choice, *, num_standard_errors: float, patience: int) -> str:
    """`choice` in one sentence."""
    rule = f"{num_standard_errors:g} standard errors in {patience} checks in a row"
    if choice.dropped_at is None:
        return f"step {choice.step}, the last: held-out adherence never lay below its best by more than {rule}"
    check = next(each for each in choice.curve if each.step == choice.dropped_at)
    return (
        f"step {choice.step}, the last before held-out adherence dropped: it lay below its best by more than {rule}, "
        f"first at step {check.step} by {-check.difference:.3f} ± {check.standard_error:.3f}"
    )


def adherence_stopping(callbacks: Iterable[Callback]) -> AdherenceStopping | None:
    """The one among a trainer's callbacks that has looked at something, if there is one."""
    return next((each for each in callbacks if isinstance(each, AdherenceStopping) and each.has_looked), None)
