"""Stable Diffusion 1.x and 2.x."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from models.families.unet import STATES, UNetFamily
from models.family import Condition, TextEncoder, Tokens


class StableDiffusion(UNetFamily):
    """One text encoder of CLIP's kind; a condition is its hidden states `[B, tokens, D]`."""

    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"

    def load_pipeline(self) -> StableDiffusionPipeline:
        folder = Path(self.pretrained).expanduser()
        return StableDiffusionPipeline.from_pretrained(
            folder if folder.is_dir() else self.pretrained,
            dtype=getattr(torch, self.dtype),
            use_safetensors=True,
            safety_checker=None,
            requires_safety_checker=False,
        )

    @property
    def encoders(self) -> tuple[TextEncoder, ...]:
        tokenizer = self.pipeline.tokenizer
        return (
            TextEncoder(
                name="text_encoder",
                tokenizer=tokenizer,
                module=self.pipeline.text_encoder,
                max_length=tokenizer.model_max_length,
                first_column=0,
                learns_tokens=True,
            ),
        )

    def move_encoders(self, device: torch.device | str, *, pictures: bool = True, prompts: bool = True) -> None:
        if prompts:
            self.pipeline.text_encoder.to(device)
        if pictures:
            self.pipeline.vae.to(device)

    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        (encoder,) = self.encoders
        longest = encoder.max_length - 2
        for prompt in prompts:
            if (length := len(self.token_ids(prompt))) > longest:
                raise ValueError(f"prompt {prompt!r} has {length} tokens, {longest} are read: shorten that caption")
        tokens = encoder.tokenizer(
            [self._expanded(prompt) for prompt in prompts],
            padding="max_length",
            max_length=encoder.max_length,
            truncation=True,
            return_tensors="pt",
        )
        is_masked = getattr(self.pipeline.text_encoder.config, "use_attention_mask", False)
        return {encoder.name: (tokens.input_ids, tokens.attention_mask if is_masked else None)}

    def encode_tokens(self, tokens: Tokens) -> Condition:
        ids, mask = tokens["text_encoder"]
        return Condition({STATES: self.pipeline.text_encoder(ids, attention_mask=mask)[0]})

    @torch.no_grad()
    def encode_for_drawing(self, prompts: Sequence[str]) -> Condition:
        encode: Any = self.pipeline.encode_prompt
        return Condition({STATES: encode(list(prompts), self.pipeline.device, 1, do_classifier_free_guidance=False)[0]})

    def token_ids(self, text: str) -> list[int]:
        return list(self.pipeline.tokenizer(self._expanded(text), add_special_tokens=False).input_ids)

    def _expanded(self, text: str) -> str:
        """`text` with every learned token of several vectors spelt out, as the pipeline itself does."""
        return str(self.pipeline.maybe_convert_prompt(text, self.pipeline.tokenizer))

    def draw(
        self, prompts: Sequence[str], *, seeds: Sequence[int], guidance_scale: float, num_inference_steps: int
    ) -> list[Image.Image]:
        pictures: list[Image.Image] = self.pipeline(
            list(prompts),
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            **self._size_and_seeds(seeds),
        ).images
        return pictures

    def draw_guided(self, condition: Condition, *, seeds: Sequence[int], num_inference_steps: int) -> list[Image.Image]:
        pictures: list[Image.Image] = self.pipeline(
            prompt_embeds=condition.tensors[STATES],
            guidance_scale=1.0,
            num_inference_steps=num_inference_steps,
            **self._size_and_seeds(seeds),
        ).images
        return pictures

    def _size_and_seeds(self, seeds: Sequence[int]) -> dict[str, Any]:
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        return {"generator": generators, "height": self.resolution, "width": self.resolution}
