"""Intervals of sensors, and delays of retries."""

from __future__ import annotations

import os
from typing import Final

SENSOR_SECONDS: Final = "SENSOR_SECONDS"
"""Environment variable: seconds between two evaluations of a sensor, for every sensor whose model
file sets no `source.check_every`. Fewer seconds mean quicker detection but more work; read when
definitions are loaded."""
RETRY_SECONDS: Final = "RETRY_SECONDS"
"""Environment variable: seconds before a step whose server was unavailable is retried."""


def sensor_seconds(usual: int) -> int:
    """Return the seconds between two evaluations of a sensor, by default `usual`.

    Raises:
        ValueError: the variable is set to something other than an integer from 1 up.
    """
    return _seconds(SENSOR_SECONDS, usual, least=1)


def retry_seconds() -> int:
    """Return the seconds before a step's first retry; each further one waits twice as long.

    Raises:
        ValueError: the variable is set to something other than an integer from 0 up.
    """
    return _seconds(RETRY_SECONDS, 10, least=0)


def _seconds(variable: str, usual: int, least: int) -> int:
    text = os.environ.get(variable) or str(usual)
    if not text.isdecimal() or int(text) < least:
        raise ValueError(
            f"{variable}={text!r}: give a whole number of seconds from {least}, or none"
        )
    return int(text)
