import pytest
import torch

from callbacks.regularizers.l2sp import L2SP, l2sp_penalty
from callbacks.step import Weights
from tests.steps import classification_step


@pytest.fixture
def weights() -> Weights:
    return Weights(
        student={"a": torch.tensor([1.0, 2]), "b": torch.tensor([[3.0]], requires_grad=True)},
        source={"a": torch.tensor([1.0, 0]), "b": torch.tensor([[2.0]]), "frozen": torch.tensor([9.0])},
        head={"weight": torch.tensor([[2.0, 2.0]])},
    )


@pytest.mark.parametrize(("alpha", "beta", "penalty"), [(0.1, 0, 0.25), (0, 0.1, 0.4), (0.1, 0.1, 0.65)])
def test_penalty_by_hand(weights, alpha, beta, penalty):
    """Squared distances 4 and 1 in the backbone, squared norm 8 in the head."""
    assert l2sp_penalty(weights, alpha=alpha, beta=beta).item() == pytest.approx(penalty)


def test_its_gradient_is_a_pull_of_alpha(weights):
    l2sp_penalty(weights, alpha=0.1, beta=1).backward()
    torch.testing.assert_close(weights.student["b"].grad, torch.tensor([[0.1]]))


def test_a_linear_probe_has_the_heads_part_alone():
    head = {"weight": torch.tensor([3.0])}
    assert l2sp_penalty(Weights({}, {}, head), alpha=1, beta=2).item() == 9


def test_reads_the_steps_weights(weights):
    term = L2SP(weight=1.0, alpha=0.1, beta=0.1)
    assert term.needs.weights
    step = classification_step(torch.zeros(1, 2), weights=weights)
    assert term.loss(step).loss.item() == pytest.approx(0.65)
