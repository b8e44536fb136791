"""The text tower of an open_clip model as the `CLIPTextModel` of a Stable Diffusion."""

import json
from pathlib import Path

from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

_RENAMED = {  # of a layer, open_clip's name and transformers'
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def clip_text_encoder(folder: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A `CLIPTextModel` with the weights of the text tower in `folder`, in float32.

    Its `last_hidden_state` is what that tower has before it pools and projects, padding included.

    Args:
        folder: of an open_clip model, as `experiment=pretrain_sprites_clip` writes it.
        tokenizer: that the tower was trained with.

    Raises:
        FileNotFoundError: there is no model in `folder`.
    """
    if not (folder / HF_CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"module.clip={folder} holds no open_clip model: experiment=pretrain_sprites_clip makes one"
        )
    settings = json.loads((folder / HF_CONFIG_NAME).read_text())["model_cfg"]["text_cfg"]
    encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=settings["width"],
            intermediate_size=4 * settings["width"],  # open_clip's default
            num_hidden_layers=settings["layers"],
            num_attention_heads=settings["heads"],
            max_position_embeddings=settings["context_length"],
            hidden_act="gelu",
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    weights = {key: value.float() for key, value in load_file(folder / HF_SAFE_WEIGHTS_NAME).items()}
    encoder.load_state_dict(text_tower(weights, layers=settings["layers"]))
    return encoder


def text_tower(weights: dict[str, Tensor], *, layers: int) -> dict[str, Tensor]:
    """Those of an open_clip model's weights that a `CLIPTextModel` has, under its names."""
    renamed = {
        "embeddings.token_embedding.weight": weights["token_embedding.weight"],
        "embeddings.position_embedding.weight": weights["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        renamed[f"final_layer_norm.{kind}"] = weights[f"ln_final.{kind}"]
        for layer in range(layers):
            ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            for name, other in _RENAMED.items():
                renamed[f"{ours}.{other}.{kind}"] = weights[f"{theirs}.{name}.{kind}"]
            parts = weights[f"{theirs}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                renamed[f"{ours}.self_attn.{name}.{kind}"] = part
    return renamed
