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

STRIDE = 4  # pixels a cell of the features that the windows are cut from
WINDOW = 10  # cells a side, 40 px: the largest object, wherever it stands about its position
TRANSFORM = f"bilinear with antialiasing to {SIZE} px, [-1, 1]"
_LAST = SIZE // STRIDE - WINDOW
CORNERS = [  # of the window at each position: left and top cell, moved inwards where it would leave the picture
    tuple(min(max(round(center / STRIDE - WINDOW / 2), 0), _LAST) for center in place) for place in POSITIONS.values()
]


class SpritesJudge(nn.Module):
    """A convolutional network that looks through one window at each position, with the same eyes.

    A noun that was learned at one position is known at all of them, which a classifier of the whole picture would have
    to learn five times.

    Args:
        widths: channels at 64, 32, 16 and 8 pixels a side.
        hidden: features that the classifiers share.
    """

    def __init__(self, *, widths: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.config = {"widths": list(widths), "hidden": hidden}
        full, half, quarter, eighth = widths
        self.picture = nn.Sequential(
            _layer(3, full),  # at full resolution: outlines tell a star from a flower
            _layer(full, half, stride=2),
            _layer(half, quarter),
            _layer(quarter, quarter, stride=2),
        )
        self.window = nn.Sequential(
            _layer(quarter, eighth, stride=2),
            _layer(eighth, eighth),
            nn.Flatten(),
            nn.Linear(eighth * (WINDOW // 2) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, len(choices)) for name, choices in ATTRIBUTES.items()})

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Logits `[B, positions, choices]` per attribute, for pictures `[B, 3, 64, 64]` in [-1, 1]."""
        picture = self.picture(pixel_values)
        windows = torch.stack([picture[..., y : y + WINDOW, x : x + WINDOW] for x, y in CORNERS], dim=1)
        seen = self.window(windows.flatten(0, 1))
        return {name: head(seen).unflatten(0, (-1, len(CORNERS))) for name, head in self.heads.items()}

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


def _layer(before: int, after: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )
