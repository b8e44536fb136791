"""Lanes of a side-by-side timing: runs under Lightning's Trainer and plain functions, in blocks that alternate."""

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from threading import Semaphore, Thread
from time import perf_counter
from typing import Any

import lightning.pytorch as L
import lightning.pytorch.callbacks.progress.rich_progress as rich_progress
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from benchmarks.shared.pool import composed

NOWHERE = open(os.devnull, "w")  # noqa: SIM115  as long as the process


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class FunctionLane:
    """Blocks of a plain function's calls, timed; `before` and `after` are not."""

    def __init__(
        self, step: Callable[[], Any], *, before: Callable[[], Any] = int, after: Callable[[], Any] = int
    ) -> None:
        self.step, self.before, self.after = step, before, after

    def block(self, steps: int) -> float:
        """Seconds a step."""
        self.before()
        synchronize()
        began = perf_counter()
        for _ in range(steps):
            self.step()
        synchronize()
        seconds = perf_counter() - began
        self.after()
        return seconds / steps


class TrainerLane(L.Callback):
    """A run under Lightning's Trainer that halts at the start of a batch and goes on for a block when it is told to.

    It fits in a thread of its own, of which the main thread always waits: one of all lanes runs at a time. A block is
    timed from the start of its first batch to the start of the batch after its last.
    """

    def __init__(self, overrides: list[str], *, steps: int) -> None:
        self._left, self._began, self._seconds = 0, 0.0, 0.0
        self._go, self._halted = Semaphore(0), Semaphore(0)
        self._error: BaseException | None = None
        cfg = compose_run([*overrides, f"trainer.max_steps={steps + 1}", "+trainer.limit_val_batches=0", "logger=csv"])
        self.cfg, self.module, self.datamodule, self.trainer = build(cfg, self)
        self._thread = Thread(target=self._fit, daemon=True)
        self._thread.start()
        self._wait()
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # the bar has taken them, errors would go nowhere

    def block(self, steps: int) -> float:
        """Seconds a step."""
        self._left = steps
        self._go.release()
        self._wait()
        return self._seconds / steps

    def finish(self) -> None:
        self._left = 1
        self._go.release()
        self._thread.join()

    def on_train_batch_start(self, *args: Any) -> None:
        if self._left == 0:
            synchronize()
            self._seconds = perf_counter() - self._began
            self._halted.release()
            self._go.acquire()
            self._began = perf_counter()
        self._left -= 1

    def _wait(self) -> None:
        self._halted.acquire()
        if self._error is not None:
            raise self._error

    def _fit(self) -> None:
        try:
            self.trainer.fit(self.module, datamodule=self.datamodule)
        except BaseException as error:
            self._error = error
        self._halted.release()


def timed(
    lanes: Mapping[str, FunctionLane | TrainerLane], *, rounds: int, block: int, warmup: int,
    warm: Callable[[], Any] = int, after_round: Callable[[], Any] = int,
) -> dict[str, list[float]]:  # fmt: skip
    """Milliseconds a step of each lane, block by block, forth and back so that drift of the machine hits all alike.

    `warm` is called behind the warm-up, `after_round` behind every round.
    """
    for lane in lanes.values():
        lane.block(warmup)
    warm()
    times: dict[str, list[float]] = {name: [] for name in lanes}
    for number in range(rounds):
        for name in list(lanes)[:: -1 if number % 2 else 1]:
            times[name].append(1e3 * lanes[name].block(block))
        after_round()
    return times


def compose_run(overrides: list[str]) -> DictConfig:
    """The config that `python run.py <overrides>` would run, in a run folder that ends with this process."""
    folder = tempfile.TemporaryDirectory(prefix="holdfast_")
    _FOLDERS.append(folder)
    return composed(Path(folder.name), overrides)


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # one that nobody refers to is removed


def build(cfg: DictConfig, *lanes: L.Callback) -> tuple[DictConfig, Any, Any, L.Trainer]:
    """Module, data and trainer as `run.fit` makes them, with `lanes` among the callbacks."""
    from report.metrics_csv import MetricsCSV

    L.seed_everything(cfg.seed, verbose=False)
    datamodule = instantiate(cfg.datamodule, instantiate(cfg.data))
    module = instantiate(cfg.module)
    callbacks = [*lanes, *instantiate(cfg.callbacks).values(), *module.regularizers.values()]
    logger = [MetricsCSV(HydraConfig.get().runtime.output_dir)]
    return cfg, module, datamodule, instantiate(cfg.trainer, callbacks=callbacks, logger=logger)


def draw_bars_nowhere() -> None:
    """Bars draw in full, each to a terminal of its own that shows nothing."""
    rich_progress.get_console = lambda: Console(file=NOWHERE, force_terminal=True, width=120)
    rich_progress.reconfigure = lambda **kwargs: None


def lines(name: str, values: list[float], unit: str) -> str:
    """A row of the printed table: minimum, median and maximum."""
    return f"{name:<44}{min(values):>9.3f}{median(values):>9.3f}{max(values):>9.3f}  {unit}"
