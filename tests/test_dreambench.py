"""DreamBench's table: means over subjects, and the published figures apart from them."""

import pytest

from benchmarks.dreambench import published, subjects, table


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
