"""`metrics.json`: what a run's evaluation says of it, and how long the run and its evaluation took."""

import json
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import Any


def write_metrics(out_dir: Path, record: Mapping[str, Any], *, started: float) -> None:
    """Writes `record` to `out_dir`, with `seconds.evaluation` beside the other `seconds` that it may have.

    Args:
        started: `perf_counter()` when the evaluation began. The figure is of its drawing and scoring: as in `fit`, the
            model was loaded before, and the report, which shows it, is written after.
    """
    seconds = {**record.get("seconds", {}), "evaluation": perf_counter() - started}
    (out_dir / "metrics.json").write_text(json.dumps({**record, "seconds": seconds}, indent=2))
