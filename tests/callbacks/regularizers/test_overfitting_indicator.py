import json
import math
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing

from callbacks.regularizers.overfitting_indicator import OverfittingIndicator, overfitting_indicator
from tests.steps import diffusion_step, middles, step_of_losses

GAP = math.log(2) / 1000  # γ = 1 − exp(−1000 · GAP) = 0.5
FIRST = step_of_losses([0.1, 0.3, 0.2], [0.1 + GAP, 0.3 + 2 * GAP, 0.2 + GAP], [50, 250, 299])
SECOND = step_of_losses([0.2, 0.05], [0.2 + 3 * GAP, 0.05], [0, 950])


def indicator(**settings):
    plugin = OverfittingIndicator(
        **{
            "num_bins": 10, "ema_weight": 0.1, "scale": 1000, "weighting": True, "augmentation": True,
            "max_probability": 0.8,
        } | settings
    )  # fmt: skip
    plugin.name = "overfitting_indicator"
    return plugin


def gammas(values, bins=10):
    return torch.tensor([values.get(number, 0.0) for number in range(bins)])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float32), atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("gap", "scale", "gamma"),
    [
        (GAP, 1000, 0.5),
        (2 * GAP, 1000, 0.75),
        (GAP, 2000, 0.75),
        (0.0, 1000, 0.0),
        (1e-3, 1000, 0.632121),
        (-GAP, 1000, 0.0),  # worse than the prior: −1 before the clamp
        (-5.0, 1000, 0.0),  # −inf before the clamp
        (5.0, 1000, 1.0),
        (math.nan, 1000, 0.0),  # a bin that was not seen yet
    ],
)
def test_gamma_by_hand(gap, scale, gamma):
    student = torch.tensor([0 * gap])
    close(overfitting_indicator(student, student + gap, scale=scale), [gamma])


def test_first_observation_seeds_the_moving_average():
    plugin = indicator()
    close(plugin.gamma, gammas({}))
    plugin.sample_weight(FIRST)
    # Bin 2 holds two rows: its mean gap is 1.5 GAP.
    close(plugin.gamma, gammas({0: 0.5, 2: 1 - 2**-1.5}))


def test_moving_average_over_two_steps_and_the_weights_of_each_row():
    plugin = indicator()
    close(plugin.sample_weight(FIRST), [0.5, 2**-1.5, 2**-1.5])
    # Bin 0: 0.9 · GAP + 0.1 · 3 GAP = 1.2 GAP; bin 2 stays; bin 9 is new and has no gap.
    close(plugin.sample_weight(SECOND), [2**-1.2, 1])
    close(plugin.gamma, gammas({0: 1 - 2**-1.2, 2: 1 - 2**-1.5}))
    averages = torch.tensor(plugin.state_dict()["averages"])
    close(averages[0], [0.9 * 0.1 + 0.1 * 0.2, 0.9 * (0.1 + GAP) + 0.1 * (0.2 + 3 * GAP)])
    close(averages[2], [0.25, 0.25 + 1.5 * GAP])
    assert averages[1].isnan().all()
    assert plugin.metrics().keys() == {f"gamma/bin_{number:02d}" for number in range(10)}
    assert plugin.metrics()["gamma/bin_00"] == pytest.approx(1 - 2**-1.2, abs=2e-4)


@pytest.mark.parametrize(
    ("timestep", "num_steps", "number"), [(99, 1000, 0), (100, 1000, 1), (999, 1000, 9), (45, 50, 9)]
)
def test_bins_are_equal_parts_of_the_schedule(timestep, num_steps, number):
    plugin = indicator()
    plugin.sample_weight(step_of_losses([0.1], [0.1 + GAP], [timestep], num_steps=num_steps))
    close(plugin.gamma, gammas({number: 0.5}))


def test_weights_carry_no_gradient():
    prediction = torch.ones(1, 1, 2, 2, requires_grad=True)
    assert not indicator().sample_weight(diffusion_step(prediction, reference=2 * torch.ones(1, 1, 2, 2))).requires_grad


def test_augmentation_uses_gamma_of_the_step_before_last():
    plugin, asked = indicator(max_probability=0.45), middles([10, 250, 950])
    close(plugin.augmentation_probability(asked), [0, 0, 0])
    plugin.sample_weight(step_of_losses([0.1, 0.1], [0.1 + GAP, 0.1 + GAP / 2], [10, 950]))
    close(plugin.augmentation_probability(asked), [0, 0, 0])
    plugin.sample_weight(step_of_losses([0.1], [0.1 + 5 * GAP], [250]))
    close(plugin.augmentation_probability(asked), [0.45, 0, 1 - 2**-0.5])  # the first step's, 0.5 bounded by 0.45
    plugin.sample_weight(SECOND)
    close(plugin.augmentation_probability(asked), [0.45, 0.45, 1 - 2**-0.5])


def test_class_images_do_not_count():
    with_class = step_of_losses(
        [0.1, 0.3, 0.2, 9, 9], [0.1 + GAP, 0.3 + 2 * GAP, 0.2 + GAP], [50, 250, 299, 50, 950], num_instance=3
    )
    plugin, without = indicator(), indicator()
    torch.testing.assert_close(plugin.sample_weight(with_class), without.sample_weight(FIRST))
    torch.testing.assert_close(plugin.gamma, without.gamma)


def test_bf16_predictions_are_upcast_before_the_difference():
    target = torch.full((1, 1, 2, 2), 0.999)  # 1.0 in bf16, so that a loss taken there would be 0
    student = torch.ones_like(target)
    reference = torch.full_like(target, 1.03125)
    plugin = indicator()
    plugin.sample_weight(diffusion_step(student.bfloat16(), reference=reference.bfloat16(), target=target))
    gap = (1.03125 - 0.999) ** 2 - (1 - 0.999) ** 2
    assert plugin.gamma[0].item() == pytest.approx(1 - math.exp(-1000 * gap), abs=1e-4)
    assert plugin.gamma.dtype == torch.float32


def test_only_measures_with_both_switches_off():
    off, on = indicator(weighting=False, augmentation=False), indicator()
    for step in (FIRST, SECOND, FIRST):
        assert off.augmentation_probability(step.t) is None
        assert off.sample_weight(step) is None
        on.sample_weight(step)
    assert off.gamma.count_nonzero() == 2
    torch.testing.assert_close(off.gamma, on.gamma)


@pytest.mark.parametrize("steps_before", [0, 1, 3])
@pytest.mark.parametrize("num_steps", [1000, 2000])
def test_resumes_identically_from_a_checkpoint(tmp_path, steps_before, num_steps):
    def steps():
        for number in range(6):
            yield step_of_losses(
                [0.1, 0.2 / (number + 1)], [0.1 + GAP * number, 0.3], [number * 60, num_steps - 1],
                num_steps=num_steps,
            )  # fmt: skip

    def outputs(plugin, steps):
        return [(plugin.augmentation_probability(s.t), plugin.sample_weight(s), plugin.gamma) for s in steps]

    expected = outputs(indicator(), steps())[steps_before:]
    interrupted, resumed = indicator(), indicator()
    outputs(interrupted, list(steps())[:steps_before])
    torch.save(interrupted.state_dict(), tmp_path / "state.pt")
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(outputs(resumed, list(steps())[steps_before:]), expected, rtol=0, atol=0)


def test_refuses_a_checkpoint_with_another_number_of_bins():
    with pytest.raises(ValueError, match=r"overfitting_indicator\.num_bins=10, the checkpoint has 5"):
        indicator().load_state_dict(indicator(num_bins=5).state_dict())


# Gaps and bins differ between the ranks; bin 7 is seen by rank 1 alone, bin 4 by rank 0 alone in the second step.
RANKS = (
    (([0.1, 0.1], [0.1 + GAP, 0.1 + GAP], [20, 450]), ([0.2, 0.1], [0.2 + 3 * GAP, 0.1 + 2 * GAP], [20, 480])),
    (([0.4, 0.2], [0.4 + 2 * GAP, 0.2 + GAP], [30, 700]), ([0.1, 0.3], [0.1, 0.3 + GAP / 2], [20, 710])),
)


def run_rank(rank, folder):
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=len(RANKS),
        timeout=timedelta(seconds=60),
    )
    plugin = indicator()
    weights = [plugin.sample_weight(step_of_losses(*step)).tolist() for step in RANKS[rank]]
    Path(folder, f"{rank}.json").write_text(json.dumps({"weights": weights, "gamma": plugin.gamma.tolist()}))
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_processes_equal_one_over_the_joint_batch(tmp_path):
    # Forked, as importing Lightning afresh in each process takes longer than all other tests of this file.
    multiprocessing.start_processes(run_rank, (str(tmp_path),), nprocs=len(RANKS), start_method="fork")
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(len(RANKS))]
    plugin = indicator()
    for number, (zero, one) in enumerate(zip(*RANKS, strict=True)):
        joint = plugin.sample_weight(step_of_losses(*(a + b for a, b in zip(zero, one, strict=True))))
        close(joint, ranks[0]["weights"][number] + ranks[1]["weights"][number])
    assert ranks[0]["gamma"] == ranks[1]["gamma"]
    assert plugin.gamma.count_nonzero() == 3
    close(plugin.gamma, ranks[0]["gamma"])
