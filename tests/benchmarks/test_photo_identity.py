"""The areas of `benchmarks/photo_identity.py` by hand; real photographs where they are at hand."""

import pytest
import torch

from benchmarks.photo_identity import aucs, color_histogram, read, thumbnail
from datamodules.pictures import read_pictures
from metrics.nearest_training_similarity import nearest_training_similarity
from tests.picture_metrics import VIT, embeddings
from tests.tiny import PHOTOS


def test_areas_by_hand():
    """Two subjects of one class at 0° and 10°, at 21° and 33°, a third of another class at 26° and 90°."""
    degrees = torch.tensor([0.0, 10, 21, 33, 26, 90]).deg2rad()
    subjects, classes = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 0, 0, 1, 1])
    found = aucs(torch.stack([degrees.cos(), degrees.sin()], 1), subjects, classes)
    # Between a subject's pictures 10°, 12°, 64°; between the first two subjects 21°, 33°, 11°, 23°, between the first
    # and the third 26°, 90°, 16°, 80°, between the last two 5°, 69°, 7°, 57°.
    assert found["all"] == pytest.approx((10 + 9 + 3) / 36)
    assert found["same_class"] == pytest.approx((4 + 3 + 0) / 12)
    assert found["per_subject"] == pytest.approx((8 + 5 + 3) / 24)
    assert found["standard_error"] == pytest.approx(torch.tensor([8, 5, 3]).div(8).std().item() / 3**0.5)
    assert found["same"] == pytest.approx(torch.tensor([10, 12, 64]).deg2rad().cos().mean().item())


@pytest.mark.skipif(not PHOTOS.is_dir(), reason=f"no DreamBooth dataset in {PHOTOS}")
def test_on_photographs(tmp_path):
    (tmp_path / "prompts_and_classes.txt").write_text((PHOTOS / "prompts_and_classes.txt").read_text())
    for name in ("dog", "dog2"):
        (tmp_path / name).symlink_to(PHOTOS / name)
    pictures, subjects, classes = read(tmp_path)
    assert len(pictures) == len(subjects) == len(classes)
    assert (len(subjects.unique()), len(classes.unique())) == (2, 1)
    assert min(min(picture.size) for picture in pictures) <= 512
    for features in (color_histogram(pictures), thumbnail(pictures)):
        assert 0.4 < aucs(features, subjects, classes)["all"] <= 1
    photos = [picture for _, picture in read_pictures(PHOTOS / "dog", skip_broken=False)]
    space = embeddings()
    copies = space.pictures(VIT, None, [picture.copy() for picture in photos[:2]])
    assert nearest_training_similarity(copies, space.pictures(VIT, None, photos)).tolist() == pytest.approx([1, 1])
