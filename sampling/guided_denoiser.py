"""A denoiser that guides itself: the pipeline asks for one prediction, and gets the guided one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from models.adapters import disabled_adapters, kept_requires_grad
from models.family import Condition, DiffusionFamily
from sampling.guidance import REFERENCE_CONDITIONAL, STUDENT_CONDITIONAL, Guidance

BASE = "__base__"  # PEFT's name for a row without an adapter


class GuidedDenoiser:
    """Stands in for a pipeline's denoiser in `DiffusionFamily.draw_guided`, where one row a picture is asked for.

    All rows of a step are predicted in one call where one adapter is active (PEFT's mixed batches) or none, and in two,
    one of the pretrained and one of the tuned model, where several adapters are or where the whole denoiser was tuned.
    `open` it around a pipeline's call, so that the hooks of the mixed batch are taken off again.

    Args:
        model: its pipeline has the tuned denoiser in it, with adapters loaded, or fully tuned.
        guidance: asked in every step.
        conditions: of the prompts, `B` rows each, by the names in `guidance.rows`.

    Raises:
        ValueError: `guidance` compares with the pretrained model, and neither the denoiser nor a prompt is another one.
    """

    def __init__(self, model: DiffusionFamily, guidance: Guidance, *, conditions: Mapping[str, Condition]) -> None:
        self.tuned: Any = model.network
        self.pretrained, self.guidance, self._model = model.pretrained_denoiser, guidance, model
        self._layers = [module for module in self.tuned.modules() if isinstance(module, BaseTunerLayer)]
        students = [row for row in guidance.rows if row.startswith("student")]
        self._references = [row for row in guidance.rows if row not in students]
        is_one = self.tuned is self.pretrained
        untuned = is_one and not self._layers  # a learned token alone is something to go towards
        if self._references and untuned and conditions[REFERENCE_CONDITIONAL].equals(conditions[STUDENT_CONDITIONAL]):
            raise ValueError(
                f"{type(guidance).__name__} goes from the pretrained to the tuned model, and nothing is tuned here: "
                "guidance=cfg"
            )
        self._active = self._layers[0].active_adapters if self._layers else []
        at_once = is_one and len(self._active) <= 1
        self._groups = [list(guidance.rows)] if at_once else [g for g in (self._references, students) if g]
        self._conditions = [Condition.cat([conditions[row] for row in group]) for group in self._groups]
        self._num_pictures = len(next(iter(conditions.values())))

    def __getattr__(self, name: str) -> Any:
        if "tuned" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.tuned, name)  # what else a pipeline asks of its denoiser

    @contextmanager
    def open(self) -> Iterator["GuidedDenoiser"]:
        """Context in which it can be called; adapters are as before after it, also after an exception."""
        self.guidance.begin()
        self._calls = 0
        self.diagnostics: list[Mapping[str, Tensor]] = []
        with kept_requires_grad(self.tuned), self._mixed_batch():
            yield self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the family's denoiser; the prompts are those given in the constructor."""
        predictions: dict[str, Tensor] = {}
        for group, condition in zip(self._groups, self._conditions, strict=True):
            is_reference = group == self._references
            denoiser = self.pretrained if is_reference else self.tuned
            with disabled_adapters(self._layers) if is_reference and denoiser is self.tuned else nullcontext():
                rows = self._model.denoise_rows(denoiser, condition, args, kwargs)
            predictions |= dict(zip(group, rows.chunk(len(group)), strict=True))
        progress = self._calls / len(self._model.pipeline.scheduler.timesteps)
        self._calls += 1
        guided = self.guidance(predictions, progress=progress)
        self.diagnostics.append(guided.diagnostics)
        return (guided.prediction,)

    @contextmanager
    def _mixed_batch(self) -> Iterator[None]:
        """Tells every adapter which rows are its own, where rows of both models are in one call."""
        together = len(self._groups) == 1 and bool(self._references)
        layers = [layer for layer in self._layers if isinstance(layer, nn.Module)] if together else []
        names = [
            name
            for row in self.guidance.rows
            for name in [BASE if row in self._references or not layers else self._active[0]] * self._num_pictures
        ]

        def name_rows(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
            return args, kwargs | {"adapter_names": names}

        hooks = [layer.register_forward_pre_hook(name_rows, with_kwargs=True) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
