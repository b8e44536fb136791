"""Range checks name the key, the value and what is needed."""

import math

import pytest

from checks.values import at_least, check_noise_offset, finite, one_of, share


@pytest.mark.parametrize("value", [True, "1", None, math.nan, math.inf])
@pytest.mark.parametrize("check", [finite, share, lambda key, value: at_least(key, value, 0)])
def test_what_is_no_number_is_refused(check, value):
    with pytest.raises(ValueError, match=f"a.b={value}: "):
        check("a.b", value)


def test_the_ends_of_a_range_belong_to_it():
    for value in (0, 0.5, 1):
        share("a.b", value)
    at_least("a.b", 2, 2)
    finite("a.b", -1e9)
    one_of("a.b", "x", iter("xy"))
    check_noise_offset(0)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: at_least("a.b", 1.5, 2), r"^a\.b=1\.5: 2 or more is needed$"),
        (lambda: at_least("a.b", -1, 0, what="0 is none"), r"^a\.b=-1: 0 or more is needed, 0 is none$"),
        (lambda: share("a.b", 1.1), r"^a\.b=1\.1: a number in \[0, 1\] is needed$"),
        (lambda: one_of("a.b", "z", "xy"), r"^a\.b=z: choose one of x, y$"),
        (lambda: check_noise_offset(-0.1), r"^module\.noise_offset=-0\.1: 0 or more is needed"),
    ],
)
def test_one_wording(check, message):
    with pytest.raises(ValueError, match=message):
        check()
