"""The examples of docs/extend.md, each in one file outside this repository, in one run that knows nothing of them."""

import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.pictures import read_picture
from report.metrics_csv import read_metrics
from tests.runs import fit, train
from tests.test_docs import ROOT, blocks

GREYS = {"rex-0.png": 50, "rex-1.png": 100, "rex-2.png": 150}
FILES = ("mine", "album", "brightness", "late")


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with the examples' Python, their YAML below `my_conf`, and three pictures."""
    folder = tmp_path / "outside"
    for language, start in (("python", "# "), ("yaml", "# ")):
        for code in blocks(ROOT / "docs/extend.md", language):
            title = next(line for line in code.splitlines() if line.startswith(start) and "@package" not in line)
            path = folder / title.removeprefix(start)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")
    (folder / "photos").mkdir()
    for name, grey in GREYS.items():
        Image.new("RGB", (40, 32), (grey, grey, grey)).save(folder / "photos" / name)
    monkeypatch.syspath_prepend(folder)
    for name in FILES:
        assert (folder / f"{name}.py").is_file()
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_they_run_together_with_no_edit_here(outside, tiny_sd, tmp_path, monkeypatch):
    late, unguided = importlib.import_module("late"), []
    guided = late.Guided
    monkeypatch.setattr(late, "Guided", lambda prediction: (unguided.append(1), guided(prediction))[1])
    run_dir = fit(
        tiny_sd,
        tmp_path / "run",
        f"hydra.searchpath=['{outside / 'my_conf'}']",
        "experiment=stabilized",
        "data=album",
        f"data.root='{outside / 'photos'}'",
        "+regularizer.mine._target_=mine.PredictionDistance",
        "+regularizer.mine.weight=0.1",
        "+evaluation.metrics.brightness._target_=brightness.Brightness",
        "guidance._target_=late.LateGuidance",
        steps=2,
    )
    curves = read_metrics(run_dir / "metrics.csv")
    assert curves["loss/mine"][1][1] > 0 and curves["loss/representation_stabilization"][1][1] > 0
    assert unguided  # in the first half of each picture's denoising
    record = json.loads((run_dir / "metrics.json").read_text())
    assert (record["subject"], record["evaluation"]["guidance"]["name"]) == ("Rex", "LateGuidance")
    brightness = record["metrics"]["brightness/mean_rgb"]
    assert brightness["counts"] == {"tuned": 1, "base": 1, "reference": 3}
    assert brightness["reference"] == pytest.approx(100 / 255)
    for name in ("tuned", "base"):
        (picture,) = [read_picture(path) for path in (run_dir / "samples" / name).glob("*.png")]
        assert brightness[name] == pytest.approx(np.asarray(picture).mean() / 255)
    shown = [read_picture(path) for path in sorted((run_dir / "references").glob("*.png"))]
    assert [np.unique(picture).tolist() for picture in shown] == [[grey] for grey in GREYS.values()]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # callbacks of the training
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .predict_dataloader. does not have many workers")
def test_the_page_on_prediction_draws_with_a_finished_run(tiny_sd, tmp_path, monkeypatch):
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dco_rescale", steps=2)
    (code,) = blocks(ROOT / "docs/how_to/predict.md", "python")
    (tmp_path / "draw.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["draw.py", str(run_dir)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(tmp_path / "draw.py"))
    pictures = {path.read_bytes() for path in tmp_path.glob("0-*.png")}
    assert len(pictures) == len(list(tmp_path.glob("*.png"))) == 4
