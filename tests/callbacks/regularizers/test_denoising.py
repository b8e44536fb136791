from dataclasses import replace

import pytest
import torch

from callbacks.regularizers.denoising import Denoising, denoising_loss, instance_loss, reference_loss
from tests.steps import diffusion_step, step_of_losses


def test_mean_over_all_but_the_rows():
    prediction = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]], [[[0.0, 0.0]], [[0.0, 2.0]]]])
    target = torch.tensor([[[[0.0, 0.0]], [[0.0, 0.0]]], [[[0.0, 0.0]], [[0.0, -2.0]]]])
    torch.testing.assert_close(denoising_loss(prediction, target), torch.tensor([7.5, 4.0]))


@pytest.mark.parametrize(
    ("mask", "loss"),
    [
        ([1, 1], 7.5),
        ([1, 0], (1 + 9) / 2),  # both channels of the first pixel
        ([0, 0.5], (4 + 16) / 2),  # a weighted mean: one weight alone cancels
        ([1, 0.5], (1 + 9 + 0.5 * (4 + 16)) / 3),
        ([0, 0], 0),
    ],
)
def test_mask_is_a_weighted_mean(mask, loss):
    prediction = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    weights = torch.tensor([[[mask]]], dtype=torch.float32)
    torch.testing.assert_close(
        denoising_loss(prediction, torch.zeros(1, 2, 1, 2), weights), torch.tensor([float(loss)])
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_upcast_before_subtracting(dtype):
    loss = denoising_loss(torch.ones(1, 1, 2, 2, dtype=dtype), torch.full((1, 1, 2, 2), 0.9999))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1e-8, rel=0.01)  # 0.9999 is 1 in either half precision


def test_term_is_the_weighted_mean_over_the_subjects_rows():
    step = step_of_losses([1.0, 3.0, 100.0], [2.0, 5.0], [0, 0, 0], num_instance=2)
    torch.testing.assert_close(instance_loss(step), torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(reference_loss(step), torch.tensor([2.0, 5.0]))
    term = Denoising()
    assert term.primary
    assert term.loss(step).loss.item() == pytest.approx(2)
    # The mean is over rows, not over weights: down-weighted rows lower the loss.
    assert term.loss(replace(step, sample_weight=torch.tensor([0.5, 0.25]))).loss.item() == pytest.approx(0.625)


def test_gradient_by_hand():
    prediction = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).requires_grad_()
    Denoising().loss(diffusion_step(prediction, sample_weight=torch.tensor([1.0, 0.5]))).loss.backward()
    torch.testing.assert_close(prediction.grad.flatten(), torch.tensor([1.0, 1.0]))  # w · 2 e / rows


def test_mask_of_class_images_is_left_out():
    mask = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 1.0]]]])
    step = diffusion_step(torch.tensor([[[[2.0, 7.0]]], [[[9.0, 9.0]]]]), mask=mask, num_instance=1)
    torch.testing.assert_close(instance_loss(step), torch.tensor([4.0]))
