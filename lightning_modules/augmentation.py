"""APT's augmentation (arXiv:2507.02687): zoom out, rotate and shift a picture on a black canvas of its own size."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as TF


@dataclass(frozen=True, slots=True)
class Warp:
    """One draw: zoomed out `zoom` times (≥ 1), turned by `angle` degrees, its centre moved by `shift` (x, y).

    `shift` is in half canvas widths: (1, 0) would put the picture's centre on the right edge.
    """

    zoom: float
    angle: float
    shift: tuple[float, float]


def draw_warp(rng: np.random.Generator, *, max_zoom: float, degrees: float, max_shift: float) -> Warp:
    """Zoom in [1, `max_zoom`] and angle in ±`degrees`, uniform (APT); shift uniform within the freed border.

    Args:
        max_shift: bound of the shift, in half canvas widths; not stated in the sources, their figure shows about .08.
    """
    zoom = rng.uniform(1, max_zoom)
    reach = min(max_shift, 1 - 1 / zoom)
    return Warp(zoom, rng.uniform(-degrees, degrees), (rng.uniform(-reach, reach), rng.uniform(-reach, reach)))


def warp_picture(picture: Tensor, warp: Warp, *, border: str) -> tuple[Tensor, Tensor]:
    """The warped picture and how much of each pixel it covers.

    Args:
        picture: float `[C, H, W]` with 0 for black.
        border: "black" leaves the freed canvas at 0; "reflect" fills it by mirroring, an option that is not stated in
            the sources.

    Returns:
        `[C, H, W]`, and the valid mask `[1, H, W]` in [0, 1].
    """
    height, width = picture.shape[-2:]
    # Shrunk with antialiasing first: the resampling below then never skips a pixel.
    small = TF.resize(picture, [max(1, round(height / warp.zoom)), max(1, round(width / warp.zoom))], antialias=True)
    radians = np.deg2rad(warp.angle)
    cos, sin = np.cos(radians) * warp.zoom, np.sin(radians) * warp.zoom
    x, y = warp.shift
    matrix = [[cos, sin, -cos * x - sin * y], [-sin, cos, sin * x - cos * y]]
    theta = torch.tensor([matrix], dtype=picture.dtype).to(picture.device, non_blocking=True)
    grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
    padding = "reflection" if border == "reflect" else "zeros"
    warped = F.grid_sample(small[None], grid, padding_mode=padding, align_corners=False)[0]
    valid = F.grid_sample(torch.ones_like(small[None, :1]), grid, align_corners=False)[0]
    return warped, valid
