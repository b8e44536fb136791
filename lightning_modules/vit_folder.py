"""Checks of a pretrained ViT's name or files that need no torch: a bad one is refused before anything is loaded."""

import json
from pathlib import Path

from lightning_modules.pipeline_folder import check_safetensors


def check_vit(pretrained: str, checkpoint: str | None) -> None:
    """Refuses a local folder that is no timm model, and weights that are not there; names of timm and the hub pass.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: a file of the model is missing or broken, named.
    """
    root = Path(pretrained).expanduser()
    if root.is_dir():
        config = root / "config.json"
        if not config.is_file():
            raise ValueError(f"{root} is no timm model: it lacks config.json (model.pretrained)")
        try:
            architecture = json.loads(config.read_text()).get("architecture")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{config} is no JSON mapping: {error} (model.pretrained)") from None
        if not architecture:
            raise ValueError(f"{config} names no architecture, so timm cannot build it (model.pretrained)")
        if checkpoint is None:
            if not (root / "model.safetensors").is_file():
                raise ValueError(f"{root} is incomplete: it has no model.safetensors (model.pretrained)")
            check_safetensors(root / "model.safetensors")
    elif root.parts[0] == "assets" or root.is_absolute() or pretrained.startswith("."):
        raise FileNotFoundError(f"model.pretrained={pretrained}: no such folder, and no name of timm or the hub either")
    if checkpoint is not None:
        file = Path(checkpoint).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"model.checkpoint={checkpoint}: no such file")
        if file.suffix != ".safetensors":
            raise ValueError(f"model.checkpoint={checkpoint}: only .safetensors are read, which cannot run code")
        check_safetensors(file, key="model.checkpoint")
