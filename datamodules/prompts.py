"""Prompts for `trainer.predict`, each with a seed of its own: pictures are the same on any number of devices."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from datamodules.subject import PromptPair


def prompt_loader(
    prompts: Sequence[PromptPair], *, images_per_prompt: int, seed: int, batch_size: int
) -> DataLoader[Any]:
    """Copy `i` of each prompt from seed `seed + i`, as `task=sample` and the evaluation draw them.

    Lightning deals the prompts out to the devices. A batch is `{"instance": [str], "prior": [str], "seed": int64 [B]}`.
    """
    rows = [
        {"instance": prompt.instance, "prior": prompt.prior, "seed": seed + copy}
        for prompt in prompts
        for copy in range(images_per_prompt)
    ]
    return DataLoader(rows, batch_size=batch_size)  # type: ignore[arg-type]
