"""What a perfect model would draw: the subjects as the evaluation prompts ask, the ceiling of what the judge reads."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datamodules.sprites.attributes import asked
from datamodules.sprites.painter import scene_as_asked
from datamodules.sprites.subjects import SUBJECTS, TEMPLATES
from datamodules.sprites.world import render

FRESH = 2_000_003  # a seed that neither the judge nor the generator was trained on


def rendered_as_asked(
    subjects: Sequence[str], *, num_prompts: int = len(TEMPLATES), copies: int = 10
) -> tuple[list[str], list[NDArray[np.uint8]]]:
    """The first evaluation prompts, with the noun alone, and pictures `[H, W, 3]` that show them, `copies` of each."""
    prompts, pictures = [], []
    for name in subjects:
        subject = SUBJECTS[name]
        for number, template in enumerate(TEMPLATES[:num_prompts]):
            prompt = " ".join(template.format(identifier="", class_word=subject.noun).split())
            for copy in range(copies):
                rng = np.random.default_rng([FRESH, list(SUBJECTS).index(name), number, copy])
                prompts.append(prompt)
                pictures.append(render(scene_as_asked(asked(prompt), rng, paint=subject.paint)))
    return prompts, pictures
