"""A wide ``metrics.csv`` that a resumed run continues as if it had never stopped."""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

_STEP = "step"


class MetricsCSV(Logger):
    """One row a step, one column a metric, in ``<save_dir>/metrics.csv``.

    Calls with the same step merge into one row, a later value replacing an earlier one. Columns stand in order of first
    appearance after ``step``; values are ``repr(float)``, and nothing in the file depends on the clock, so two files
    can be compared byte for byte. Lightning's ``epoch`` is dropped: a run is counted in steps.

    Resuming: Lightning numbers the row of a training step by the optimiser steps *before* it, and a checkpoint by those
    *after* it. A checkpoint of ``global_step`` n therefore knows the rows 0 … n-1, and ``resume_step=n`` cuts every row
    with ``step >= n``, then every column left without a value: the run that continues writes them again, at their
    place. The last row that stays, n-1, is logged only after Lightning has saved the checkpoint in
    ``on_train_batch_end``; a process killed between the two has lost it for good.

    Args:
        save_dir: folder of the run; made with the first row.
        resume_step: ``global_step`` of the checkpoint that the run continues from, None for a new run. Where no file
            exists, nothing had been logged yet, and a new one is begun.

    Raises:
        FileExistsError: a new run in a folder that already has a ``metrics.csv``.
        ValueError: ``resume_step`` is negative, or the existing file is not one that this class writes.
    """

    def __init__(self, save_dir: str | Path, resume_step: int | None = None) -> None:
        super().__init__()
        if resume_step is not None and resume_step < 0:
            raise ValueError(f"resume_step={resume_step}: give the checkpoint's global_step, 0 or more, or None")
        self.path = Path(save_dir) / "metrics.csv"
        self._columns: list[str] = []  # as in the file, without the step
        self._step = -1  # of the last row
        self._row: dict[str, float] = {}  # the last row, which may still grow
        self._row_start = 0  # its byte offset in the file
        self._dirty = False
        self._open(resume_step)

    @property
    def name(self) -> str:
        """Empty, so that Lightning adds no folder of that name."""
        return ""

    @property
    def version(self) -> str:
        """Empty, so that Lightning adds no folder of that name."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of ``metrics.csv``."""
        return str(self.path.parent)

    @property
    def root_dir(self) -> str:
        """The same folder."""
        return self.save_dir

    @property
    def log_dir(self) -> str:
        """The same folder."""
        return self.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Put scalars into the row of ``step``.

        Raises:
            ValueError: no step, a step before the last row's, or a metric called ``step``.
        """
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        if not values:
            return
        if step is None or step < self._step:
            raise ValueError(
                f"{self.path}: {', '.join(values)} logged at step {step}, but the last row is of step {self._step} and "
                "rows are only appended; log with the trainer's global_step (in validation: on_epoch=True)"
            )
        if _STEP in values:
            raise ValueError(f"{self.path}: a metric is called {_STEP!r}, the name of the step's column; rename it")
        if step > self._step:
            self.save()
            self._row_start = self.path.stat().st_size if self.path.exists() else 0
            self._step, self._row = step, {}
        self._row.update(values)
        self._dirty = True

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Do nothing: ``config.yaml`` has them."""

    @rank_zero_only
    def save(self) -> None:
        """Bring the last row to the file."""
        if not self._dirty:
            return
        new = [name for name in self._row if name not in self._columns]
        if new:
            self._widen(new)
        row = _line([self._step, *(repr(self._row[name]) if name in self._row else "" for name in self._columns)])
        # Lightning saves after every call: the row may be there already. Written before the cut, so that a kill between
        # the two leaves a whole row.
        with self.path.open("r+b") as file:
            file.seek(self._row_start)
            file.write(row)
            file.truncate()
        self._dirty = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Saves; a run too short to log anything leaves a header, so that its folder is complete."""
        self.save()
        if not self.path.exists():
            self.path.write_text(f"{_STEP}\n")

    def _open(self, resume_step: int | None) -> None:
        if rank_zero_only.rank != 0 or not self.path.exists():  # type: ignore[attr-defined]
            return
        if resume_step is None:
            raise FileExistsError(
                f"{self.path} exists: give the new run a folder of its own, or continue that run with resume_step"
            )
        columns, rows = _read(self.path)
        rows = [row for row in rows if int(row[0]) < resume_step]
        used = [0, *(i for i in range(1, len(columns)) if any(row[i] for row in rows))]
        lines = [_line([row[i] for i in used]) for row in ([columns, *rows] if rows else [])]
        _replace(self.path, b"".join(lines))
        if rows:
            self._columns = [columns[i] for i in used[1:]]
            self._step = int(rows[-1][0])
            self._row = {columns[i]: float(rows[-1][i]) for i in used[1:] if rows[-1][i]}
            self._row_start = sum(map(len, lines[:-1]))

    def _widen(self, new: list[str]) -> None:
        """Rewrite the file without its last row, which follows, and with empty cells for the new columns."""
        old = self.path.read_bytes()[: self._row_start].splitlines(keepends=True) if self.path.exists() else []
        self._columns += new
        padding = b"," * len(new) + b"\n"
        lines = [_line([_STEP, *self._columns]), *(line.rstrip(b"\n") + padding for line in old[1:])]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _replace(self.path, b"".join(lines))
        self._row_start = sum(map(len, lines))


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Read a ``metrics.csv``: column -> its (step, value) points, empty cells left out, columns in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not one that ``MetricsCSV`` writes; names file and line.
    """
    columns, rows = _read(Path(path))
    return {
        name: [(int(row[0]), float(row[i])) for row in rows if row[i]]
        for i, name in enumerate(columns)
        if name != _STEP
    }


def carry_over(metrics: Path, save_dir: Path) -> None:
    """Copies the curves of a resumed run into the new run's folder, where `MetricsCSV` cuts and continues them."""
    target = save_dir / metrics.name
    if metrics.is_file() and not target.exists():
        shutil.copy(metrics, target)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and checked rows; a last line without its end was torn by a kill and is left out."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    header, *rows = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))) or [[_STEP]]
    if header[:1] != [_STEP]:
        raise ValueError(f"{path}: the first column is {header[:1]}, not {_STEP!r}; MetricsCSV did not write this file")
    last = -1
    for number, row in enumerate(rows, start=2):
        try:
            step, _ = int(row[0]), [float(cell) for cell in row[1:] if cell]
        except (ValueError, IndexError):
            raise ValueError(f"{path}, line {number}: not a step and numbers: {row}; remove the line") from None
        if len(row) != len(header) or step <= last:
            raise ValueError(
                f"{path}, line {number}: {len(row)} cells of {len(header)}, step {step} after step {last}; rows need "
                "one cell a column and rising steps: remove the line"
            )
        last = step
    return header, rows


def _line(cells: list[Any]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue().encode()


def _replace(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        # mkstemp makes files for the owner only; a run folder is read by others too.
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
