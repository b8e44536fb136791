"""Long benchmarks: jobs side by side in processes of one thread each, under one bar, resumed where they stopped."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from hashlib import sha256
from math import ceil
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from time import perf_counter
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.shared.command import ROOT


def run_all(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, workers: int, what: str) -> None:
    """Calls `function(*job)` for every job, `workers` at a time; the first error is told at once, and ends what waits.

    The first job that is done says, also where no bar is shown, how long the others will take.
    """
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    began = perf_counter()
    with Progress(*columns) as progress, pool:
        bar = progress.add_task(what, total=len(jobs))
        try:
            for done, future in enumerate(as_completed([pool.submit(function, *job) for job in jobs])):
                future.result()
                progress.advance(bar)
                if not done:
                    seconds = perf_counter() - began
                    left = minutes_left(seconds, len(jobs), workers)
                    print(f"{what}: the first of {len(jobs)} took {seconds:.0f} s, about {left:.0f} minutes are left")
        except BaseException as error:
            progress.print(f"{what} ends with the jobs that are at work: {type(error).__name__}: {error}")
            pool.shutdown(cancel_futures=True)  # none of those that wait
            raise


def minutes_left(seconds: float, jobs: int, workers: int) -> float:
    """When the first of `jobs` of one length is done, after `seconds`, and all other `workers` are about to be."""
    return seconds * (ceil(jobs / workers) - 1) / 60


def _start_worker() -> None:
    """Silence, for the benchmark has one progress bar, its own; and an end when it ends, even if it was killed.

    A worker that outlived it would take its next jobs, in a folder that the command's next start holds for its own.
    """
    Thread(target=_end_with_the_benchmark, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _end_with_the_benchmark() -> None:
    benchmark = parent_process()
    assert benchmark is not None  # this is a worker
    benchmark.join()
    os._exit(1)


def fit(folder: Path, overrides: Sequence[str]) -> None:
    """What `python run.py <overrides>` does, with `folder` as its run folder, in a process that has torch already.

    What an interrupted run has left there begins anew.
    """
    import torch

    import run as holdfast

    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    holdfast.fit(composed(folder, overrides), folder)


def claim(root: Path, made_with: Mapping[str, Any]) -> None:
    """Notes in `root` what its runs are made with, and keeps it for this process as long as that lives.

    Raises:
        SystemExit: the folder's runs were made with something else, or nobody knows with what, and would be mixed
            with these; or another process is at work in it.
    """
    note = root / "made_with.json"
    root.mkdir(parents=True, exist_ok=True)
    made_with = json.loads(json.dumps(made_with))  # a tuple is read back as a list
    if json.loads(note.read_text()) != made_with if note.exists() else any(root.iterdir()):
        sys.exit(
            f"error: the runs in {root} were made with other overrides, configs or weights: choose another --root, or "
            "move them away"
        )
    lock = FileLock(root / "lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except Timeout:
        sys.exit(f"error: another process is at work in {root}: wait for it, or choose another --root")
    _CLAIMED.append(lock)
    note.write_text(json.dumps(made_with))


_CLAIMED: list[BaseFileLock] = []  # a lock that nobody refers to is released


def recipe_hash(recipes: Iterable[Sequence[str]], *assets: str) -> str:
    """Of what decides these runs: their configs as far as they train or draw, and the safetensors below the folders.

    Args:
        recipes: overrides of run.py, for each kind of run.
    """
    digest = sha256()
    for overrides in recipes:
        cfg = OmegaConf.to_container(composed(Path(), overrides), resolve=True)
        decides = {key: node for key, node in cfg.items() if key not in _ASIDE}  # type: ignore[union-attr]
        decides["trainer"].pop("default_root_dir")
        digest.update(json.dumps(decides, sort_keys=True).encode())
    for path in sorted(path for folder in assets for path in (ROOT / folder).rglob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_ASIDE = ("callbacks", "logger", "evaluation", "name")  # they watch, and judge what was drawn


def composed(folder: Path, overrides: Sequence[str]) -> DictConfig:
    """The config that `python run.py <overrides>` is given for this run folder."""
    import run as _run  # noqa: F401  registers the resolvers that conf/ uses

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [*overrides, f"hydra.runtime.output_dir='{folder}'"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg
