"""All that is written of a run's pictures: `samples/`, `references/`, `samples.json`, `metrics.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from datamodules.subject import Picture, PromptPair, Subject
from datamodules.subject_datamodule import square_tensor
from models.family import DiffusionFamily
from report.grid import picture_grid
from report.guidance import save_diagnostics
from sampling.guidance import Guidance
from sampling.sampler import sample_guided

_SHOWN = 8  # prompts of grid.png


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
    """Draws each prompt from the seeds `seed`, `seed + 1`, … into `folder/<prompt number>-<copy>.png` (`task=sample`).

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
    names = _save_numbered(folder, pictures, images_per_prompt)
    record = info | {
        "model": model.pretrained,
        "resolution": model.resolution,
        "guidance": {"name": type(guidance).__name__, **guidance.settings},
        "num_inference_steps": model.num_inference_steps,
        "samples": [
            {"prompt": pair.instance, "prior_prompt": pair.prior, "pictures": own, "seeds": seeds}
            for pair, own in zip(prompts, names, strict=True)
        ],
    }
    (folder / "samples.json").write_text(json.dumps(record, indent=2))
    save_diagnostics(diagnostics, [pair.instance for pair in prompts], folder)


def save_compared(
    folder: Path,
    pairs: Sequence[PromptPair],
    subject: Subject,
    *,
    base: Sequence[Image.Image],
    tuned: Sequence[Image.Image],
    diagnostics: Any,
) -> None:
    """Both models' pictures into `folder/base` and `folder/tuned`, `samples.json` and `grid.png` beside them.

    Args:
        pairs: the prompts; as many pictures of each one side by side.
        diagnostics: of the tuned model's guidance.
    """
    copies = len(base) // len(pairs)
    entries = [{"prompt": pair.instance, "prior_prompt": pair.prior, "base": [], "tuned": []} for pair in pairs]
    for kind, pictures in (("base", base), ("tuned", tuned)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for entry, names in zip(entries, _save_numbered(folder / kind, pictures, copies), strict=True):
            entry[kind] = [f"{kind}/{name}" for name in names]
    (folder / "samples.json").write_text(json.dumps(entries, indent=2))
    save_diagnostics(diagnostics, [pair.instance for pair in pairs], folder)
    firsts = slice(0, _SHOWN * copies, copies)
    references = [picture.image for picture in subject.train]
    grid = picture_grid([pair.instance for pair in pairs[:_SHOWN]], references, base[firsts], tuned[firsts])
    grid.save(folder / "grid.png")


def _save_numbered(folder: Path, pictures: Sequence[Image.Image], copies: int) -> list[list[str]]:
    """Saves `<prompt number>-<copy>.png`; the names of each prompt's pictures."""
    names = [f"{number // copies:02d}-{number % copies}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(folder / name)
    return [names[first : first + copies] for first in range(0, len(names), copies)]


def save_references(subject: Subject, folder: Path, resolution: int) -> None:
    """Training pictures into `folder`, held-out ones into `folder/heldout`, as the model sees them."""
    groups: tuple[tuple[Path, tuple[Picture, ...]], ...] = (
        (folder, subject.train),
        (folder / "heldout", subject.heldout),
    )
    for target, pictures in groups:
        target.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            pixels = square_tensor(picture.image, resolution).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(target / f"{number:02d}.png")


def write_metrics(out_dir: Path, record: Mapping[str, Any], *, started: float) -> None:
    """Writes `record` to `out_dir`, with `seconds.evaluation` beside the other `seconds` that it may have.

    Args:
        started: `perf_counter()` when the evaluation began. The figure is of its drawing and scoring: as in `fit`, the
            model was loaded before, and the report, which shows it, is written after.
    """
    seconds = {**record.get("seconds", {}), "evaluation": perf_counter() - started}
    (out_dir / "metrics.json").write_text(json.dumps({**record, "seconds": seconds}, indent=2))


def evenly(count: int, chosen: int) -> list[int]:
    """`chosen` of the numbers below `count`, evenly apart, with the first and the last; all where they are fewer."""
    return sorted({round(each) for each in np.linspace(0, count - 1, min(chosen, count))})
