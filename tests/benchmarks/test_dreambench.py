"""DreamBench's table: means over subjects, and the published figures apart from them; and the command that makes it."""

import json
import sys
from statistics import mean

import numpy as np
import pytest
from PIL import Image

from benchmarks import dreambench
from benchmarks.dreambench import METRICS, published, says_what_is_left, subjects, table
from tests.runs import cheap, compose


def figures(tuned):
    return {"dino": {"tuned": tuned, "base": 0.25, "reference": None}, "heldout": {"tuned": None, "base": 1.0}}


def test_a_row_is_the_mean_over_subjects_with_its_standard_error():
    lines = table({"dreambooth": [figures(0.5), figures(0.75)], "apt_dreambooth": [figures(0.25)]})
    assert lines[0] == "| | dino |"
    assert lines[2:] == [
        "| untouched model | 0.250 ± 0.000 |",
        "| real pictures | – |",
        "| dreambooth | 0.625 ± 0.125 |",  # (0.5, 0.75): standard deviation 0.1768, over the root of 2
        "| apt_dreambooth | 0.250 |",
    ]


def test_published_figures_are_those_of_the_methods_document():
    assert "| DreamBooth, Stable Diffusion | 0.668 | 0.803 | 0.305 |" in published()
    assert published()[0].startswith("| published |")


def test_a_folder_without_the_dataset_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--root is the folder `dataset`"):
        subjects(tmp_path)


def test_how_long_it_takes_is_said_where_it_is_known():
    assert says_what_is_left(6, 8, 2, None) == "6 of 8 runs are to be done, 2 at a time"
    assert says_what_is_left(6, 8, 2, 120).endswith(": 6 × 120 s / 2 processes, about 6 minutes")


def test_copies_are_looked_for_with_the_backbone_of_dino(tmp_path):
    data = ["data=dreambooth", "data.root=x", "data.subject=bear", "logger=csv"]
    metrics = compose(tmp_path, *data, *METRICS).evaluation.metrics
    assert list(metrics) == ["dino", "clip_i", "clip_t", "nearest_training_similarity"]
    assert metrics.nearest_training_similarity.backbone == metrics.dino.backbone


@pytest.fixture
def dataset(tmp_path):
    """Two subjects of noise, in the layout of google/dreambooth."""
    root, rng = tmp_path / "dataset", np.random.default_rng(0)
    for name in ("bear", "can"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{number:02}.png")
    (root / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nbear,stuffed animal\ncan,can\n\nPrompts\n\nObject Prompts\n\nprompt_list = [\n"
        "'a {0} {1} on water'.format(unique_token, class_token),\n'a red {0} {1}'.format(unique_token, class_token)\n]"
        "\n\nLive Subject Prompts\n\nprompt_list = [\n'a {0} {1} in a hat'.format(unique_token, class_token)\n]\n"
    )
    return root


def test_every_subject_is_trained_once_and_the_table_has_their_means(
    tiny_sd, tiny_vit, tmp_path, dataset, monkeypatch, capsys
):
    def in_this_process(function, jobs, *, workers, what):  # a new one imports everything anew
        for job in jobs:
            function(*job)

    monkeypatch.setattr(dreambench, "run_all", in_this_process)
    runs, out = tmp_path / "runs", tmp_path / "page.md"
    measured = ["evaluation/metrics=[image_similarity,nearest_training_similarity]"]
    names = ["image_similarity", "nearest_training_similarity"]
    measured += [f"evaluation.metrics.{name}.backbone='{tiny_vit}'" for name in names]
    options = ["--experiments", "dreambooth", "--runs", str(runs), "--out", str(out), "--seconds-per-run", "30"]
    overrides = [*cheap(tiny_sd, tmp_path / "run", steps=2), *measured]
    monkeypatch.setattr(sys, "argv", ["dreambench.py", "--root", str(dataset), *options, *overrides])
    dreambench.main()
    assert "2 of 2 runs are to be done, 1 at a time: 2 × 30 s / 1 processes" in capsys.readouterr().out
    figures = [
        json.loads((runs / "dreambooth" / name / "metrics.json").read_text())["metrics"] for name in ("bear", "can")
    ]
    columns = [f"{name}/{tiny_vit.name}" for name in names]
    rows = {}
    for line in [each for each in out.read_text().splitlines() if each.startswith("|")]:
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows.setdefault(name, cells)
    assert rows[""] == [*columns, "similarity/diffusion_features"]
    for label, kind in (("untouched model", "base"), ("dreambooth", "tuned")):
        means = [mean(each[column][kind] for each in figures) for column in columns]
        assert [cell.split(" ± ")[0] for cell in rows[label][:2]] == [f"{value:.3f}" for value in means]
    assert rows["real pictures"][1] == "–"  # none are held out
    assert rows["DreamBooth, Stable Diffusion"] == ["0.668", "0.803", "0.305"]

    page = out.read_text()
    assert "2 subjects, 2 pictures of each" in page
    dreambench.main()
    assert "0 of 2 runs are to be done" in capsys.readouterr().out and out.read_text() == page
