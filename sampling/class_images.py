"""Pictures of the bare class, drawn once by the pretrained model and cached, for prior preservation."""

import hashlib
import json
import os
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from datamodules.subject import Subject
from datamodules.subject_datamodule import square_tensor
from models.family import DiffusionFamily
from sampling.sampler import sample


def class_images(
    model: DiffusionFamily,
    subject: Subject,
    *,
    count: int,
    cache_dir: Path,
) -> Tensor:
    """uint8 `[count, 3, H, W]` of the class prompt; picture `i` is drawn from seed `i`, if it is not in the cache yet.

    Args:
        cache_dir: the pictures lie in a folder of it that is named after everything they depend on.

    Raises:
        ValueError: the subject has no class, or its class prompt is what a training picture is called as well.
    """
    prompt = _class_prompt(subject)
    with model.pretrained_pipeline():
        folder = _cache_folder(model, prompt, cache_dir)
        missing = [number for number in range(count) if not (folder / f"{number:04d}.png").exists()]
        pictures = sample(
            model,
            [prompt] * len(missing),
            seeds=missing,
            guidance_scale=model.guidance_scale,
            description=f"drawing {len(missing)} class images",
        )
    for number, picture in zip(missing, pictures, strict=True):
        path = folder / f"{number:04d}.png"
        unfinished = path.with_suffix(f".{os.getpid()}")
        picture.save(unfinished, format="PNG")
        unfinished.replace(path)  # at once, for other runs that share the cache
    paths = [folder / f"{number:04d}.png" for number in range(count)]
    return torch.stack([square_tensor(Image.open(path).convert("RGB"), model.resolution) for path in paths])


def _class_prompt(subject: Subject) -> str:
    leave_out = "leave prior preservation out"
    if not subject.class_prompt:
        raise ValueError(f"{subject.name} has no class whose pictures could be drawn: {leave_out}")
    called = [picture.name for picture in subject.train if picture.prompts.instance == subject.class_prompt]
    if called:
        raise ValueError(
            f"{called[0]} and the class images have one prompt, {subject.class_prompt!r}, and would be learned against "
            f"each other: set data.identifier, give that picture a caption, or {leave_out}"
        )
    return subject.class_prompt


def _cache_folder(model: DiffusionFamily, prompt: str, cache_dir: Path) -> Path:
    """A folder named after all that the pictures depend on, which `recipe.json` in it spells out."""
    recipe = {
        "pretrained": model.pretrained,
        "weights": hashlib.sha256(model.fingerprint).hexdigest(),
        "prompt": prompt,
        "guidance_scale": model.guidance_scale,
        "num_inference_steps": model.num_inference_steps,
        "resolution": model.resolution,
    }
    text = json.dumps(recipe, indent=2)
    folder = cache_dir / hashlib.sha256(text.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.json").write_text(text)
    return folder
