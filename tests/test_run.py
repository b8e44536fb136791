"""What `run.py` refuses before anything is imported or written."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

import run
from tests.runs import compose


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    run.refuse_existing(tmp_path, None)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FileExistsError, match="holds a run already"):
        run.refuse_existing(tmp_path, None)
    with pytest.raises(FileExistsError, match="holds a run already"):
        run.refuse_existing(tmp_path, str(tmp_path.parent / "other/checkpoints/last.ckpt"))


def test_an_unfinished_run_may_be_continued_in_place_but_no_finished_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    own = str(tmp_path / "checkpoints/last.ckpt")
    run.refuse_existing(tmp_path, own)
    (tmp_path / "report.html").touch()
    with pytest.raises(FileExistsError, match=r"report\.html"):
        run.refuse_existing(tmp_path, own)


@pytest.mark.parametrize("node", ["regularizer.mine", "callbacks.mine", "logger.mine", "optimizer", "adapter"])
def test_a_node_without_target_is_refused_by_name(tmp_path: Path, node: str) -> None:
    cfg = compose(tmp_path)
    OmegaConf.update(cfg, node, {"weight": 1.0}, force_add=True, merge=False)
    with pytest.raises(ValueError, match=f"{node} has no _target_"):
        run.check(cfg)
