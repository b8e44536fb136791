"""A regulariser in a file that this repository knows nothing of, named by `_target_` on the command line."""

import sys
from pathlib import Path

import pytest

from report.metrics_csv import read_metrics
from tests.runs import adapter_weights, checkpoint, same, train

SOURCE = '''
from callbacks.regularizer import Regularizer
from callbacks.step import Needs, TermOutput


class Mine(Regularizer):
    """Mean square of the features of the middle block, and a count of the steps."""

    needs = Needs(sites=frozenset({"mid_block"}))

    def __init__(self, *, weight, power=2):
        super().__init__(weight=weight)
        self.power, self.steps = power, 0

    def loss(self, step):
        self.steps += 1
        features = step.student.captured["mid_block"]
        return TermOutput(features.abs().pow(self.power).mean(), {"largest": features.detach().abs().max()})

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state_dict):
        self.steps = state_dict["steps"]
'''
NAMED = ("experiment=dreambooth", "+regularizer.mine._target_=mine.Mine")


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    for name in ("mine", "idle"):
        monkeypatch.delitem(sys.modules, name, raising=False)  # every test has a file of its own


def test_it_trains_logs_and_is_in_the_checkpoint(monkeypatch, tiny_sd, tmp_path):
    every = "callbacks.model_checkpoint.every_n_train_steps=2"
    run_dir = train(monkeypatch, tiny_sd, tmp_path / "run", *NAMED, "+regularizer.mine.weight=0.1", every)
    curves = read_metrics(run_dir / "metrics.csv")
    assert [step for step, _ in curves["loss/mine"]] == [0, 1, 2, 3]
    assert all(value > 0 for _, value in curves["loss/mine"]) and len(curves["mine/largest"]) == 4
    for total, mine, denoising in zip(curves["loss/total"], curves["loss/mine"], curves["loss/denoising"], strict=True):
        assert total[1] == pytest.approx(0.1 * mine[1] + denoising[1], rel=1e-5)
    assert checkpoint(run_dir / "checkpoints/last.ckpt")["callbacks"]["regularizer/mine"] == {"steps": 4}


def test_it_ablates(monkeypatch, tiny_sd, tmp_path):
    def adapter(name: str, *overrides: str):
        return adapter_weights(train(monkeypatch, tiny_sd, tmp_path / name, *overrides))

    without = adapter("without", "experiment=dreambooth")
    assert same(adapter("zero", *NAMED, "+regularizer.mine.weight=0"), without)
    assert not same(adapter("with", *NAMED, "+regularizer.mine.weight=10"), without)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
def test_its_state_is_resumed(monkeypatch, tiny_sd, tmp_path):
    named = (*NAMED, "+regularizer.mine.weight=0.1", "callbacks.model_checkpoint.every_n_train_steps=2")
    first = train(monkeypatch, tiny_sd, tmp_path / "first", *named)
    path = f"ckpt_path='{first}/checkpoints/last.ckpt'"
    second = train(monkeypatch, tiny_sd, tmp_path / "second", *named, path, steps=6)
    assert checkpoint(second / "checkpoints/last.ckpt")["callbacks"]["regularizer/mine"] == {"steps": 6}


def test_a_plugin_that_does_nothing_is_refused(monkeypatch, tiny_sd, tmp_path):
    (tmp_path / "elsewhere/idle.py").write_text(
        "from callbacks.regularizer import Regularizer\nclass Idle(Regularizer):\n    pass\n"
    )
    with pytest.raises(Exception, match=r"regularizer\.idle overrides none of"):
        train(monkeypatch, tiny_sd, tmp_path / "run", "experiment=dreambooth", "+regularizer.idle._target_=idle.Idle")


def test_a_site_that_does_not_exist_is_refused(monkeypatch, tiny_sd, tmp_path):
    (tmp_path / "elsewhere/mine.py").write_text(SOURCE.replace('{"mid_block"}', '{"mid_blok"}'))
    with pytest.raises(Exception, match="site 'mid_blok' matches no submodule"):
        train(monkeypatch, tiny_sd, tmp_path / "run", *NAMED, "+regularizer.mine.weight=0.1")
