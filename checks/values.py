"""Range checks of config values, in one wording."""

import math
from typing import Any


def check_noise_offset(noise_offset: Any) -> None:
    """Raises:
    ValueError: it is no number, negative or not finite.
    """
    is_number = isinstance(noise_offset, int | float) and not isinstance(noise_offset, bool)
    if not is_number or not 0 <= noise_offset < math.inf:
        raise ValueError(
            f"module.noise_offset={noise_offset}: 0, which is none, or a positive number such as DCO's 0.1 is needed"
        )
