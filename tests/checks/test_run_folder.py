"""A run folder is never written over."""

from pathlib import Path

import pytest

from checks.run_folder import refuse_existing


def test_a_run_is_never_written_over(tmp_path: Path) -> None:
    refuse_existing(tmp_path, None)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(FileExistsError, match="holds a run already"):
        refuse_existing(tmp_path, None)
    with pytest.raises(FileExistsError, match="holds a run already"):
        refuse_existing(tmp_path, str(tmp_path.parent / "other/checkpoints/last.ckpt"))


def test_an_unfinished_run_may_be_continued_in_place_but_no_finished_one(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    own = str(tmp_path / "checkpoints/last.ckpt")
    refuse_existing(tmp_path, own)
    (tmp_path / "report.html").touch()
    with pytest.raises(FileExistsError, match=r"report\.html"):
        refuse_existing(tmp_path, own)
