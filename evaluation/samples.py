"""`task=sample`: pictures of any prompts by a finished run, into a folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from datamodules.subject import PromptPair
from models.family import DiffusionFamily
from report.guidance import save_diagnostics
from sampling.guidance import Guidance
from sampling.sampler import sample_guided


def sample_to_folder(
    model: DiffusionFamily,
    prompts: Sequence[PromptPair],
    guidance: Guidance,
    folder: Path,
    *,
    images_per_prompt: int,
    seed: int,
    info: dict[str, Any],
) -> None:
    """Draws each prompt from the seeds `seed`, `seed + 1`, … into `folder/<prompt number>-<copy>.png`.

    `samples.json` beside them says what they were drawn with.

    Args:
        info: goes into `samples.json` as it is (runs, weights).
    """
    seeds = [seed + copy for copy in range(images_per_prompt)]
    pictures, diagnostics = sample_guided(
        model,
        [pair for pair in prompts for _ in range(images_per_prompt)],
        guidance,
        seeds=seeds * len(prompts),
        description="drawing",
    )
    samples: list[dict[str, Any]] = []
    for number, pair in enumerate(prompts):
        names = [f"{number:02d}-{copy}.png" for copy in range(images_per_prompt)]
        for name, picture in zip(names, pictures[number * images_per_prompt :], strict=False):
            picture.save(folder / name)
        samples.append({"prompt": pair.instance, "prior_prompt": pair.prior, "pictures": names, "seeds": seeds})
    record = info | {
        "model": model.pretrained,
        "resolution": model.resolution,
        "guidance": {"name": type(guidance).__name__, **guidance.settings},
        "num_inference_steps": model.num_inference_steps,
        "samples": samples,
    }
    (folder / "samples.json").write_text(json.dumps(record, indent=2))
    save_diagnostics(diagnostics, [pair.instance for pair in prompts], folder)


def evenly(count: int, chosen: int) -> list[int]:
    """`chosen` of the numbers below `count`, evenly apart, with the first and the last; all where they are fewer."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(chosen, count))})


def write_metrics(out_dir: Path, record: Mapping[str, Any], *, started: float) -> None:
    """Writes `record` to `out_dir`, with `seconds.evaluation` beside the other `seconds` that it may have.

    Args:
        started: `perf_counter()` when the evaluation began. The figure is of its drawing and scoring: as in `fit`, the
            model was loaded before, and the report, which shows it, is written after.
    """
    seconds = {**record.get("seconds", {}), "evaluation": perf_counter() - started}
    (out_dir / "metrics.json").write_text(json.dumps({**record, "seconds": seconds}, indent=2))
