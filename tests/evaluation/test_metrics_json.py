"""How long a run and its evaluation took."""

import json
from time import perf_counter

import pytest

from evaluation.samples import write_metrics


def test_the_evaluation_s_seconds_stand_beside_the_training_s(tmp_path):
    record = {"steps": 4, "seconds": {"fit": 3.0}}
    write_metrics(tmp_path, record, started=perf_counter() - 100)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == record | {"seconds": {"fit": 3.0, "evaluation": pytest.approx(100, abs=5)}}
    assert record["seconds"] == {"fit": 3.0}


def test_a_run_that_is_judged_again_was_not_trained_here(tmp_path):
    write_metrics(tmp_path, {"steps": 4}, started=perf_counter() - 100)
    seconds = json.loads((tmp_path / "metrics.json").read_text())["seconds"]
    assert seconds == {"evaluation": pytest.approx(100, abs=5)}
