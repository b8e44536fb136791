"""Folders of benchmark runs are not mixed."""

import pytest

from benchmarks.pool import refuse_other


def test_a_folder_is_taken_up_again_with_the_same_settings_alone(tmp_path):
    refuse_other(tmp_path / "runs", {"steps": (0, 50)})
    (tmp_path / "runs" / "heart_face").mkdir()
    refuse_other(tmp_path / "runs", {"steps": (0, 50)})
    with pytest.raises(SystemExit, match="choose another --root"):
        refuse_other(tmp_path / "runs", {"steps": (0, 100)})


def test_runs_of_unknown_settings_are_refused(tmp_path):
    (tmp_path / "heart_face").mkdir()
    with pytest.raises(SystemExit, match="choose another --root"):
        refuse_other(tmp_path, {})
