import pytest
import torch

from callbacks.regularizers.prior_preservation import PriorPreservation
from callbacks.step import Needs
from tests.steps import diffusion_step, with_losses


def test_mean_over_the_class_images_alone():
    prediction = with_losses([50.0, 60.0, 1.0, 4.0], channels=2).requires_grad_()
    # The subject's sample weights and masks are none of its business.
    step = diffusion_step(prediction, num_instance=2, sample_weight=torch.zeros(2), mask=torch.zeros(4, 1, 2, 2))
    loss = PriorPreservation(weight=0.3, num_class_images=5).loss(step).loss
    assert loss.item() == pytest.approx(2.5)  # unweighted: the module multiplies
    loss.backward()
    assert prediction.grad.flatten(1).any(1).tolist() == [False, False, True, True]


def test_needs_the_class_images():
    assert PriorPreservation(weight=1, num_class_images=7).needs == Needs(class_images=7)
    with pytest.raises(ValueError, match="num_class_images=0"):
        PriorPreservation(weight=1, num_class_images=0)
