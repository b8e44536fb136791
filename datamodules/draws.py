"""Random numbers that are pure functions of (seed, stream, position of the sample): nothing to store."""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class DrawStream(IntEnum):
    """What a number is drawn for; the subject's rows and the class images' rows never share one."""

    TIMESTEP = 0
    NOISE = 1
    POSTERIOR = 2
    AUGMENT = 3
    WARP = 4
    CLASS_TIMESTEP = 5
    CLASS_NOISE = 6
    CLASS_POSTERIOR = 7
    VALIDATION_NOISE = 8
    MIXING = 9
    TOKEN = 10
    NOISE_OFFSET = 11
    CLASS_NOISE_OFFSET = 12


_OFFSETS = {DrawStream.NOISE: DrawStream.NOISE_OFFSET, DrawStream.CLASS_NOISE: DrawStream.CLASS_NOISE_OFFSET}


def generator(seed: int, stream: DrawStream, position: int) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for every sample; its counter runs in the lowest word."""
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=[0, 0, 0, position]))


def normal(seed: int, stream: DrawStream, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 `[B, *shape]` on the CPU, one row for each of `positions` `[B]`."""
    rows = [generator(seed, stream, p).standard_normal(shape, np.float32) for p in positions.tolist()]
    return torch.from_numpy(np.stack(rows))


def noise(seed: int, stream: DrawStream, positions: Tensor, shape: tuple[int, ...], *, noise_offset: float) -> Tensor:
    """`normal` noise `[B, C, h, w]` with `offset_noise` from a stream of its own; at 0 nothing but `normal` is drawn.

    Args:
        stream: `NOISE` or `CLASS_NOISE`.
        shape: `(C, h, w)`.
        noise_offset: see `offset_noise`.
    """
    drawn = normal(seed, stream, positions, shape)
    if noise_offset == 0:
        return drawn
    offset = normal(seed, _OFFSETS[stream], positions, (shape[0], 1, 1))
    return offset_noise(drawn, offset, noise_offset=noise_offset)


def integers(seed: int, stream: DrawStream, positions: Tensor, high: int) -> Tensor:
    """Uniform int64 `[B]` in [0, high), on the CPU."""
    return torch.tensor([int(generator(seed, stream, p).integers(high)) for p in positions.tolist()])


def times(seed: int, stream: DrawStream, positions: Tensor, draw: Callable[[np.random.Generator], float]) -> Tensor:
    """Times `t`, float32 `[B]` in [0, 1), on the CPU; `draw` is a noise process' own."""
    return torch.tensor([draw(generator(seed, stream, p)) for p in positions.tolist()])


def uniform(seed: int, stream: DrawStream, positions: Tensor) -> Tensor:
    """Uniform float32 `[B]` in [0, 1), on the CPU."""
    return torch.tensor([generator(seed, stream, p).random(dtype=np.float32) for p in positions.tolist()])


def offset_noise(noise: Tensor, offset: Tensor, *, noise_offset: float) -> Tensor:
    """`noise + noise_offset · offset`, `[B, C, h, w]`, as `--noise_offset` of diffusers' training scripts adds it.

    The variance of a channel's mean over space grows from `1/(h w)` to `1/(h w) + noise_offset²`. The sum is the noise
    of the step in every way: it makes the noisy latents, and the ε or the velocity that is to be predicted.

    Args:
        noise: standard normal `[B, C, h, w]`.
        offset: standard normal `[B, C, 1, 1]`.
        noise_offset: 0.1 in DCO's style recipe (arXiv:2402.12004).
    """
    return noise + noise_offset * offset
