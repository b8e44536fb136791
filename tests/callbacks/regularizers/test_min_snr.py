import pytest
import torch
from models.prediction import min_snr_weight

from callbacks.regularizers.min_snr import MinSNR
from tests.steps import diffusion_step


@pytest.mark.parametrize(
    ("prediction_type", "snr", "weight"),
    [
        ("epsilon", 20, 0.25),
        ("epsilon", 5, 1),
        ("epsilon", 0.5, 1),
        ("epsilon", 0, 1),
        ("v_prediction", 9, 0.5),
        ("v_prediction", 4, 0.8),
        ("v_prediction", 1, 0.5),
        ("v_prediction", 0, 0),
    ],
)
def test_weight_by_hand(prediction_type, snr, weight):
    actual = min_snr_weight(torch.tensor([float(snr)]), gamma=5, prediction_type=prediction_type)
    assert actual.item() == pytest.approx(weight)


def test_refuses_an_unknown_prediction_type():
    with pytest.raises(ValueError, match="not for 'sample'"):
        min_snr_weight(torch.ones(1), gamma=5, prediction_type="sample")


@pytest.mark.parametrize(("prediction_type", "weights"), [("epsilon", [1, 0.2]), ("v_prediction", [0.5, 2 / 11])])
def test_weights_the_subjects_rows_only(prediction_type, weights):
    step = diffusion_step(
        torch.zeros(3, 1, 2, 2), snr=torch.tensor([1.0, 10.0, 7.0]), num_instance=2, prediction_type=prediction_type
    )
    torch.testing.assert_close(MinSNR(gamma=2).sample_weight(step), torch.tensor(weights))
