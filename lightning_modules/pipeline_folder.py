"""Checks of a diffusers folder that need no torch, so that a bad one is refused before anything is loaded."""

import json
import re
from pathlib import Path

_WEIGHTS = ("vae", "text_encoder", "unet")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def check_pipeline_folder(pretrained: str) -> None:
    """Refuses a local folder that is no complete Stable Diffusion pipeline; a hub id passes.

    Raises:
        FileNotFoundError: no such folder, and no hub id either.
        ValueError: a part of the pipeline is missing, named.
    """
    root = Path(pretrained).expanduser()
    if not root.is_dir():
        if not _HUB_ID.fullmatch(pretrained) or root.parts[0] == "assets":
            raise FileNotFoundError(f"model.pretrained={pretrained}: no such folder, and no hub id (owner/name) either")
        return
    index_file = root / "model_index.json"
    if not index_file.is_file():
        raise ValueError(f"{root} is no diffusers pipeline: it lacks model_index.json (model.pretrained)")
    index = json.loads(index_file.read_text())
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise ValueError(f"{index_file} is a {index.get('_class_name')}: only StableDiffusionPipeline is supported yet")
    needed = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    needed |= dict.fromkeys(_WEIGHTS, "config.json")
    for part, config in needed.items():
        if not (root / part / config).is_file():
            raise ValueError(f"{root} is incomplete: {part}/{config} is missing (model.pretrained)")
    for part in _WEIGHTS:
        if not any((root / part).glob("*.safetensors")):
            raise ValueError(f"{root} is incomplete: {part}/ has no .safetensors weights (model.pretrained)")
