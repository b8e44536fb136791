"""The arithmetic behind `docs/benchmarks/guidance.md`."""

import pytest

from benchmarks.guidance.table import verdict
from benchmarks.shared.curves import front_area


def test_front_area_by_hand():
    # Above (0, 0): 3 × 1, then 1 × (2 − 1) on top of it; (1, 0.5) is dominated.
    assert front_area([(3.0, 1.0), (1.0, 2.0), (1.0, 0.5)], floor=(0.0, 0.0)) == pytest.approx(4.0)
    assert front_area([(3.0, 1.0)], floor=(1.0, 0.5)) == pytest.approx(1.0)
    assert front_area([(1.0, 9.0)], floor=(1.0, 0.0)) == 0


@pytest.mark.parametrize(("rescaled", "word"), [((0.5, 0.7), "not more"), ((0.5, 0.51), "more")])
def test_verdict_says_whether_two_standard_errors_are_passed(rescaled, word):
    areas = {
        "DreamBooth + CFG": (0.1, 0.1),
        "DCO + consistency": (0.4, 0.4) if word == "more" else (0.5, 0.6),
        "DCO + rescaled, s=0": (0.0, 0.0),
        "DCO + rescaled, s=0.5": rescaled,
    }
    text = verdict(areas)
    assert text.startswith("Of the rules, `DCO + rescaled, s=0.5` dominates the largest area")
    assert f"subjects, {word} than two standard errors" in text
