"""The models that come with the code are found from any folder, and what is written stays in the working folder."""

import pytest

from checks.assets import asset, with_assets
from tests.runs import compose
from tests.tiny import ROOT


def test_from_another_folder(monkeypatch, tmp_path):
    cfg = compose(tmp_path / "run", "experiment=dreambooth", "logger=csv")
    monkeypatch.chdir(tmp_path)
    found = with_assets(cfg)
    assert found.model.pretrained == str(ROOT / "assets/sprites-sd") and cfg.model.pretrained == "assets/sprites-sd"
    assert found.module.model.pretrained == found.model.pretrained
    assert found.evaluation.metrics.image_similarity.backbone == str(ROOT / "assets/sprites-vit")


def test_what_is_written_and_what_lies_in_the_working_folder_stay(monkeypatch, tmp_path):
    cfg = compose(tmp_path / "run", "experiment=pretrain_sprites_sd")
    (tmp_path / "assets/sprites-clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = with_assets(cfg).module
    assert found.export_dir == "assets/sprites-sd" and found.clip == "assets/sprites-clip"
    assert found.vae == str(ROOT / "assets/sprites-sd/vae")


@pytest.mark.parametrize("path", ["assets/none", "assetsx", "owner/name"])
def test_what_is_not_ours_is_left_alone(path):
    assert asset(path) == path
