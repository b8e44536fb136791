"""Pairs of cluttered pictures of one object, for pretraining without labels."""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from datamodules.sprites.cluttered import cluttered_picture, draw_thing
from datamodules.sprites.pretraining import to_pixel_values
from datamodules.stream import Stream, StreamLoader

PICTURE_STREAM, PAIR_STREAM = 21, 22


class ClutteredPairsDataModule(L.LightningDataModule):
    """Batches of two pictures each of `batch_size` objects: `pixel_values` `[2 · B, 3, 64, 64]` in [-1, 1].

    Row `i` and row `B + i` show one object in two scenes.

    Args:
        num_things: objects, rendered once.
        pictures_per_thing: scenes of each (12 KiB a picture); a pair is drawn from them.
        batch_size: objects a batch.
        seed: decides objects, scenes and their order.
    """

    def __init__(self, *, num_things: int, pictures_per_thing: int, batch_size: int, seed: int) -> None:
        super().__init__()
        if pictures_per_thing < 2:
            raise ValueError(f"datamodule.pictures_per_thing={pictures_per_thing}: a pair needs at least 2")
        self.num_things, self.pictures_per_thing = num_things, pictures_per_thing
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        if not hasattr(self, "dataset"):
            self.dataset = _Pairs(self.num_things, self.pictures_per_thing, seed=self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        stream = Stream.of_trainer(self.trainer, self.num_things, self.batch_size, seed=self.seed)
        return StreamLoader(self.dataset, batch_sampler=stream, collate_fn=lambda batch: batch)


class _Pairs(Dataset[dict[str, Any]]):
    def __init__(self, num_things: int, pictures_per_thing: int, *, seed: int) -> None:
        self.seed = seed
        things = [draw_thing(np.random.default_rng([seed, index, PICTURE_STREAM])) for index in range(num_things)]
        self.pictures = np.stack(
            [
                np.stack(
                    [
                        cluttered_picture(np.random.default_rng([seed, index, number, PICTURE_STREAM]), thing).pixels
                        for number in range(pictures_per_thing)
                    ]
                )
                for index, thing in enumerate(track(things, "rendering the objects"))
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, Any]:
        positions, indices = zip(*items, strict=True)
        count = self.pictures.shape[1]
        pairs = [
            np.random.default_rng([self.seed, PAIR_STREAM, position]).choice(count, 2, replace=False)
            for position in positions
        ]
        views = [
            np.stack([self.pictures[i, pair[side]] for i, pair in zip(indices, pairs, strict=True)]) for side in (0, 1)
        ]
        return {"pixel_values": to_pixel_values(np.concatenate(views)), "position": torch.tensor(positions)}
