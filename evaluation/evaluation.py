"""What every evaluation of a finished run has in common: what it is given, and what it leaves."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from evaluation.samples import write_metrics
from report.page import write_report


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedRun:
    """A run to be judged.

    Args:
        model: the pretrained one, untouched: what was trained is loaded into it half-way.
        adapter: loads it.
        datamodule: of the run's data.
        run_dir: the run's folder.
        out_dir: where the evaluation writes; it may be the same folder.
        info: `steps` that the weights were trained for, the training's `seed`, experiment, `seconds` so far.
    """

    model: Any
    adapter: Any
    datamodule: Any
    run_dir: Path
    out_dir: Path
    info: dict[str, Any]


class Evaluation(ABC):
    """Judges a finished run; writes `metrics.json` and `report.html` beside what a subclass writes."""

    @abstractmethod
    def check(self, model: Any, data: Any) -> None:
        """Whether this evaluation can judge `model` on `data`, asked before training.

        Raises:
            ValueError: it cannot, with the reason.
        """

    @abstractmethod
    def evaluate(self, run: FinishedRun) -> dict[str, Any]:
        """Judges `run`, writes what belongs beside `metrics.json` and returns what stands in it beside `run.info`."""

    def __call__(
        self, model: Any, adapter: Any, datamodule: Any, *, run_dir: Path, out_dir: Path, info: dict[str, Any]
    ) -> Path:
        """Judges the run in `run_dir`; for the arguments see `FinishedRun`. `info` goes into `metrics.json`.

        Returns:
            The report's path.
        """
        started = perf_counter()
        run = FinishedRun(
            model=model, adapter=adapter, datamodule=datamodule, run_dir=run_dir, out_dir=out_dir, info=info
        )
        write_metrics(out_dir, info | self.evaluate(run), started=started)
        return write_report(out_dir, force=False)
