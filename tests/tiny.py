"""Models with random weights, small enough to build and train in a second."""

from pathlib import Path
from typing import Any

import timm
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from timm.models import save_for_hf
from transformers import CLIPTextConfig, CLIPTextModel

from lightning_modules.pretraining.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT.parent / "shared/data/dreambooth/dataset"


def tiny_vae() -> AutoencoderKL:
    """An autoencoder of 32 px pictures, with random weights."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=32,
        mid_block_add_attention=False,
    )


def tiny_text_config(tokenizer: Any, **changes: Any) -> CLIPTextConfig:
    """Of a text encoder of 32 tokens, 32 wide."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 32,
    }  # fmt: skip
    return CLIPTextConfig(**config | ids | changes)


def tiny_unet(**changes: Any) -> UNet2DConditionModel:
    """A UNet of 8 px latents with attention in one block on the way down and one up, with random weights."""
    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**config | changes)


def save_tiny_sd(folder: Path, *, prediction_type: str = "epsilon") -> Path:
    """A `StableDiffusionPipeline` folder for 32 px pictures, with random weights of seed 0."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(max_length=32)
    text_encoder = CLIPTextModel(tiny_text_config(tokenizer))
    unet = tiny_unet()
    StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type=prediction_type, clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_tiny_vit(folder: Path, *, architecture: str = "vit_tiny_patch16_224", **changes: int) -> Path:
    """A ViT for 32 px pictures in timm's layout, with random weights of seed 0."""
    torch.manual_seed(0)
    vit = timm.create_model(
        architecture, img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, **changes
    )
    config = {"tag": "tiny", "input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_for_hf(vit, str(folder), model_config={"pretrained_cfg": config}, safe_serialization=True)
    return folder
