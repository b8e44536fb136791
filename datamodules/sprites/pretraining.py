"""The world as training data for the embedded models: rendered once, then served from memory."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.sprites.captions import caption
from datamodules.sprites.world import SIZE, Scene, render, repainted_scene, scene, textured_scene, wild_scene
from datamodules.stream import Stream, StreamLoader

CAPTION_STREAM, CROP_STREAM = 11, 12


class SpritesDataModule(L.LightningDataModule):
    """Pictures of the world with captions, for pretraining.

    Args:
        num_scenes: scenes of the world, rendered once (12 KiB each).
        num_wild: scenes of any colours and patterns, without captions, for the VAE.
        num_repainted: scenes of the world in any paint, for the judge.
        num_textured: scenes of the world without solid objects, whose captions name every texture.
        crop: side of the random crop in pixels; the whole picture at 64.
        batch_size: pictures a batch.
        seed: decides the scenes, their order, the crops and the captions' wording.
    """

    def __init__(
        self,
        *,
        num_scenes: int,
        num_wild: int,
        num_repainted: int,
        num_textured: int,
        crop: int,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.num_scenes, self.num_wild = num_scenes, num_wild
        self.num_repainted, self.num_textured = num_repainted, num_textured
        self.crop, self.batch_size, self.seed = crop, batch_size, seed

    def setup(self, stage: str) -> None:
        if hasattr(self, "dataset"):
            return
        scenes = [scene(self.seed, index) for index in range(self.num_scenes)]
        scenes += [wild_scene(self.seed, index) for index in range(self.num_wild)]
        scenes += [repainted_scene(self.seed, index) for index in range(self.num_repainted)]
        scenes += [textured_scene(self.seed, self.num_scenes + index) for index in range(self.num_textured)]
        self.dataset = _RenderedScenes(scenes, num_textured=self.num_textured, crop=self.crop, seed=self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        return self.loader(start=self.trainer.global_step, batches=self.trainer.max_steps)

    def loader(self, *, start: int, batches: int) -> DataLoader[Any]:
        """Batches number `start` to `batches` of the stream."""
        stream = Stream(len(self.dataset), self.batch_size, batches=batches, start=start, seed=self.seed)
        return StreamLoader(self.dataset, batch_sampler=stream, collate_fn=_as_it_is)


class _RenderedScenes(Dataset[dict[str, Any]]):
    def __init__(self, scenes: list[Scene], *, num_textured: int, crop: int, seed: int) -> None:
        self.first_textured = len(scenes) - num_textured
        self.scenes, self.crop, self.seed = scenes, crop, seed
        self.pictures = np.stack([render(s) for s in track(scenes, "rendering the world")])

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, Any]:
        positions, indices = zip(*items, strict=True)
        return {
            "pixel_values": to_pixel_values(np.stack([self._picture(*item) for item in items])),
            "captions": [self._caption(*item) for item in items],
            "index": torch.tensor(indices),
            "position": torch.tensor(positions),
        }

    def _picture(self, position: int, index: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng([self.seed, CROP_STREAM, position])
        top, left = rng.integers(0, SIZE - self.crop + 1, 2)
        return self.pictures[index, top : top + self.crop, left : left + self.crop]

    def _caption(self, position: int, index: int) -> str:
        if not self.scenes[index].background:
            return ""
        rng = np.random.default_rng([self.seed, CAPTION_STREAM, position])
        if index >= self.first_textured:
            return caption(self.scenes[index], rng, texture_named=1.0)
        return caption(self.scenes[index], rng)


def _as_it_is(batch: Any) -> Any:
    return batch


def to_pixel_values(pictures: NDArray[np.uint8]) -> Tensor:
    """`[B, H, W, 3]` uint8 to `[B, 3, H, W]` float32 in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(127.5).sub(1)
