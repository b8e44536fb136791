"""Parallel-rescaled consistency guidance as a guider of diffusers' modular pipelines.

For any LoRA in diffusers' format.
With `plain`, a `StableDiffusionXLPipeline`:

```python
guider = ParallelRescaledGuider(guidance_scale=7.5, consistency_scale=3.0, rule="constant", scale=0.5, kappa=0.2)
states, _, pooled, _ = plain.encode_prompt("a photo of a dog", do_classifier_free_guidance=False)
guider.set_prior(states, pooled)
pipeline = StableDiffusionXLAutoBlocks().init_pipeline()
pipeline.update_components(guider=guider, **plain.components)
pipeline.load_lora_weights("<folder>")
pipeline(prompt="a photo of a sks dog", output="images")
```
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, ClassVar

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from models.adapters import disabled_adapters, kept_requires_grad
from sampling.guidance import (
    REFERENCE_CONDITIONAL,
    REFERENCE_UNCONDITIONAL,
    STUDENT_CONDITIONAL,
    ParallelRescaledGuidance,
)


class ParallelRescaledGuider(BaseGuidance):
    """Three predictions a step, two of them with all adapters of the denoiser switched off.

    Adapters are on again after every prediction, also after an exception in it.

    Args:
        guidance_scale: `w`.
        consistency_scale, rule, scale, kappa: see `ParallelRescaledGuidance`; `rule="constant", scale=1.0` is plain
            consistency guidance.
        start, stop: shares of the asked steps between which `consistency_scale` counts, to the end with stop 1;
            elsewhere it is 0. A second-order scheduler has about twice as many steps as were asked for.
        enabled: False gives the tuned model's prediction without any guidance, as with every guider.
    """

    _input_predictions: ClassVar[list[str]] = [STUDENT_CONDITIONAL, REFERENCE_CONDITIONAL, REFERENCE_UNCONDITIONAL]

    @register_to_config
    def __init__(
        self,
        guidance_scale: float,
        consistency_scale: float,
        rule: str,
        scale: float,
        kappa: float,
        start: float = 0.0,  # diffusers' own defaults
        stop: float = 1.0,
        enabled: bool = True,
    ) -> None:
        super().__init__(start, stop, enabled)
        self._prior: dict[str, Tensor] = {}
        self._off = ExitStack()  # open while the adapters are off
        self._guidance = ParallelRescaledGuidance(
            guidance_scale=guidance_scale,
            rule=rule,
            scale=scale,
            kappa=kappa,
            consistency_scale=consistency_scale,
            start=start,
            stop=stop,
        )

    @property
    def guidance_scale(self) -> float:
        """`w`, as diffusers' own guiders have it."""
        return self._guidance.guidance_scale

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        self._guidance.guidance_scale = value

    def set_prior(self, prompt_embeds: Tensor, text_embeds: Tensor | None = None) -> None:
        """Gives the pretrained model a prompt of its own, with the class word alone, until it is given another.

        Without one the pretrained model has the student's prompt, unknown identifier and all.

        Args:
            prompt_embeds: hidden states `[B, tokens, D]`.
            text_embeds: SDXL's pooled embeddings `[B, D]`.
        """
        given = {"prompt_embeds": prompt_embeds, "text_embeds": text_embeds}
        self._prior = {name: value for name, value in given.items() if value is not None}

    def prepare_inputs(self, data: Mapping[str, tuple[Tensor, Tensor]]) -> list[Any]:
        """One batch for each prediction: with the prompt, with the prior's and with the negative prompt."""
        prior = {name: (self._prior.get(name, pair[0]), pair[1]) for name, pair in data.items()}
        sources = ((data, 0), (prior, 0), (data, 1))[: self.num_conditions]
        return [
            self._prepare_batch(inputs, index, name)
            for (inputs, index), name in zip(sources, self._input_predictions, strict=False)
        ]

    def prepare_models(self, denoiser: nn.Module) -> None:
        """Switches the adapters off for the pretrained model's predictions, until the denoiser was called."""
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)  # what an interrupted prediction left behind
        if self._count_prepared == 1:
            return
        layers = [m for m in denoiser.modules() if isinstance(m, BaseTunerLayer) and not m.disable_adapters]
        if not layers:
            raise ValueError(
                f"{type(denoiser).__name__} has no active adapter, so there is nothing to guide towards: "
                "pipeline.load_lora_weights(…) before"
            )
        self._off.enter_context(kept_requires_grad(denoiser))
        self._off.enter_context(disabled_adapters(layers))
        # Also after an exception in it.
        hook = denoiser.register_forward_hook(lambda *_: self._off.close(), always_call=True)
        self._off.callback(hook.remove)

    def cleanup_models(self, denoiser: nn.Module) -> None:
        """Switches the adapters on again where the denoiser was not called, or was interrupted from the keyboard."""
        self._off.close()

    def forward(self, **predictions: Tensor) -> GuiderOutput:
        """The guided prediction; `predictions` by the names in `_input_predictions`, `[B, …]` each."""
        if not self._enabled:
            return GuiderOutput(pred=predictions[STUDENT_CONDITIONAL])
        assert self._step is not None
        assert self._num_inference_steps is not None
        progress = self._step / self._num_inference_steps
        guided = self._guidance(predictions, progress=progress)
        return GuiderOutput(
            pred=guided.prediction,
            pred_cond=predictions[STUDENT_CONDITIONAL],
            pred_uncond=predictions[REFERENCE_UNCONDITIONAL],
        )

    @property
    def is_conditional(self) -> bool:
        return self._count_prepared < 3

    @property
    def num_conditions(self) -> int:
        return 3 if self._enabled else 1
