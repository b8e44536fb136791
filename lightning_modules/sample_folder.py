"""`task=sample`: pictures of any prompts by a finished run, into a folder."""

from collections.abc import Sequence
from pathlib import Path

from datamodules.subject import PromptPair
from lightning_modules.guidance import Guidance
from lightning_modules.sampling import sample_guided
from lightning_modules.stable_diffusion import StableDiffusion
from report.guidance import save_diagnostics


def sample_to_folder(
    model: StableDiffusion,
    prompts: Sequence[PromptPair],
    guidance: Guidance,
    folder: Path,
    *,
    images_per_prompt: int,
    seed: int,
) -> None:
    """Draws each prompt from the seeds `seed`, `seed + 1`, … into `folder/<prompt number>-<copy>.png`."""
    pictures, diagnostics = sample_guided(
        model,
        [pair for pair in prompts for _ in range(images_per_prompt)],
        guidance,
        seeds=[seed + copy for _ in prompts for copy in range(images_per_prompt)],
        description="drawing",
    )
    for number, picture in enumerate(pictures):
        picture.save(folder / "{:02d}-{}.png".format(*divmod(number, images_per_prompt)))
    save_diagnostics(diagnostics, [pair.instance for pair in prompts], folder)
