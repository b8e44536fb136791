"""What `docs/benchmark.md` says of APT, from numbers that are known."""

import numpy as np
import pytest

from benchmarks.methods_scores import RunScores
from benchmarks.methods_table import gap_to_stopped, stopped, verdict, with_error

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


def test_dreambooth_stops_before_it_stays_below_its_best():
    wobble = run([0, 0.2, 0.4, 0.6, 0.7], [0.9, 0.9, 0.9, 0.5, 0.3])
    wobble.shares[3:] += np.linspace(-0.01, 0.01, 10)[None, :, None]  # the drop has noise of its own
    assert STEPS[stopped(wobble, STEPS)] == 100
    assert STEPS[stopped(run([0, 0.2, 0.4, 0.6, 0.7], [0.9] * 5), STEPS)] == 300


def test_gap_to_the_stopped_dreambooth_is_unbiased_for_equal_methods():
    rng, gaps = np.random.default_rng(0), []
    for _ in range(400):
        pair = []
        for _ in range(2):
            right = rng.integers(0, 2, (len(STEPS), 10, 2)).astype(float)
            pair.append(RunScores(identity=np.ones_like(right), adherence=right, shares=right, nearest=right))
        gaps.append(gap_to_stopped(*pair, STEPS))
    error = np.std(gaps) / np.sqrt(len(gaps))
    assert abs(np.mean(gaps)) < 4 * error < 0.06


def test_what_never_reaches_the_stopped_identity_has_no_gap():
    apt, dreambooth = run([0, 0.1, 0.1, 0.1, 0.1], [0.9] * 5), run([0, 0.2, 0.4, 0.6, 0.7], [0.9] * 5)
    assert np.isnan(gap_to_stopped(apt, dreambooth, STEPS))


@pytest.mark.parametrize(("level", "words"), [(0.9, "keeps more"), (0.1, "keeps less"), (None, "does not keep more")])
def test_verdict_says_what_the_gap_is(level, words):
    falling = [0.9, 0.8, 0.7, 0.5, 0.3]
    identity = [0, 0.2, 0.4, 0.6, 0.7]
    other = falling if level is None else [0.9, *[level] * 4]
    table = {name: [[run(identity, other if name == "APT" else falling)]] * 2 for name in METHODS}
    text = verdict(table, STEPS)
    assert f"APT {words} adherence than DreamBooth" in text
    assert "identity 0.700 ± 0.000 up" in text


def test_a_mean_of_one_value_has_no_error():
    assert with_error(np.array([[0.1], [np.nan]])) == "0.100 (no error from so few)"
    assert with_error(np.array([[0.1], [0.1]])) == "0.100 ± 0.000"
    assert with_error(np.array([[np.nan]])) == "–"
