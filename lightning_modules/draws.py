"""Random numbers that are pure functions of (seed, stream, position of the sample): nothing to store."""

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


def generator(seed: int, stream: DrawStream, position: int) -> np.random.Generator:
    """A counter-based generator (Philox) of its own for every sample; its counter runs in the lowest word."""
    return np.random.Generator(np.random.Philox(key=[seed, int(stream)], counter=[0, 0, 0, position]))


def normal(seed: int, stream: DrawStream, positions: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 `[B, *shape]` on the CPU, one row for each of `positions` `[B]`."""
    rows = [generator(seed, stream, p).standard_normal(shape, np.float32) for p in positions.tolist()]
    return torch.from_numpy(np.stack(rows))


def integers(seed: int, stream: DrawStream, positions: Tensor, high: int) -> Tensor:
    """Uniform int64 `[B]` in [0, high), on the CPU."""
    return torch.tensor([int(generator(seed, stream, p).integers(high)) for p in positions.tolist()])


def uniform(seed: int, stream: DrawStream, positions: Tensor) -> Tensor:
    """Uniform float32 `[B]` in [0, 1), on the CPU."""
    return torch.tensor([generator(seed, stream, p).random(dtype=np.float32) for p in positions.tolist()])
