"""How often sensors look, and how soon a step is tried again."""

from __future__ import annotations

import os
from typing import Final

SENSOR_SECONDS: Final = "SENSOR_SECONDS"
"""Environment variable: seconds from one look of a sensor to its next, for every sensor whose
model file sets no `source.check_every`. Fewer make the platform quicker to notice, at the price of
work; read when definitions are loaded."""
RETRY_SECONDS: Final = "RETRY_SECONDS"
"""Environment variable: seconds before a step whose server was away is tried again."""


def sensor_seconds(usual: int) -> int:
    """Return the seconds between two looks of a sensor that usually has `usual` of them.

    Raises:
        ValueError: the variable is set to something else than a whole number from 1.
    """
    return _seconds(SENSOR_SECONDS, usual, least=1)


def retry_seconds() -> int:
    """Return the seconds before a step's first retry; each one after it waits twice as long.

    Raises:
        ValueError: the variable is set to something else than a whole number from 0.
    """
    return _seconds(RETRY_SECONDS, 10, least=0)


def _seconds(variable: str, usual: int, least: int) -> int:
    text = os.environ.get(variable) or str(usual)
    if not text.isdecimal() or int(text) < least:
        raise ValueError(
            f"{variable}={text!r}: give a whole number of seconds from {least}, or none"
        )
    return int(text)
