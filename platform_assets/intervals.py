"""How often sensors look: each has an interval of its own, and one variable sets them all."""

from __future__ import annotations

import os
from typing import Final

SENSOR_SECONDS: Final = "SENSOR_SECONDS"
"""Environment variable: seconds from one look of a sensor to its next, for every sensor. Fewer
make the platform quicker to notice, at the price of work; read when definitions are loaded."""


def sensor_seconds(usual: int) -> int:
    """Return the seconds between two looks of a sensor that usually has `usual` of them.

    Raises:
        ValueError: the variable is set to something else than a whole number from 1.
    """
    text = os.environ.get(SENSOR_SECONDS) or str(usual)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(
            f"{SENSOR_SECONDS}={text!r}: give a whole number of seconds from 1, or none"
        )
    return int(text)
