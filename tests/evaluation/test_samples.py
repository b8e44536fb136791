"""What lies beside pictures: what they were drawn with, well enough to draw them again; how long it took."""

import json
from time import perf_counter

import numpy as np
import pytest
from PIL import Image

import run
from evaluation.samples import write_metrics
from tests.runs import compose, train


def test_the_record_is_enough_to_draw_again(monkeypatch, tiny_sd, tmp_path):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dco_rescale", "optimizer.lr=5e-2")
    out_dir = tmp_path / "drawn"
    prompts = "prompts=['a sks heart','a heart']"
    settings = ["evaluation.seed=3", "evaluation.images_per_prompt=2", "guidance.guidance_scale=2"]
    run.sample(compose(out_dir, "task=sample", f"run='{run_dir}'", prompts, *settings), out_dir)
    record = json.loads((out_dir / "samples.json").read_text())
    assert record["runs"] == [{"run": str(run_dir), "experiment": "dco_rescale", "weight": 1.0}]
    assert (record["model"], record["resolution"]) == (str(tiny_sd), 32)
    assert (record["guidance"]["guidance_scale"], record["num_inference_steps"]) == (2, 2)
    assert [(each["prompt"], each["prior_prompt"]) for each in record["samples"]] == [
        ("a sks heart", "a heart"),
        ("a heart", "a heart"),
    ]
    pictures = {name for each in record["samples"] for name in each["pictures"]}
    assert pictures == {path.name for path in out_dir.glob("*.png")}

    again, guidance = tmp_path / "again", record["guidance"]
    assert guidance.pop("name") == "ParallelRescaledGuidance"
    keys = [f"guidance.{key}={value}" for key, value in guidance.items()]
    command = ["task=sample", f"run='{record['runs'][0]['run']}'", "guidance=parallel_rescaled", *keys]
    entry = record["samples"][0]
    command += [f"prompts=['{entry['prompt']}']", f"evaluation.seed={entry['seeds'][1]}"]
    command += ["evaluation.images_per_prompt=1"]
    run.sample(compose(again, *command), again)
    assert close(again / "00-0.png", out_dir / entry["pictures"][1])
    assert not close(again / "00-0.png", out_dir / entry["pictures"][0])


def close(one, other):
    """Whether two pictures are equal up to the rounding of batches of another size."""
    with Image.open(one) as first, Image.open(other) as second:
        return np.abs(np.asarray(first).astype(int) - np.asarray(second)).max() <= 1


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
