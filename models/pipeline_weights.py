"""How the denoiser of any diffusers pipeline is adapted, written and read: alike in all families."""

from pathlib import Path
from typing import Any, ClassVar

from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import nn


class PipelineWeights:
    """What `models.adapters` asks of a family, by diffusers' own formats; a base of every family's class."""

    pipeline: Any
    """diffusers' own, of any class that takes LoRAs."""

    denoiser_name: ClassVar[str]
    """Of the part of the pipeline that trains: "unet" or "transformer"."""

    lora_targets: ClassVar[tuple[str, ...]]

    @property
    def network(self) -> Any:
        return getattr(self.pipeline, self.denoiser_name)

    @property
    def network_name(self) -> str:
        return self.denoiser_name

    def heads(self) -> list[nn.Module]:
        return []

    def add_lora(self, config: LoraConfig) -> None:
        self.network.requires_grad_(False)
        self.network.add_adapter(config)
        cast_training_params(self.network)

    def save_lora(self, folder: Path) -> None:
        # Without its metadata a LoRA whose alpha differs from the rank loads with the wrong scale.
        # PEFT keeps sets, whose order changes from process to process: equal runs then write equal files.
        metadata = self.network.peft_config["default"].to_dict()
        metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in metadata.items()}
        parts = {
            f"{self.denoiser_name}_lora_layers": get_peft_model_state_dict(self.network),
            f"{self.denoiser_name}_lora_adapter_metadata": metadata,
        }
        type(self.pipeline).save_lora_weights(folder, **parts)

    def load_lora(self, folder: Path) -> None:
        self.pipeline.load_lora_weights(folder)

    def save_full(self, folder: Path) -> None:
        self.network.save_pretrained(folder)

    def load_full(self, folder: Path) -> None:
        tuned = type(self.network).from_pretrained(folder, dtype=self.pipeline.dtype)
        setattr(self.pipeline, self.denoiser_name, tuned.to(self.pipeline.device))
