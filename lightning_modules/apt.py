"""`APTDiffusionModule`: t is drawn first, the plug-ins decide from it which pictures are augmented before encoding."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.nn import functional as F

from checks.values import at_least, one_of
from datamodules import draws
from datamodules.draws import DrawStream
from lightning_modules.augmentation import draw_warp, warp_picture
from lightning_modules.diffusion import DiffusionModule


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """How a picture is augmented when a plug-in asks for it (APT, arXiv:2507.02687).

    Args:
        max_zoom: the picture is zoomed out by a factor in [1, max_zoom]; 3 in APT.
        degrees: and rotated within ±degrees; 15 in APT.
        max_shift: and shifted within the freed border, at most so many half canvas widths; not stated in the sources.
        border: "black", as in APT's figure, or "reflect".
        mask_border: leave the freed border out of the loss; not stated in the sources.
        bank: encode this many variants of every picture before training and draw from them, so that their encoder can
            leave the device; with 0 every augmentation is drawn and encoded afresh.
    """

    max_zoom: float
    degrees: float
    max_shift: float
    border: str
    mask_border: bool
    bank: int

    def __post_init__(self) -> None:
        at_least("module.augmentation.max_zoom", self.max_zoom, 1, what="by which pictures are zoomed out")
        one_of("module.augmentation.border", self.border, ("black", "reflect"))


class APTDiffusionModule(DiffusionModule):
    """`DiffusionModule` with adaptive augmentation in pixel space, before the VAE.

    Un-augmented latents come from the cache; augmented ones are encoded in the step, or come from a bank.

    Args:
        augmentation: how to augment.
        **kwargs: see `DiffusionModule`.
    """

    augments = True

    def __init__(self, *, augmentation: Augmentation, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.augmentation = augmentation
        self.encodes_while_training = self.augmenting is not None and not augmentation.bank

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.augmenting is None:
            rank_zero_info(
                "no picture is augmented: model.indicator_augmentation=true lets the overfitting indicator do it"
            )
        elif self.augmentation.bank:
            self.model.move_encoders(self.device)
            variants = torch.arange(self.augmentation.bank)
            self._bank = [
                self._encode_variants(picture.expand(len(variants), -1, -1, -1), variants + number * len(variants))
                for number, picture in enumerate(self.pictures)
            ]
            self.release_encoders()

    def instance_latents(self, positions: Tensor, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        moments = self._moments[self.send(index)]
        chosen = self._augmented_rows(positions, t)
        mask = torch.ones_like(moments[:, :1]) if self.augmentation.mask_border else None
        if chosen.any():
            augmented, valid = self._augmented(positions[chosen], index[chosen])
            rows = self.send(chosen.nonzero().flatten())
            moments[rows] = augmented
            if mask is not None:
                mask[rows] = valid
        if self.augmenting and self.is_logged_step:
            share = chosen.float().mean().to(self.device)
            self.log("augmentation/share", share, batch_size=len(index), sync_dist=True)
        return self._draw_latents(moments, positions, DrawStream.POSTERIOR), mask

    def _augmented_rows(self, positions: Tensor, t: Tensor) -> Tensor:
        """Which rows are augmented, bool `[B]` on the CPU."""
        if self.augmenting is None:
            return torch.zeros(len(positions), dtype=torch.bool)
        probability = self.augmenting.augmentation_probability(t)
        assert probability is not None
        return draws.uniform(self.seed, DrawStream.AUGMENT, positions) < probability

    def _augmented(self, positions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Moments `[N, 2 C, h, w]` and valid masks `[N, 1, h, w]` of augmented pictures, encoded in one call."""
        if not self.augmentation.bank:
            return self._encode_variants(self.pictures[index], positions)
        variants = draws.integers(self.seed, DrawStream.WARP, positions, self.augmentation.bank)
        picked = [(self._bank[i][0][v], self._bank[i][1][v]) for i, v in zip(index, variants, strict=True)]
        moments, valid = zip(*picked, strict=True)
        return torch.stack(moments), torch.stack(valid)

    @torch.no_grad()
    def _encode_variants(self, pictures: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Moments `[N, 2 C, h, w]` and masks `[N, 1, h, w]` of uint8 `pictures`, each under its position's warp."""
        settings = self.augmentation
        warps = [
            draw_warp(
                draws.generator(self.seed, DrawStream.WARP, position),
                max_zoom=settings.max_zoom,
                degrees=settings.degrees,
                max_shift=settings.max_shift,
            )
            for position in positions.tolist()
        ]
        pixels = self.send(pictures).float()
        with torch.autocast(self.device.type, enabled=False):  # in bfloat16 the grid would be too coarse
            drawn = [warp_picture(*pair, border=settings.border) for pair in zip(pixels, warps, strict=True)]
            warped, valid = zip(*drawn, strict=True)
            moments = self.model.encode_pictures(torch.stack(warped))
        return moments, F.adaptive_avg_pool2d(torch.stack(valid), (moments.shape[-2], moments.shape[-1]))
