"""Offset noise: a share of the training noise is one number per picture and channel, so that brightness is learned too.

Imports no torch, so that a setting that cannot be is refused before anything slow starts.
"""

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def offset_noise(noise: "Tensor", offset: "Tensor", *, noise_offset: float) -> "Tensor":
    """`noise + noise_offset · offset`, `[B, C, h, w]`, as `--noise_offset` of diffusers' training scripts adds it.

    The variance of a channel's mean over space grows from `1/(h w)` to `1/(h w) + noise_offset²`. The sum is the noise
    of the step in every way: it makes the noisy latents, and the ε or the velocity that is to be predicted.

    Args:
        noise: standard normal `[B, C, h, w]`.
        offset: standard normal `[B, C, 1, 1]`.
        noise_offset: 0.1 in DCO's style recipe (arXiv:2402.12004).
    """
    return noise + noise_offset * offset


def check_noise_offset(noise_offset: Any) -> None:
    """Raises:
    ValueError: it is no number, negative or not finite.
    """
    is_number = isinstance(noise_offset, int | float) and not isinstance(noise_offset, bool)
    if not is_number or not 0 <= noise_offset < math.inf:
        raise ValueError(
            f"module.noise_offset={noise_offset}: 0, which is none, or a positive number such as DCO's 0.1 is needed"
        )
