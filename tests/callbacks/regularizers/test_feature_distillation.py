import pytest
import torch

from callbacks.regularizers.feature_distillation import FeatureDistillation, feature_distance
from callbacks.step import Needs
from tests.steps import classification_step

STUDENT = torch.tensor([[1.0, 2, 3], [0, 0, 0]])
SOURCE = torch.tensor([[1.0, 0, 1], [0, 0, 2]])
DISTANCE = (8 / 3 + 4 / 3) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distance_by_hand(dtype):
    loss = feature_distance(STUDENT.to(dtype), SOURCE.to(dtype))
    assert loss.item() == pytest.approx(DISTANCE) and loss.dtype == torch.float32


def test_compares_the_cls_tokens_alone():
    term = FeatureDistillation(weight=1.0)
    assert term.needs == Needs(reference=True, sites=frozenset({"norm"}))
    student, source = (torch.stack([cls, torch.full((2, 3), other)], 1) for cls, other in ((STUDENT, 5), (SOURCE, 9)))
    step = classification_step(torch.zeros(2, 2), captured={"norm": student}, reference_captured={"norm": source})
    assert term.loss(step).loss.item() == pytest.approx(DISTANCE)
