import pytest
import torch
from diffusers import DDPMScheduler

from callbacks.regularizers.min_snr import MinSNR
from models.noise_process import Epsilon, Velocity
from tests.steps import diffusion_step


@pytest.mark.parametrize(
    ("process", "snr", "weight"),
    [
        (Epsilon, 20, 0.25),
        (Epsilon, 5, 1),
        (Epsilon, 0.5, 1),
        (Epsilon, 0, 1),
        (Velocity, 9, 0.5),
        (Velocity, 4, 0.8),
        (Velocity, 1, 0.5),
        (Velocity, 0, 0),
    ],
)
def test_weight_by_hand(process, snr, weight):
    actual = process.min_snr_weight(torch.tensor([float(snr)]), gamma=5)
    assert actual.item() == pytest.approx(weight)


@pytest.mark.parametrize(("process", "weights"), [(Epsilon, [1, 0.2]), (Velocity, [0.5, 2 / 11])])
def test_weights_the_subjects_rows_only(process, weights):
    snr, of = torch.tensor([1.0, 10.0, 7.0]), process(DDPMScheduler())
    step = diffusion_step(torch.zeros(3, 1, 2, 2), snr=snr, num_instance=2, noise_process=of)
    torch.testing.assert_close(MinSNR(gamma=2).sample_weight(step), torch.tensor(weights))
