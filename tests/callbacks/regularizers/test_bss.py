import pytest
import torch

from callbacks.regularizers.bss import BatchSpectralShrinkage, spectral_shrinkage
from tests.steps import classification_step

# Orthogonal rows of lengths 5, 2 and 1.
FEATURES = torch.tensor([[3.0, 4, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("k", "sum_of_squares"), [(1, 1), (2, 5), (3, 30)])
@pytest.mark.parametrize("features", [FEATURES, FEATURES.T.contiguous(), FEATURES.double()])
def test_smallest_singular_values_by_hand(features, k, sum_of_squares):
    assert spectral_shrinkage(features, k=k).item() == pytest.approx(sum_of_squares, rel=1e-5)


def test_all_of_them_are_the_squared_norm():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spectral_shrinkage(features, k=4), features.square().sum())


def test_gradient_shrinks_the_smallest_direction_alone():
    features = FEATURES.clone().requires_grad_()
    spectral_shrinkage(features, k=1).backward()
    expected = torch.zeros(3, 4)
    expected[2, 3] = 2
    torch.testing.assert_close(features.grad, expected)


def test_gradient_of_equal_rows_is_finite():
    """Two equal singular values 0."""
    features = torch.ones(3, 4, requires_grad=True)
    spectral_shrinkage(features, k=2).backward()
    assert features.grad.isfinite().all()


def test_takes_the_cls_token_after_the_norm():
    tokens = torch.stack([FEATURES, torch.full((3, 4), 7.0)], 1)
    term = BatchSpectralShrinkage(weight=0.001, k=2)
    assert term.needs.sites == {"norm"}
    step = classification_step(torch.zeros(3, 2), captured={"norm": tokens})
    assert term.loss(step).loss.item() == pytest.approx(5, rel=1e-5)


def test_refuses_more_values_than_there_are():
    with pytest.raises(ValueError, match=r"bss.k=4: 3 pictures of 4 features have 3 singular values"):
        spectral_shrinkage(FEATURES, k=4)
    with pytest.raises(ValueError, match=r"bss.k=0: 1 or more"):
        BatchSpectralShrinkage(weight=0.001, k=0)
