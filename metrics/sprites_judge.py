"""A judge of the Sprites world: which noun, colour, texture and size stands at which position of a picture."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.sprites.attributes import ATTRIBUTES, NOTHING, Seen
from datamodules.sprites.world import POSITIONS, SIZE


class SpritesJudge(nn.Module):
    """A convolutional network with one classifier for each attribute at each position.

    Args:
        widths: channels of the stages, each of which halves the resolution of 64 px.
        hidden: features that the classifiers share.
    """

    def __init__(self, *, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "hidden": hidden}
        stages = [_stage(before, after) for before, after in zip((3, *widths), widths, strict=False)]
        side = SIZE // 2 ** len(widths)
        self.features = nn.Sequential(
            *stages, nn.Flatten(), nn.Linear(widths[-1] * side**2, hidden), nn.ReLU(), nn.Dropout(0.2)
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(hidden, len(POSITIONS) * len(choices)) for name, choices in ATTRIBUTES.items()}
        )

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Logits `[B, positions, choices]` per attribute, for pictures `[B, 3, 64, 64]` in [-1, 1]."""
        features = self.features(pixel_values)
        return {name: head(features).unflatten(1, (len(POSITIONS), -1)) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, pictures: Sequence[NDArray[np.uint8]]) -> list[tuple[Seen, ...]]:
        """The objects of each picture `[H, W, 3]`, all of one size, which is brought to 64 px; call `eval()` first."""
        if len(pictures) == 0:
            return []
        pixel_values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        pixel_values = F.interpolate(pixel_values, (SIZE, SIZE), mode="bilinear", antialias=True)
        best = {
            name: torch.cat([logits.argmax(2) for logits in (self(c)[name] for c in pixel_values.split(256))]).tolist()
            for name in ATTRIBUTES
        }
        return [
            tuple(
                Seen(position=place, **{a: ATTRIBUTES[a][best[a][number][slot]] for a in ATTRIBUTES})
                for slot, place in enumerate(POSITIONS)
                if ATTRIBUTES["noun"][best["noun"][number][slot]] != NOTHING
            )
            for number in range(len(pictures))
        ]

    def save_pretrained(self, folder: Path) -> None:
        """Writes `config.json` and `model.safetensors`, in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=2))
        weights = {key: value.half().contiguous() for key, value in self.state_dict().items()}
        save_file(weights, folder / "model.safetensors")

    @classmethod
    def from_pretrained(cls, folder: Path) -> "SpritesJudge":
        """Reads what `save_pretrained` wrote, in float32 and evaluation mode."""
        judge = cls(**json.loads((folder / "config.json").read_text()))
        judge.load_state_dict(load_file(folder / "model.safetensors"))
        return judge.eval()


def _stage(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False),  # at full resolution: outlines tell a star from a flower
        nn.BatchNorm2d(after),
        nn.ReLU(),
        nn.Conv2d(after, after, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )
