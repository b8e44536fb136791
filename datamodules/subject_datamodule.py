"""Feeds a subject to a diffusion module: which picture comes at which position, nothing more.

A handful of pictures lies in memory, and the module keeps their latents, so a batch is a few integers; whatever is
random in a step is drawn from the positions.
"""

from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as F

from datamodules.stream import Stream, StreamLoader
from datamodules.subject import Picture, Subject


class SubjectDataModule(L.LightningDataModule):
    """Endless training batches `{"position": [B], "index": [B]}` (int64), and the subject's pictures as tensors.

    Args:
        subject: what is learned.
        resolution: pictures are resized on their shorter side and cropped in the centre to this side, in pixels.
        batch_size: pictures of the subject in a batch of one process.
        val_batch_size: rows in a batch of a validation.
        num_workers: worker processes; the run does not depend on their number.
        num_bins: timestep bins at which both models are compared in a validation.
        val_train_pictures: how many of the training pictures, the first ones, they are compared on beside the held-out
            ones.
        seed: decides the order.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        resolution: int,
        batch_size: int,
        val_batch_size: int,
        num_workers: int,
        num_bins: int,
        val_train_pictures: int,
        seed: int,
    ) -> None:
        super().__init__()
        positive = {
            "batch_size": batch_size,
            "val_batch_size": val_batch_size,
            "num_bins": num_bins,
            "val_train_pictures": val_train_pictures,
        }
        for name, value in positive.items():
            if value < 1:
                raise ValueError(f"datamodule.{name}={value}: at least 1 is needed")
        self.subject, self.val_batch_size = subject, val_batch_size
        self.batch_size, self.num_workers, self.num_bins, self.seed = batch_size, num_workers, num_bins, seed
        self.validation_train = subject.train[:val_train_pictures]
        self.train_pictures = picture_tensor(subject.train, resolution)
        self.heldout_pictures = picture_tensor(subject.heldout, resolution) if subject.heldout else None

    def train_dataloader(self) -> DataLoader[Any]:
        stream = Stream.of_trainer(self.trainer, len(self.subject.train), self.batch_size, seed=self.seed)
        return StreamLoader(_Positions(), batch_sampler=stream, num_workers=self.num_workers)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch  # a few integers, which the draws on the CPU want

    def val_dataloader(self) -> DataLoader[Any]:
        """Every held-out and measured training picture, in this order, at every bin: `{"index": [B], "bin": [B]}`."""
        count = len(self.subject.heldout) + len(self.validation_train)
        pairs = [{"index": i, "bin": b} for i in range(count) for b in range(self.num_bins)]
        return DataLoader(pairs, batch_size=self.val_batch_size)  # type: ignore[arg-type]


class _Positions(Dataset[dict[str, int]]):
    def __getitem__(self, item: tuple[int, int]) -> dict[str, int]:
        return {"position": item[0], "index": item[1]}


def picture_tensor(pictures: tuple[Picture, ...], resolution: int) -> Tensor:
    """The pictures as uint8 `[N, 3, resolution, resolution]`: shorter side resized, centre cropped."""
    return torch.stack([square_tensor(picture.image, resolution) for picture in pictures])


def square_tensor(image: Image.Image, resolution: int) -> Tensor:
    """One picture as uint8 `[3, resolution, resolution]`."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return F.center_crop(F.resize(tensor, [resolution], antialias=True), [resolution, resolution])
