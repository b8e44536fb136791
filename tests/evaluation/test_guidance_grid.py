"""One prompt over `w_con` and `s`: which cells there are, that each is drawn as by itself, and what a run shows."""

import json
from html import escape

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import run
from evaluation.drawings.guidance_grid import GuidanceGrid, guidance_cells
from report.grid import TILE
from report.guidance_grid import guidance_grid, guidance_grid_texts
from sampling.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ConsistencyGuidance,
    ParallelRescaledGuidance,
    PerPictureGuidance,
)
from tests.runs import compose, fit


def rescaled(**settings):
    defaults = {"rule": "constant", "scale": 0.5, "kappa": 0.2, "consistency_scale": 1.0, "start": 0.0, "stop": 0.8}
    return ParallelRescaledGuidance(guidance_scale=4.0, **(defaults | settings))


def test_the_run_s_own_values_are_put_among_the_others():
    cells = guidance_cells(rescaled(scale=0.3, consistency_scale=1.5), consistency_scales=[3, 1], scales=[1.0, 0])
    assert (cells.rows, cells.columns) == (["w_con=1", "w_con=1.5", "w_con=3"], ["s=0", "s=0.3", "s=1"])
    row, column = cells.own
    assert cells.guidances[row][column].settings == rescaled(scale=0.3, consistency_scale=1.5).settings
    assert cells.guidances[2][0].settings == rescaled(scale=0, consistency_scale=3).settings


def test_plain_consistency_guidance_is_the_cell_at_s_1():
    own = ConsistencyGuidance(guidance_scale=4.0, consistency_scale=2.0, start=0.1, stop=0.9)
    cells = guidance_cells(own, consistency_scales=[1], scales=[0.5])
    assert (cells.rows, cells.columns, cells.own) == (["w_con=1", "w_con=2"], ["s=0.5", "s=1"], (1, 1))
    predictions = {name: torch.randn(2, 4, 8, 8) for name in own.rows}
    at_own = cells.guidances[1][1](predictions, progress=0.5)
    assert_close(at_own.prediction, own(predictions, progress=0.5).prediction)


@pytest.mark.parametrize(("rule", "label"), [("cfg_clamp", "kappa=0.2"), ("negative_only", "s=0.5")])
def test_a_rule_without_one_s_has_a_column_of_its_own(rule, label):
    cells = guidance_cells(rescaled(rule=rule), consistency_scales=[1.0], scales=[0.0, 0.5])
    assert (cells.columns, cells.own) == (["s=0", "s=0.5", f"{rule} {label}"], (0, 2))
    assert [each.rule for each in cells.guidances[0]] == ["constant", "constant", rule]


def test_every_picture_is_guided_as_by_itself():
    guidances = [rescaled(), rescaled(scale=0.0, consistency_scale=3.0), rescaled(rule="cfg_clamp")]
    predictions = {name: torch.randn(3, 4, 8, 8) for name in ConsistencyGuidance.rows}
    together = PerPictureGuidance(guidances)
    together.begin()
    guided = together(predictions, progress=0.5)
    for number, guidance in enumerate(guidances):
        alone = guidance(predictions, progress=0.5)
        assert_close(guided.prediction[number], alone.prediction[number])
        for name, values in alone.diagnostics.items():
            assert_close(guided.diagnostics[name][number], values[number])


def test_guidances_that_keep_something_of_the_last_step_are_begun():
    settings = {"guidance_scale": 4.0, "eta": 0.0, "norm_threshold": 0.0}
    each = [AdaptiveProjectedGuidance(**settings, momentum=momentum) for momentum in (-0.5, 0.5)]
    together = PerPictureGuidance(each)
    predictions = {name: torch.randn(2, 4, 8, 8) for name in each[0].rows}
    drawn = []
    for _ in range(2):
        together.begin()
        drawn.append([together(predictions, progress=0.0).prediction for _ in range(2)])
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0][1], drawn[0][1][1])


def test_guidances_of_different_predictions_are_refused():
    with pytest.raises(ValueError, match=r"ParallelRescaledGuidance, ClassifierFreeGuidance: .* the same predictions"):
        PerPictureGuidance([rescaled(), ClassifierFreeGuidance(guidance_scale=4.0)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": -1}, r"guidance_grid\.prompt=-1"),
        ({"scales": [0, 2]}, r"guidance_grid\.scales=2: .*the parallel part"),
        ({"scales": 1}, r"guidance_grid\.scales=1: a list"),
        ({"consistency_scales": []}, r"guidance_grid\.consistency_scales=\[\]: a list"),
        ({"consistency_scales": [float("nan")]}, r"consistency_scales=nan"),
        ({"consistency_scales": ["much"]}, r"consistency_scales=much"),
    ],
)
def test_what_is_no_grid_is_refused_by_its_key(settings, message):
    with pytest.raises(ValueError, match=message):
        GuidanceGrid(**({"prompt": 0, "consistency_scales": [1.0], "scales": [0.5]} | settings))


def test_the_own_picture_is_framed():
    pictures = [Image.new("RGB", (8, 8), color) for color in ("black", "blue", "green", "yellow")]
    grid = guidance_grid(pictures, rows=["a", "b"], columns=["c", "d"], own=(1, 0))
    pixels = np.asarray(grid)
    red = (pixels == (214, 39, 40)).all(-1)
    green = (pixels == (0, 128, 0)).all(-1)
    inside = [(index.min(), index.max()) for index in np.nonzero(green)]
    assert [(index.min(), index.max()) for index in np.nonzero(red)] == [(a - 3, b + 3) for a, b in inside]
    assert green.sum() == TILE**2 and red.sum() == (TILE + 6) ** 2 - TILE**2
    with pytest.raises(ValueError, match="3 pictures for 2 rows × 2 columns"):
        guidance_grid(pictures[:3], rows=["a", "b"], columns=["c", "d"], own=(1, 0))


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": ["a"], "columns": ["b"], "own": [0, 1]}'])
def test_a_bad_record_is_refused_by_name(tmp_path, content):
    (tmp_path / "guidance_grid.json").write_text(content)
    with pytest.raises(ValueError, match=r"guidance_grid\.json: not the record"):
        guidance_grid_texts(tmp_path / "guidance_grid.json")


def test_a_run_draws_its_grid_and_shows_it(tiny_sd, tmp_path):
    settings = ["optimizer.lr=5e-2", "evaluation.guidance_grid.prompt=1", "model.inference_batch_size=5"]
    run_dir = fit(tiny_sd, tmp_path / "run", "experiment=dco_rescale", *settings)
    record = json.loads((run_dir / "samples/guidance_grid.json").read_text())
    entry = json.loads((run_dir / "samples/samples.json").read_text())[1]
    assert record["prompt"] == entry["prompt"]
    row, column = record["own"]
    assert (record["rows"][row], record["columns"][column]) == ("w_con=1", "s=0.5")

    with Image.open(run_dir / "samples/guidance_grid.png") as file:
        grid = np.asarray(file.convert("RGB")).astype(int)
    (top, bottom), (left, right) = ((i.min() + 3, i.max() - 2) for i in np.nonzero((grid == (214, 39, 40)).all(-1)))
    framed = grid[top:bottom:4, left:right:4]
    with Image.open(run_dir / "samples" / entry["tuned"][0]) as file:
        assert np.abs(framed - np.asarray(file)).max() <= 1  # batches of another size round otherwise
    below = grid[top + TILE + 8 : bottom + TILE + 8 : 4, left:right:4]
    assert np.abs(framed - below).max() > 1  # w_con=2 is another picture

    report = (run_dir / "report.html").read_text()
    assert escape(record["prompt"]) in report and "the run&#39;s own, w_con=1, s=0.5, is framed" in report
    told = json.loads((run_dir / "metrics.json").read_text())["evaluation"]["guidance_grid"]
    assert told == {"prompt": 1, "consistency_scales": [0.5, 1.0, 2.0, 3.0], "scales": [0.0, 0.5, 1.0]}

    command = ["task=evaluate", f"run='{run_dir}'", "evaluation.max_prompts=1"]
    out_dir = tmp_path / "none"
    run.evaluate(compose(out_dir, *command, "evaluation.guidance_grid=null"), out_dir)
    assert (out_dir / "report.html").exists() and not list(out_dir.glob("samples/guidance_grid.*"))
    with pytest.raises(ValueError, match=r"guidance_grid\.prompt=20: there are 20 evaluation prompts"):
        run.evaluate(compose(tmp_path / "far", *command, "evaluation.guidance_grid.prompt=20"), tmp_path / "far")
