"""Guidance: the identities of the maths."""

import pytest
import torch
from torch.testing import assert_close

from datamodules.subject import without_identifier
from sampling.guidance import (
    AdaptiveProjectedGuidance,
    ClassifierFreeGuidance,
    ConsistencyGuidance,
    ParallelRescaledGuidance,
    cosine,
    dot,
    parallel_coefficient,
    parallel_scale,
)

W, W_CON = 7.5, 3.0
ROWS = ConsistencyGuidance.rows


def predictions(dtype=torch.float64, batch=3):
    generator = torch.Generator().manual_seed(0)
    return {row: torch.randn(batch, 4, 5, 6, generator=generator, dtype=dtype) for row in ROWS}


def rescaled(rule="constant", scale=0.0, kappa=0.2, consistency_scale=W_CON, start=0.0, stop=1.0):
    settings = {"consistency_scale": consistency_scale, "start": start, "stop": stop}
    return ParallelRescaledGuidance(guidance_scale=W, rule=rule, scale=scale, kappa=kappa, **settings)


def guided(guidance, given, progress=0.0):
    return guidance(given, progress=progress).prediction


def test_a_full_parallel_part_is_consistency_guidance():
    given = predictions()
    unconditional, conditional, student = given.values()
    expected = unconditional + W * (conditional - unconditional) + W_CON * (student - conditional)
    plain = ConsistencyGuidance(guidance_scale=W, consistency_scale=W_CON, start=0.0, stop=1.0)
    assert_close(guided(plain, given), expected)
    assert_close(guided(rescaled(scale=1.0), given), expected)


@pytest.mark.parametrize("rule", ["constant", "cfg_clamp", "negative_only"])
def test_without_consistency_it_is_cfg_of_the_pretrained_model(rule):
    given = predictions()
    unconditional, conditional, _ = given.values()
    assert_close(
        guided(rescaled(rule, consistency_scale=0.0), given), unconditional + W * (conditional - unconditional)
    )


def test_equal_scales_are_cfg_with_the_students_condition():
    given = predictions()
    unconditional, _, student = given.values()
    assert_close(guided(rescaled(scale=1.0, consistency_scale=W), given), unconditional + W * (student - unconditional))


def test_without_the_parallel_part_what_is_added_is_orthogonal_to_cfg():
    given = predictions()
    unconditional, conditional, _ = given.values()
    cfg = conditional - unconditional
    added = guided(rescaled(scale=0.0), given) - unconditional - W * cfg
    assert_close(dot(added, cfg), torch.zeros(3, dtype=torch.float64), atol=1e-10, rtol=0)
    assert dot(added, added).min() > 1


def test_the_parallel_part_only_moves_the_effective_cfg_scale():
    given = predictions()
    unconditional, conditional, student = given.values()
    cfg, consistency = conditional - unconditional, student - conditional
    a = parallel_coefficient(consistency, cfg)
    told = rescaled(scale=0.25)(given, progress=0.0)
    assert_close(told.diagnostics["effective_cfg_scale"], W + 0.25 * W_CON * a)
    orthogonal = consistency - a.view(-1, 1, 1, 1) * cfg
    expected = unconditional + (W + 0.25 * W_CON * a).view(-1, 1, 1, 1) * cfg + W_CON * orthogonal
    assert_close(told.prediction, expected)


def test_a_student_that_ignores_the_prompt_lowers_the_effective_scale_to_four_and_a_half():
    given = predictions()
    given[ROWS[2]] = given[ROWS[0]].clone()
    told = ConsistencyGuidance(guidance_scale=W, consistency_scale=W_CON, start=0.0, stop=1.0)(given, progress=0.0)
    assert_close(told.diagnostics["effective_cfg_scale"], torch.full((3,), 4.5, dtype=torch.float64))
    assert_close(told.diagnostics["cosine"], torch.full((3,), -1.0, dtype=torch.float64))


@pytest.mark.parametrize("rule", ["constant", "cfg_clamp", "negative_only"])
def test_noise_and_v_and_clean_latent_are_guided_alike(rule):
    given = predictions()
    alpha, sigma = 0.6, 0.8
    noisy = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def clean(noise):
        return (noisy - sigma * noise) / alpha

    def velocity(noise):
        return alpha * noise - sigma * clean(noise)

    guidance = rescaled(rule, scale=0.3)
    noise = guided(guidance, given)
    assert_close(guided(guidance, {row: clean(each) for row, each in given.items()}), clean(noise))
    assert_close(guided(guidance, {row: velocity(each) for row, each in given.items()}), velocity(noise))


def test_rows_do_not_depend_on_one_another():
    given = predictions()
    guidance = rescaled("cfg_clamp", kappa=0.1)
    alone = [guided(guidance, {row: each[i : i + 1] for row, each in given.items()}) for i in range(3)]
    assert_close(torch.cat(alone), guided(guidance, given))


def test_where_the_prompt_changes_nothing_the_coefficient_is_zero():
    direction = torch.ones(2, 3)
    assert parallel_coefficient(direction, torch.zeros(2, 3)).tolist() == [0, 0]
    assert cosine(direction, torch.zeros(2, 3)).tolist() == [0, 0]
    assert_close(parallel_coefficient(direction, 2 * direction), torch.tensor([0.5, 0.5]))


def test_rules_by_hand():
    a = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0])
    settings = {"scale": 0.25, "kappa": 0.2, "guidance_scale": 5.0, "consistency_scale": 2.0}
    assert parallel_scale(a, rule="constant", **settings).tolist() == [0.25] * 5
    assert parallel_scale(a, rule="negative_only", **settings).tolist() == [0.25, 0.25, 1, 1, 1]
    # 5 (1 ± 0.2) allows the scale to move by 1: |2 a| is 4, so a quarter of it.
    assert parallel_scale(a, rule="cfg_clamp", **settings).tolist() == [0.25, 1, 1, 1, 0.25]
    settings |= {"guidance_scale": 0.0}
    assert parallel_scale(a, rule="cfg_clamp", **settings).tolist() == [0, 0, 1, 0, 0]


def test_consistency_counts_between_start_and_stop():
    given = predictions()
    unconditional, conditional, _ = given.values()
    base = unconditional + W * (conditional - unconditional)
    guidance = rescaled(start=0.25, stop=0.75)
    assert_close(guided(guidance, given, progress=0.2), base)
    assert_close(guided(guidance, given, progress=0.75), base)
    assert not torch.allclose(guided(guidance, given, progress=0.25), base)


def test_half_precision_is_computed_in_float32():
    given = predictions()
    exact = guided(rescaled(scale=0.5), {row: each.bfloat16().double() for row, each in given.items()})
    half = guided(rescaled(scale=0.5), {row: each.bfloat16() for row, each in given.items()})
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.float().bfloat16())


def test_apg_at_scale_one_is_the_conditional_prediction():
    given = dict(zip(AdaptiveProjectedGuidance.rows, predictions().values(), strict=False))
    guidance = AdaptiveProjectedGuidance(guidance_scale=1.0, eta=0.0, norm_threshold=0.0, momentum=0.0)
    guidance.begin()
    assert_close(guided(guidance, given), given["student_conditional"])


def test_to_the_end_means_to_the_end():
    given = predictions()  # second-order schedulers have more steps than were asked for
    assert_close(guided(rescaled(), given, progress=1.5), guided(rescaled(), given))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"guidance\.kappa=nan"):
        rescaled(kappa=float("nan"))
    with pytest.raises(ValueError, match="norm_threshold=-1"):
        AdaptiveProjectedGuidance(guidance_scale=W, eta=0.0, norm_threshold=-1, momentum=0.0)
    with pytest.raises(ValueError, match=r"guidance\.rule=clamp: choose one of constant, cfg_clamp, negative_only"):
        rescaled("clamp")
    with pytest.raises(ValueError, match=r"guidance\.scale=-0\.5"):
        rescaled(scale=-0.5)
    with pytest.raises(ValueError, match=r"guidance\.kappa=-1"):
        rescaled(kappa=-1)
    with pytest.raises(ValueError, match=r"guidance\.start=0\.5 guidance\.stop=0\.5"):
        rescaled(start=0.5, stop=0.5)
    for scale in (0.9, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"guidance\.guidance_scale={scale}: 1 or more is needed"):
            ClassifierFreeGuidance(guidance_scale=scale)
    with pytest.raises(ValueError, match=r"guidance\.consistency_scale=nan"):
        rescaled(consistency_scale=float("nan"))


def test_a_prompt_without_the_identifier_is_its_own_prior():
    assert without_identifier("a sks heart on pink", "sks", replacement="") == "a heart on pink"
    assert without_identifier("two hearts", "sks", replacement="") == "two hearts"
