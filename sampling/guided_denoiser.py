"""A UNet that guides itself: the pipeline asks for one prediction, and gets the guided one."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from models.adapters import disabled_adapters, kept_requires_grad
from sampling.guidance import REFERENCE_CONDITIONAL, STUDENT_CONDITIONAL, Guidance

BASE = "__base__"  # PEFT's name for a row without an adapter


class GuidedUNet:
    """Stands in for a pipeline's UNet at `guidance_scale=1`, where the pipeline asks for one row a picture.

    All rows of a step are predicted in one call where one adapter is active (PEFT's mixed batches) or none, and in two,
    one of the pretrained and one of the tuned model, where several adapters are or where the whole UNet was tuned.
    `open` it around a pipeline's call, so that the hooks of the mixed batch are taken off again.

    Args:
        tuned: with its adapters loaded, or fully tuned.
        pretrained: `tuned` itself where adapters can be switched off.
        guidance: asked in every step.
        guidance_scale: `w`.
        states: of the prompts, `[B, tokens, D]`, by the names in `guidance.rows`.
        pooled: SDXL's pooled embeddings `[B, D]` by the same names; None of a model that has none.
        scheduler: the pipeline's, which knows how many steps there are.

    Raises:
        ValueError: `guidance` compares with the pretrained model, and neither the UNet nor a prompt is another one.
    """

    def __init__(
        self,
        tuned: UNet2DConditionModel,
        pretrained: UNet2DConditionModel,
        guidance: Guidance,
        *,
        guidance_scale: float,
        states: Mapping[str, Tensor],
        pooled: Mapping[str, Tensor] | None = None,
        scheduler: Any,
    ) -> None:
        self.tuned, self.pretrained, self.guidance, self.guidance_scale = tuned, pretrained, guidance, guidance_scale
        self._scheduler = scheduler
        self._layers = [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]
        students = [row for row in guidance.rows if row.startswith("student")]
        self._references = [row for row in guidance.rows if row not in students]
        untuned = tuned is pretrained and not self._layers  # a learned token alone is something to go towards
        if self._references and untuned and torch.equal(states[REFERENCE_CONDITIONAL], states[STUDENT_CONDITIONAL]):
            raise ValueError(
                f"{type(guidance).__name__} goes from the pretrained to the tuned model, and nothing is tuned here: "
                "guidance=cfg"
            )
        self._active = self._layers[0].active_adapters if self._layers else []
        at_once = tuned is pretrained and len(self._active) <= 1
        self._groups = [list(guidance.rows)] if at_once else [g for g in (self._references, students) if g]
        self._states = [torch.cat([states[row] for row in group]) for group in self._groups]
        self._pooled = [torch.cat([pooled[row] for row in group]) for group in self._groups] if pooled else []
        self._num_pictures = len(next(iter(states.values())))

    def __getattr__(self, name: str) -> Any:
        if "tuned" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.tuned, name)  # what else a pipeline asks of its UNet

    @contextmanager
    def open(self) -> Iterator["GuidedUNet"]:
        """Context in which this UNet can be called; adapters are as before after it, also after an exception."""
        self.guidance.begin()
        self._calls = 0
        self.diagnostics: list[Mapping[str, Tensor]] = []
        with kept_requires_grad(self.tuned), self._mixed_batch():
            yield self

    def __call__(self, sample: Tensor, timestep: Tensor, *, encoder_hidden_states: Tensor, **kwargs: Any) -> Any:
        """As a `UNet2DConditionModel`; the prompts are those given in the constructor."""
        kwargs["return_dict"] = False
        conditions = kwargs.pop("added_cond_kwargs", None) or {}
        predictions: dict[str, Tensor] = {}
        for number, (group, states) in enumerate(zip(self._groups, self._states, strict=True)):
            added = {name: torch.cat([value] * len(group)) for name, value in conditions.items()}
            if self._pooled:
                added["text_embeds"] = self._pooled[number]
            is_reference = group == self._references
            unet = self.pretrained if is_reference else self.tuned
            with disabled_adapters(self._layers) if is_reference and unet is self.tuned else nullcontext():
                rows = unet(torch.cat([sample] * len(group)), timestep, states, added_cond_kwargs=added, **kwargs)[0]
            predictions |= dict(zip(group, rows.chunk(len(group)), strict=True))
        progress = self._calls / len(self._scheduler.timesteps)
        self._calls += 1
        guided = self.guidance(predictions, guidance_scale=self.guidance_scale, progress=progress)
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
