"""Subject and style at once (DCO, arXiv:2402.12004): the adapters of several runs in one pipeline, with weights."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from diffusers import StableDiffusionPipeline

from lightning_modules.adapter import LoRA


def load_merged(pipeline: StableDiffusionPipeline, run_dirs: Sequence[Path], *, weights: Sequence[float]) -> None:
    """Adds the runs' adapters to a pretrained `pipeline`, where their updates are summed, each times its weight."""
    names = [f"run_{number}" for number in range(len(run_dirs))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are what is asked for
        for name, run_dir in zip(names, run_dirs, strict=True):
            pipeline.load_lora_weights(run_dir / LoRA.folder, adapter_name=name)
    pipeline.set_adapters(names, list(weights))
