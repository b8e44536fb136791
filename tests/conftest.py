"""A Stable Diffusion folder and a ViT with random weights, small enough to build and train in a second."""

import os
from pathlib import Path

# Before torch is imported, for the tests and for the runs that they start: the models are so small that a second thread
# costs more than it gives, and two processes of `pytest -n 2` would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.tiny import save_tiny_sd, save_tiny_vit


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicts the noise."""
    return save_tiny_sd(tmp_path_factory.mktemp("tiny-sd"))


@pytest.fixture(scope="session")
def tiny_sd_v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predicts the velocity."""
    return save_tiny_sd(tmp_path_factory.mktemp("tiny-sd-v"), prediction_type="v_prediction")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vit(tmp_path_factory.mktemp("tiny-vit"))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.picture_metrics import save_tiny_clip  # which imports from here

    return save_tiny_clip(tmp_path_factory.mktemp("clips") / "tiny-clip")
