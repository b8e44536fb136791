"""The order of the pictures: an endless stream whose every position is a pure function of the seed.

A position counts samples over the whole run and over all processes. Resuming, the number of workers and DDP against one
process therefore agree by construction, and every random draw of a step is keyed by the position of its sample.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler


class Stream(Sampler[list[tuple[int, int]]]):
    """A batch sampler of `(position, index)` pairs.

    Args:
        size: number of items in the dataset.
        batch_size: items per process and batch.
        batches: length of the whole run in batches; `len()` stays this on resume, as Lightning counts from it.
        start: the batch to go on from.
        seed: decides the order.
        rank, world_size: which rows of each global batch this process draws.
    """

    def __init__(
        self, size: int, batch_size: int, *, batches: int, start: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.size, self.batch_size, self.batches, self.start = size, batch_size, batches, start
        self.seed, self.rank, self.world_size = seed, rank, world_size

    @classmethod
    def of_trainer(cls, trainer: Any, size: int, batch_size: int, *, seed: int) -> "Stream":
        """The rest of `trainer`'s run: from its own step, and of each global batch its process's rows."""
        return cls(
            size,
            batch_size,
            batches=trainer.max_steps * trainer.accumulate_grad_batches,
            start=trainer.global_step * trainer.accumulate_grad_batches,
            seed=seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in range(self.start, self.batches):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield [(position, self._index(position)) for position in range(first, first + self.batch_size)]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, self.size)
        return int(epoch_order(self.seed, epoch, self.size)[place])


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The permutation of epoch number `epoch`: every item once."""
    return np.random.default_rng([seed, epoch]).permutation(size)


class StreamLoader(DataLoader[Any]):
    """A loader over a `Stream`. Its state is empty: the stream starts at the trainer's own step."""

    def state_dict(self) -> dict[str, Any]:
        """What Lightning stores so as not to warn that the order is lost on resume: it is not."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to restore."""
