"""Long benchmarks: jobs side by side in processes of one thread each, under one bar, resumed where they stopped."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

ROOT = Path(__file__).parents[1]


def run_all(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, workers: int, what: str) -> None:
    """Calls `function(*job)` for every job, `workers` at a time; the first error is told at once."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_quiet)
    with Progress(*columns) as progress, pool:
        bar = progress.add_task(what, total=len(jobs))
        try:
            for future in as_completed([pool.submit(function, *job) for job in jobs]):
                future.result()
                progress.advance(bar)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an error is told now, not after all that waits
            raise


def _quiet() -> None:
    """In the workers: the benchmark has one progress bar, its own."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def fit(folder: Path, overrides: Sequence[str]) -> None:
    """What `python run.py <overrides>` does, with `folder` as its run folder, in a process that has torch already.

    What an interrupted run has left there begins anew.
    """
    import torch
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    import run as holdfast

    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*overrides, f"hydra.runtime.output_dir='{folder}'"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    holdfast.fit(cfg, folder)


def refuse_other(root: Path, made_with: Mapping[str, Any]) -> None:
    """Notes in `root` what its runs are made with.

    Raises:
        SystemExit: the folder's runs were made with something else, or nobody knows with what, and would be mixed
            with these.
    """
    note = root / "made_with.json"
    root.mkdir(parents=True, exist_ok=True)
    made_with = json.loads(json.dumps(made_with))  # a tuple is read back as a list
    if (json.loads(note.read_text()) if note.exists() else any(root.iterdir()) or made_with) != made_with:
        sys.exit(
            f"error: the runs in {root} were made with other overrides, configs or weights: choose another --root, or "
            "move them away"
        )
    note.write_text(json.dumps(made_with))


def recipe_hash(*assets: str) -> str:
    """Of all that decides a run beside its overrides: the configs, and the safetensors below these folders."""
    digest = sha256()
    weights = [path for folder in assets for path in (ROOT / folder).rglob("*.safetensors")]
    for path in sorted([*(ROOT / "conf").rglob("*.yaml"), *weights]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
