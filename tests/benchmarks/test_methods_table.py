"""What `docs/benchmarks/methods.md` says of APT, from numbers that are known."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.methods.figures import with_error
from benchmarks.methods.plan import DEFAULT
from benchmarks.methods.plot import draw_curves
from benchmarks.methods.settings import chosen_settings, settings_said, tried_section
from benchmarks.methods.stopped import STOPPED, beside_stopped, stopped, stopped_section
from benchmarks.methods.table import page, verdict
from benchmarks.shared.scores import RunScores

STEPS = (0, 50, 100, 200, 300)
METHODS = (
    "DreamBooth",
    "DreamBooth + prior",
    "APT",
    *(f"APT without {part}" for part in ("indicator", "stabilization", "alignment")),
    *(f"{part} alone" for part in ("indicator", "stabilization", "alignment")),
)


def run(identity, adherence, prompts=10, copies=2):
    """Every picture of a step is as good as the step's mean, but for a spread over prompts that all steps share."""
    shape = (len(STEPS), prompts, copies)
    spread = np.linspace(-0.02, 0.02, prompts)[None, :, None]
    identity, adherence = (np.broadcast_to(np.reshape(each, (-1, 1, 1)), shape) for each in (identity, adherence))
    return RunScores(identity=identity + 0, adherence=adherence + 0, shares=adherence + spread, nearest=identity + 0)


def wobble():
    """A DreamBooth that loses its adherence after step 100, at an identity of 0.4."""
    scores = run([0, 0.2, 0.4, 0.6, 0.7], [0.9, 0.9, 0.9, 0.5, 0.3])
    scores.shares[3:] += np.linspace(-0.01, 0.01, 10)[None, :, None]  # the drop has noise of its own
    return scores


def test_dreambooth_stops_before_it_stays_below_its_best():
    assert STEPS[stopped(wobble(), STEPS)] == 100
    assert STEPS[stopped(run([0, 0.2, 0.4, 0.6, 0.7], [0.9] * 5), STEPS)] == 300


def test_gap_to_the_stopped_dreambooth_is_unbiased_for_equal_methods():
    rng, gaps = np.random.default_rng(0), []
    for _ in range(400):
        pair = []
        for _ in range(2):
            right = rng.integers(0, 2, (len(STEPS), 10, 2)).astype(float)
            pair.append(RunScores(identity=np.ones_like(right), adherence=right, shares=right, nearest=right))
        beside = beside_stopped(*pair, STEPS)
        gaps.append(beside[2, 2] - beside[0, 2])
    error = np.std(gaps) / np.sqrt(len(gaps))
    assert abs(np.mean(gaps)) < 4 * error < 0.06


def test_steps_are_chosen_on_the_first_copies_and_scored_on_the_others():
    apt, dreambooth = run([0, 0.3, 0.5, 0.6, 0.6], [0.9, 0.85, 0.8, 0.7, 0.6]), wobble()
    apt.adherence[3:, :, 1] = 1  # of the copies that nothing is chosen on
    dreambooth.adherence[..., 1] -= 0.1
    expected = [[100, 0.4, 0.8], [300, 0.7, 0.2], [100, 0.5, 0.8], [100, 0.4, 0.8]]
    assert beside_stopped(apt, dreambooth, STEPS) == pytest.approx(np.array(expected))


def test_what_never_reaches_the_stopped_identity_has_no_figures_beside_it():
    apt, dreambooth = run([0, 0.1, 0.1, 0.1, 0.1], [0.9] * 5), run([0, 0.2, 0.4, 0.6, 0.7], [0.9] * 5)
    beside = beside_stopped(apt, dreambooth, STEPS)
    assert np.isnan(beside[2]).all() and np.isfinite(beside[[0, 1, 3]]).all()


def test_dreambooth_has_no_lead_over_its_own_best_step():
    """It levels off at 0.6 while adherence falls: the rule, which stops late, has less than the best such step."""
    late = run([0, 0.6, 0.6, 0.6, 0.6], [0.9, 0.88, 0.86, 0.84, 0.82])
    late.shares[:] = 0.9
    kept, _, apt, best = beside_stopped(late, late, STEPS)
    assert kept.tolist() == pytest.approx([300, 0.6, 0.82])
    assert apt.tolist() == best.tolist() == pytest.approx([50, 0.6, 0.88])


def table_of_two():
    """Two subjects, one seed: APT reaches the identity of the stopped DreamBooth with the first alone."""
    reaches, never = ([0, 0.3, 0.5, 0.6, 0.6], [0.9, 0.85, 0.8, 0.7, 0.6]), ([0, 0.1, 0.1, 0.1, 0.1], [0.9] * 5)
    return {name: [[run(*reaches)], [run(*never)]] if name == "APT" else [[wobble()], [wobble()]] for name in METHODS}


SIZE = replace(DEFAULT, subjects=("heart_face", "star_badge"), seeds=1, steps=STEPS)


def test_the_stopped_dreambooth_stands_beside_its_last_step_and_apt():
    lines = stopped_section(table_of_two(), SIZE)
    assert lines[-5].count("|") == lines[-4].count("|") == 12
    assert lines[-3:] == [
        "| heart_face | 0 | 100 | 0.400 | 0.900 | 0.700 | 0.300 | 100 | 0.500 | 0.800 | 0.900 |",
        "| star_badge | 0 | 100 | 0.400 | 0.900 | 0.700 | 0.300 | – | – | – | 0.900 |",
        "| mean |  |  | 0.400 ± 0.000 | 0.900 ± 0.000 | 0.700 ± 0.000 | 0.300 ± 0.000 |  "
        "| 0.500 (no error from so few) | 0.800 (no error from so few) | 0.900 ± 0.000 |",
    ]


def test_the_settings_with_the_largest_area_are_chosen_of_each_method():
    good, bad = run([0, 0.5, 0.5, 0.5, 0.5], [0.8] * 5), run([0, 0.5, 0.5, 0.5, 0.5], [0.4] * 5)
    tried = {"DreamBooth + prior": {"weight 1": [bad], "weight 3": [good]}, "APT": {"defaults": [good], "none": [bad]}}
    assert [chosen_settings(each) for each in tried.values()] == ["weight 3", "defaults"]
    assert "of APT from 0.200 (none) to 0.400 (defaults)." in settings_said(tried)
    middle = {"APT": {"defaults": [bad], "none": [run([0] * 5, [0.4] * 5)], "more": [good]}}
    assert settings_said(middle).endswith("of APT from 0.000 (none) to 0.400 (more), with the defaults 0.200.")
    lines = tried_section(tried, ["square_bolt"])
    assert "of DreamBooth + prior **weight 3**, of APT **defaults**" in lines[0]
    assert lines[4:] == [
        "| DreamBooth + prior | weight 1 | 0.200 | 0.500 | 0.400 |",  # 0.5 × 0.4
        "| DreamBooth + prior | weight 3 | 0.400 | 0.500 | 0.800 |",
        "| APT | defaults | 0.400 | 0.500 | 0.800 |",
        "| APT | none | 0.200 | 0.500 | 0.400 |",
    ]
    ceilings = {"identity": 0.9, "adherence": 0.99, "nearest": 0.8}
    command = "python -m benchmarks.methods.run"
    made_with = {"commits": ["abc", "def"], "command": command}
    text = page(table_of_two(), SIZE, tried=tried, ceilings=ceilings, pictures=["![curves](x.png)"], **made_with)
    assert text[4] == "![curves](x.png)"
    assert any("with runs of abc and def" in line and "the judge finds 0.990 right" in line for line in text)
    assert "| untouched model | 0.000 ± 0.000 |" in text and "| held-out pictures | 0.800 |" in text
    assert [line for line in text if line.startswith("#")] == [
        "# APT and what it is measured against",
        "## Identity along training",
        "## Adherence along training",
        "## DreamBooth stopped early",
        "## Similarity to the nearest training picture, last step",
        "## Gaps at equal identity",
    ]


def test_the_plot_has_a_curve_for_each_method_and_a_mark_where_dreambooth_is_stopped():
    (axes,) = draw_curves(table_of_two(), {STOPPED: (0.4, 0.9)}).axes
    data = {line.get_label(): np.array(line.get_xydata()) for line in axes.get_lines()}
    assert list(data) == [*METHODS, STOPPED]
    assert data[STOPPED].tolist() == [[0.4, 0.9]]
    assert data["APT"][1] == pytest.approx([0.2, 0.875])  # the mean of (0.3, 0.85) and (0.1, 0.9)


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (0.9, "keeps more adherence than"),
        (0.1, "keeps less adherence than"),
        (None, "cannot be told apart from"),
    ],
)
def test_verdict_says_what_the_gap_is(level, words):
    falling = [0.9, 0.8, 0.7, 0.5, 0.3]
    identity = [0, 0.2, 0.4, 0.6, 0.7]
    other = falling if level is None else [0.9, *[level] * 4]
    table = {name: [[run(identity, other if name == "APT" else falling)]] * 2 for name in METHODS}
    text = verdict(table, STEPS)
    assert f"At equal identity APT {words} DreamBooth, by two" in text
    assert "identity 0.700 ± 0.000 up" in text


def test_verdict_without_a_common_range_claims_nothing():
    table = {name: [[run([0, 0.2, 0.4, 0.6, 0.7], [0.9] * 5)]] * 2 for name in METHODS}
    table["APT"] = [[run([0, 0.1, 0.1, 0.1, 0.1], [0.9] * 5)]] * 2
    assert "APT cannot be told apart from DreamBooth, by two standard errors: no common range" in verdict(table, STEPS)


def test_a_mean_of_one_value_has_no_error():
    assert with_error(np.array([[0.1], [np.nan]])) == "0.100 (no error from so few)"
    assert with_error(np.array([[0.1], [0.1]])) == "0.100 ± 0.000"
    assert with_error(np.array([[np.nan]])) == "–"
