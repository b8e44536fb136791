import pytest
import torch

from callbacks.regularizers.representation_stabilization import RepresentationStabilization, channel_statistics_loss
from callbacks.step import Needs
from models.capture import Captured
from tests.steps import diffusion_step

# Mean 2 and deviation 1, mean 5 and deviation 3, tokens behind channels.
NARROW, WIDE = [1.0, 3.0, 1.0, 3.0], [2.0, 8.0, 8.0, 2.0]


def features(*channels):
    return torch.tensor(channels).T[None]


@pytest.mark.parametrize(
    ("student", "reference", "mean", "std"),
    [
        ([NARROW], [WIDE], 9, 4),
        ([NARROW, NARROW], [WIDE, NARROW], 4.5, 2),  # averaged over channels
        ([NARROW, WIDE], [NARROW, WIDE], 0, 0),
        ([NARROW], [[3.0, 1.0, 3.0, 1.0]], 0, 0),  # where a feature lies does not matter
        ([NARROW], [[4.0, 6.0, 4.0, 6.0]], 9, 0),
    ],
)
def test_by_hand(student, reference, mean, std):
    actual = channel_statistics_loss(features(*student), features(*reference))
    torch.testing.assert_close(torch.stack(actual), torch.tensor([float(mean), float(std)]))


def test_averaged_over_rows():
    student = torch.cat([features(NARROW), features(WIDE)])
    mean, std = channel_statistics_loss(student, features(WIDE).expand(2, -1, -1))
    assert (mean.item(), std.item()) == (pytest.approx(4.5), pytest.approx(2))


def test_float32_whatever_the_features_are():
    student = features([256.0, 257.0]).expand(3, -1, -1)
    mean, std = channel_statistics_loss(student.to(torch.float16), torch.full((3, 2, 1), 256.0, dtype=torch.float16))
    assert mean.dtype == torch.float32
    assert (mean.item(), std.item()) == (pytest.approx(0.25), pytest.approx(0.25, rel=1e-3))


@pytest.mark.parametrize("values", [torch.zeros(1, 4, 2), torch.full((1, 4, 2), 3.0)])
def test_constant_features_have_a_finite_gradient(values):
    student = values.clone().requires_grad_()
    sum(channel_statistics_loss(student, torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(0)))).backward()
    assert student.grad.isfinite().all()
    assert student.grad.any()


def test_averages_over_sites_and_takes_the_subjects_rows():
    plugin = RepresentationStabilization(weight=0.1, sites=["up.*"])
    assert plugin.needs == Needs(reference=True, sites=frozenset({"up.*"}))
    sites = {"up.*": ("up.0", "up.1"), "down": ("down",)}
    class_row = torch.full((1, 4, 1), 99.0)
    student = {"up.0": features(NARROW), "up.1": features(NARROW), "down": class_row}
    reference = {"up.0": features(WIDE), "up.1": features(NARROW), "down": features(WIDE)}
    step = diffusion_step(
        torch.zeros(2, 1, 2, 2),
        num_instance=1,
        reference=torch.zeros(1, 1, 2, 2),
        recorded={"captured": Captured({k: torch.cat([value, class_row]) for k, value in student.items()}, sites)},
        reference_recorded={"captured": Captured(reference, sites)},
    )
    term = plugin.loss(step)
    assert term.loss.item() == pytest.approx((9 + 4) / 2)
    assert {name: value.item() for name, value in term.metrics.items()} == pytest.approx({"mean": 4.5, "std": 2})
