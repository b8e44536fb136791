"""Cosines of every embedding with every other one."""

from torch import Tensor
from torch.nn import functional as F


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """`[N, M]` in [-1, 1], float64: of each row of `one` `[N, D]` and each row of `other` `[M, D]`."""
    return F.normalize(one.double(), dim=1) @ F.normalize(other.double(), dim=1).T
