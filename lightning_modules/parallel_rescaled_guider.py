"""Parallel-rescaled consistency guidance as a guider of diffusers' modular pipelines, for adapters trained here.

```python
guider = ParallelRescaledGuider(guidance_scale=7.5, consistency_scale=3.0, rule="constant", scale=0.0, kappa=0.2)
pipeline = StableDiffusionXLAutoBlocks().init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
pipeline.load_components(); pipeline.load_lora_weights("<run>/adapter"); pipeline.update_components(guider=guider)
guider.set_prior(prompt_embeds, text_embeds)  # of "a photo of a dog", as pipeline.encode_prompt gives them
pipeline(prompt="a photo of a sks dog", output="images")
```
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from diffusers.configuration_utils import register_to_config
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from lightning_modules.guidance import (
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
        start, stop: shares of the steps between which `consistency_scale` counts; elsewhere it is 0.
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
        self.guidance_scale = guidance_scale
        self._prior: dict[str, Tensor] = {}
        self._guidance = ParallelRescaledGuidance(
            rule=rule, scale=scale, kappa=kappa, consistency_scale=consistency_scale, start=start, stop=stop
        )

    def set_prior(self, prompt_embeds: Tensor, text_embeds: Tensor | None = None) -> None:
        """Gives the pretrained model a prompt of its own, with the class word alone; else it has the student's.

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
        if self._count_prepared == 1:
            return
        layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
        if not layers:
            raise ValueError(
                f"{type(denoiser).__name__} has no adapter, so there is nothing to guide towards: "
                "pipeline.load_lora_weights(…) before"
            )
        for layer in layers:
            layer.enable_adapters(False)

        def switch_on(*args: Any) -> None:
            hook.remove()
            for layer in layers:
                layer.enable_adapters(True)

        hook = denoiser.register_forward_hook(switch_on, always_call=True)  # also after an exception in it

    def forward(self, **predictions: Tensor) -> GuiderOutput:
        """The guided prediction; `predictions` by the names in `_input_predictions`, `[B, …]` each."""
        if not self._enabled:
            return GuiderOutput(pred=predictions[STUDENT_CONDITIONAL])
        assert self._step is not None
        assert self._num_inference_steps is not None
        progress = self._step / self._num_inference_steps
        guided = self._guidance(predictions, guidance_scale=self.guidance_scale, progress=progress)
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
