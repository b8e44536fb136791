"""Pictures, subjects and a small open_clip folder for the tests of the picture metrics."""

from collections.abc import Sequence
from pathlib import Path
from unittest.mock import MagicMock

import torch
from open_clip import CLIP
from open_clip.push_to_hf_hub import save_for_hf
from PIL import Image

from datamodules.sprites.subjects import sprite_subject
from datamodules.subject import PromptPair, Subject
from evaluation.figures.figure import Arrays, Compared
from lightning_modules.pretraining.tokenizer import build_tokenizer
from metrics.embeddings import Embeddings
from metrics.picture_metric import Drawn
from tests.tiny import ROOT

VIT = str(ROOT / "assets/sprites-vit")


def embeddings() -> Embeddings:
    return Embeddings(device=torch.device("cpu"), batch_size=16)


def subject(name: str = "heart_face", *, num_heldout: int = 4, seed: int = 0) -> Subject:
    return sprite_subject(
        subject=name, identifier="sks", replaces_class_word=False, instance_prompt="a {identifier} {class_word}",
        num_train=3, num_heldout=num_heldout, seed=seed,
    )  # fmt: skip


def compared(subject: Subject, pairs: Sequence[PromptPair], tuned: Arrays, base: Arrays) -> Compared:
    """Pictures of two models, for figures that look at no model."""

    def drawn(arrays: Arrays) -> Drawn:
        prompts = [pair.prior for pair in pairs]
        return Drawn(pictures=[Image.fromarray(each) for each in arrays], prompts=prompts, class_pictures=())

    return Compared(
        model=MagicMock(), subject=subject, pairs=pairs, tuned=drawn(tuned), base=drawn(base),
        metrics_csv=Path("metrics.csv"), steps=0, seed=0,
    )  # fmt: skip


def train(of: Subject) -> list[Image.Image]:
    return [each.image for each in of.train]


def heldout(of: Subject) -> list[Image.Image]:
    return [each.image for each in of.heldout]


def save_tiny_clip(folder: Path) -> Path:
    """As `experiment=pretrain_sprites_clip` writes it, with random weights of seed 0."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(max_length=32)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 32},
        "text_cfg": {
            "context_length": 32, "width": 16, "heads": 2, "layers": 1, "vocab_size": len(tokenizer),
            "hf_tokenizer_name": folder.name,
        },
    }  # fmt: skip
    clip = CLIP(**config)
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    save_for_hf(clip, tokenizer, config, str(folder), safe_serialization=True)
    return folder
