"""`DiffusionFamily`: the one place that knows what a pretrained text-to-picture model is made of."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from checks.folders import check_pipeline_folder
from checks.values import at_least
from models.noise_process import NoiseProcess
from models.pipeline_weights import PipelineWeights


@dataclass(frozen=True, slots=True)
class Condition:
    """What prompts become, row by row: every tensor `[B, …]`, by the denoiser's own argument names."""

    tensors: Mapping[str, Tensor]

    def __getitem__(self, rows: Any) -> "Condition":
        return self.map(lambda tensor: tensor[rows])

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Condition":
        """Each tensor through `function`: another device or dtype, other rows."""
        return Condition({name: function(tensor) for name, tensor in self.tensors.items()})

    def expand(self, rows: int) -> "Condition":
        """One row as so many, without copying it."""
        return self.map(lambda tensor: tensor.expand(rows, *tensor.shape[1:]))

    def equals(self, other: "Condition") -> bool:
        """Whether all tensors are the same."""
        return all(torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items())

    @staticmethod
    def cat(parts: Sequence["Condition"]) -> "Condition":
        names = parts[0].tensors
        return Condition({name: torch.cat([part.tensors[name] for part in parts]) for name in names})


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """One of a family's text encoders.

    Args:
        name: in the pipeline; a learned token's rows are saved under it.
        tokenizer, module: of transformers.
        max_length: tokens that it reads, start and end among them.
        first_column: where its tokens stand among the text columns of the attention; None where it is pooled only.
        learns_tokens: whether `token=learned` adds its word here.
    """

    name: str
    tokenizer: Any
    module: Any
    max_length: int
    first_column: int | None
    learns_tokens: bool


Tokens = Mapping[str, tuple[Tensor, Tensor | None]]
"""Ids `[N, max_length]` of each text encoder by its name, padded, and the attention mask where it wants one; CPU."""


def moved(tokens: Tokens, move: Callable[[Tensor], Tensor]) -> Tokens:
    """`tokens` with each tensor through `move`: to another device, or some of the rows."""
    return {name: (move(ids), None if mask is None else move(mask)) for name, (ids, mask) in tokens.items()}


class Trajectory(Protocol):
    """What a drawing pipeline believed on its way, step by step."""

    predicted: list[tuple[int, Tensor]]
    """The scheduler's timestep, and the predicted clean latents `[B, C, h, w]`."""


@dataclass(kw_only=True, eq=False)
class DiffusionFamily(PipelineWeights, ABC):
    """A pretrained pipeline as a run needs it: loaded once, its frozen encoders callable by themselves.

    Args:
        pretrained: a diffusers folder or a hub id; safetensors only.
        resolution: side of the training pictures and samples in pixels.
        dtype: of the frozen weights, "float32" or "bfloat16".
        gradient_checkpointing: trade a second forward of the denoiser for memory (non-reentrant).
        compile: run the denoiser through torch.compile while training.
        inference_batch_size: pictures that are encoded, drawn or looked at in one call; guidance doubles the rows.
        guidance_scale: the classifier-free scale that this model is drawn with, unless `guidance.guidance_scale` says
            another one.
        consistency_scale: `w_con` of DCO's consistency guidance, likewise; 3 beside a scale of 7.5 in DCO.
        num_inference_steps: of every picture that is drawn.
        loss_gap_scale: T of APT's overfitting indicator and β of DCO, which belong to the scale of this model's loss;
            1000 in both.
        indicator_augmentation: whether that indicator decides which training pictures are zoomed out; true in APT.
    """

    pretrained: str
    resolution: int
    dtype: str
    gradient_checkpointing: bool
    compile: bool
    inference_batch_size: int
    guidance_scale: float
    consistency_scale: float
    num_inference_steps: int
    loss_gap_scale: float
    indicator_augmentation: bool

    pipeline_class: ClassVar[str]
    """Of diffusers, as a `model_index.json` names it; read off the source by `checks`."""

    sites: ClassVar[Mapping[str, tuple[str, ...]]]
    """Patterns of the denoiser's default layers by what they are: "decoder_self", "text"."""

    features_description: ClassVar[str]
    """What `picture_features` are, in words, for metrics.json."""

    def __post_init__(self) -> None:
        check_pipeline_folder(self.pretrained, self.pipeline_class)
        # Below 1 diffusers' pipelines leave guidance out.
        at_least("model.guidance_scale", self.guidance_scale, 1, what="where 1 is no guidance")
        self.pipeline: Any = self.load_pipeline()
        self.pipeline.set_progress_bar_config(disable=True)
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        self.denoiser: Any = getattr(self.pipeline, self.denoiser_name).to(memory_format=torch.channels_last)
        self.pretrained_denoiser = self.denoiser  # a module that trains all of it puts a frozen twin here
        if self.gradient_checkpointing:
            self.denoiser.enable_gradient_checkpointing()
        if self.resolution % self.pipeline.vae_scale_factor:
            raise ValueError(f"model.resolution={self.resolution} is no multiple of {self.pipeline.vae_scale_factor}")
        self.noise_process = self.make_noise_process()

    @property
    def transform(self) -> str:
        """What a picture goes through before this model, in words."""
        return f"shorter side to {self.resolution} px, center crop, [-1, 1]"

    def to(self, device: torch.device | str | None) -> None:
        self.pipeline.to(device)

    # What it is made of

    @abstractmethod
    def load_pipeline(self) -> Any:
        """The pretrained diffusers pipeline of `pretrained`."""

    @abstractmethod
    def make_noise_process(self) -> NoiseProcess:
        """That of the pipeline's own scheduler.

        Raises:
            ValueError: this family knows none like it.
        """

    @property
    @abstractmethod
    def encoders(self) -> tuple[TextEncoder, ...]:
        """The text encoders; the first one's tokens stand among the text columns."""

    @abstractmethod
    def move_encoders(self, device: torch.device | str, *, pictures: bool = True, prompts: bool = True) -> None:
        """Moves what encodes pictures and what encodes prompts, unless told otherwise."""

    # Prompts

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tokens:
        """Raises:
        ValueError: a prompt is longer than an encoder reads; the pipeline would cut it off.
        """

    @abstractmethod
    def encode_tokens(self, tokens: Tokens) -> Condition:
        """What the denoiser is given, with a gradient to what trains of the encoders; `tokens` on their device."""

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Raises:
        ValueError: see `tokenize`.
        """
        device = self.encoders[0].module.device
        tokens = self.tokenize(prompts)
        return self.encode_tokens(moved(tokens, lambda tensor: tensor.to(device)))

    @abstractmethod
    def encode_for_drawing(self, prompts: Sequence[str]) -> Condition:
        """As the pipeline itself encodes them, too long ones cut off."""

    @abstractmethod
    def token_ids(self, text: str) -> list[int]:
        """Ids of `text` in the first encoder, without start and end, learned tokens of several vectors spelt out."""

    def text_columns(self, site: str) -> slice:
        """Which keys of the attention `site` are the prompt's: all, in cross-attention."""
        return slice(None)

    def image_rows(self, site: str) -> slice:
        """Which queries of the attention `site` are the picture's: all, in cross-attention."""
        return slice(None)

    @property
    def num_text_columns(self) -> int:
        """How many columns of the attention are text."""
        return max(each.first_column + each.max_length for each in self.encoders if each.first_column is not None)

    # Pictures

    @abstractmethod
    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """Moments of the posterior, float32 `[N, 2 C, h, w]`, of uint8 pictures `[N, 3, H, W]`."""

    @abstractmethod
    def latents(self, moments: Tensor, noise: Tensor) -> Tensor:
        """A draw from the posterior `moments` `[B, 2 C, h, w]` by `noise` `[B, C, h, w]`, in the denoiser's scale."""

    @abstractmethod
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of clean latents `[B, C, h, w]`."""

    @abstractmethod
    def picture_features(self, pictures: Tensor) -> Tensor:
        """Features `[N, D]` of uint8 pictures `[N, 3, H, W]` in the pretrained denoiser, float32."""

    # The denoiser

    @abstractmethod
    def denoise(self, denoiser: Any, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The prediction `[B, C, h, w]` of `denoiser`, this family's, pretrained or tuned."""

    @abstractmethod
    def denoise_rows(self, denoiser: Any, condition: Condition, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        """The predictions of a call that the pipeline makes of its denoiser, for the rows of `condition` instead.

        Args:
            condition: `k B` rows; the pipeline's `B` rows are repeated `k` times.
            args, kwargs: of the pipeline's call.
        """

    @contextmanager
    def drawing_with(self, denoiser: Any) -> Iterator[Any]:
        """Context that gives the pipeline with `denoiser` in it; afterwards its own is back."""
        own = self.network
        setattr(self.pipeline, self.denoiser_name, denoiser)
        try:
            yield self.pipeline
        finally:
            setattr(self.pipeline, self.denoiser_name, own)

    @contextmanager
    def pretrained_pipeline(self) -> Iterator[Any]:
        """Context that gives the pipeline as it was loaded, whatever an adapter has put into it since."""
        denoiser = self.pretrained_denoiser
        has_lora = bool(getattr(denoiser, "peft_config", None))
        if has_lora:
            denoiser.disable_adapters()
        try:
            with self.drawing_with(denoiser) as pipeline:
                yield pipeline
        finally:
            if has_lora:
                denoiser.enable_adapters()

    @property
    @abstractmethod
    def fingerprint(self) -> bytes:
        """Bytes of the current denoiser that another model of this kind has not."""

    # Drawing

    @abstractmethod
    def draw(
        self, prompts: Sequence[str], *, seeds: Sequence[int], guidance_scale: float, num_inference_steps: int
    ) -> list[Image.Image]:
        """One picture a prompt by the pipeline's own classifier-free guidance, each from the noise of its seed."""

    @abstractmethod
    def draw_guided(self, condition: Condition, *, seeds: Sequence[int], num_inference_steps: int) -> list[Image.Image]:
        """One picture a seed by a denoiser in the pipeline that guides itself: one row a picture is asked for.

        Args:
            condition: of so many rows, which the pipeline hands to the denoiser.
        """

    @abstractmethod
    def record_trajectory(self) -> AbstractContextManager[Trajectory]:
        """Context in which the pipeline draws by DDIM or Euler and keeps what it predicts of the clean latents."""
