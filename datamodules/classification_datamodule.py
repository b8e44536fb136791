"""Feeds labelled pictures to a ViT: random crops and mirroring in training, one central crop otherwise."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from datamodules.classification import (
    ClassificationData,
    LabelledPicture,
    check_readable,
    read_image,
    read_mask,
)
from datamodules.stream import Stream, StreamLoader


class ClassificationDataModule(L.LightningDataModule):
    """Endless training batches `{"pictures": uint8 [B, 3, R, R], "labels", "index", "position": int64 [B]}`.

    What is random in a picture is drawn from the seed and its position: neither the workers nor a resume change it.

    Args:
        data: what is learned.
        resolution: side R of the pictures in pixels.
        batch_size: training pictures in a batch of one process.
        val_batch_size: pictures in a batch of validation and test.
        crop_scale: smallest and largest share of a training picture's area that its random crop shows.
        mirror: whether training pictures are mirrored, each with chance 1/2.
        crop_pct: R over the shorter side that validation and test pictures are resized to, before the central crop.
        num_workers: worker processes; the run does not depend on their number.
        seed: decides the order and the crops.

    Raises:
        ValueError: a number out of range, or a picture that cannot be read, named.
    """

    def __init__(
        self,
        data: ClassificationData,
        *,
        resolution: int,
        batch_size: int,
        val_batch_size: int,
        crop_scale: Sequence[float],
        mirror: bool,
        crop_pct: float,
        num_workers: int,
        seed: int,
    ) -> None:
        super().__init__()
        for name, value in (("batch_size", batch_size), ("val_batch_size", val_batch_size)):
            if value < 1:
                raise ValueError(f"datamodule.{name}={value}: at least 1 is needed")
        if not (len(crop_scale) == 2 and 0 < crop_scale[0] <= crop_scale[1] <= 1):
            raise ValueError(f"datamodule.crop_scale={list(crop_scale)}: smallest and largest share, 0 < a <= b <= 1")
        if not 0 < crop_pct <= 1:
            raise ValueError(f"datamodule.crop_pct={crop_pct}: above 0, at most 1")
        check_readable([*data.train, *data.validation, *data.test], "reading the pictures")
        self.data, self.resolution, self.crop_pct, self.seed = data, resolution, crop_pct, seed
        self.batch_size, self.val_batch_size, self.num_workers = batch_size, val_batch_size, num_workers
        crop = v2.RandomResizedCrop(
            resolution, scale=tuple(crop_scale), interpolation=InterpolationMode.BICUBIC, antialias=True
        )
        self._augment = v2.Compose([crop, v2.RandomHorizontalFlip(0.5 if mirror else 0.0)])

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        # Draws are made on the CPU, from positions: reading those back would wait for the accelerator.
        return moved | {"position": batch["position"]} if "position" in batch else moved

    def setup(self, stage: str) -> None:
        if self.trainer is not None and not self.data.validation:
            self.trainer.limit_val_batches = 0  # Lightning warns of an empty loader

    def train_dataloader(self) -> DataLoader[Any]:
        stream = Stream.of_trainer(self.trainer, len(self.data.train), self.batch_size, seed=self.seed)
        dataset = _TrainingPictures(self.data.train, self._augment, seed=self.seed)
        return StreamLoader(dataset, batch_sampler=stream, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[Any]:
        """What is held out of the training pictures; the test pictures are never looked at while training."""
        return self.loader(self.data.validation)

    def loader(self, pictures: Sequence[LabelledPicture], *, masks: bool = False) -> DataLoader[Any]:
        """Batches `{"pictures": uint8 [B, 3, R, R], "labels": [B]}` in order; `"masks": bool [B, R, R]` if asked."""
        dataset = _CentredPictures(pictures, resolution=self.resolution, crop_pct=self.crop_pct, masks=masks)
        return DataLoader(dataset, batch_size=self.val_batch_size, num_workers=self.num_workers)


class _TrainingPictures(Dataset[dict[str, Any]]):
    def __init__(self, pictures: Sequence[LabelledPicture], augment: v2.Transform, *, seed: int) -> None:
        self.pictures, self.augment, self.seed = pictures, augment, seed

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        position, index = item
        picture = self.pictures[index]
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            # Not torch.manual_seed, which keeps a stack trace for every accelerator that is not initialised yet.
            torch.default_generator.manual_seed(
                int(np.random.SeedSequence([self.seed, position]).generate_state(1, np.uint64)[0] >> 1)
            )
            pixels = self.augment(_tensor(picture))
        return {"pictures": pixels, "labels": picture.label, "index": index, "position": position}


class _CentredPictures(Dataset[dict[str, Any]]):
    def __init__(self, pictures: Sequence[LabelledPicture], *, resolution: int, crop_pct: float, masks: bool) -> None:
        self.pictures, self.masks = pictures, masks
        self.resolution, self.shorter_side = resolution, round(resolution / crop_pct)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict[str, Any]:
        picture = self.pictures[index]
        pixels = _tensor(picture)
        item: dict[str, Any] = {"pictures": self._crop(pixels, InterpolationMode.BICUBIC), "labels": picture.label}
        if self.masks:
            mask = torch.from_numpy(read_mask(picture)).to(torch.uint8)[None]
            item["masks"] = self._crop(mask, InterpolationMode.NEAREST_EXACT)[0].bool()
        return item

    def _crop(self, pixels: Tensor, interpolation: InterpolationMode) -> Tensor:
        resized = F.resize(pixels, [self.shorter_side], interpolation=interpolation, antialias=True)
        return F.center_crop(resized, [self.resolution, self.resolution])


def _tensor(picture: LabelledPicture) -> Tensor:
    return torch.from_numpy(np.array(read_image(picture))).permute(2, 0, 1)
