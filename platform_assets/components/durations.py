"""Lengths of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

_DURATION: Final = re.compile(r"(\d+)(w|d|h|m|s)", re.ASCII)
_UNITS: Final = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_LONGEST: Final = timedelta(days=36_500)


def duration(text: str) -> timedelta:
    """Read `24h`, `90d` or `1d12h`.

    Raises:
        ValueError: for anything else, nothing, and more than a hundred years.
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration: write numbers with units, as 30m, 24h, 90d")
    try:
        length = sum((timedelta(**{_UNITS[u]: int(n)}) for n, u in parts), timedelta())
    except OverflowError:
        length = _LONGEST * 2
    if not timedelta() < length <= _LONGEST:
        raise ValueError(f"{text!r} must be more than nothing and at most 100 years (36500d)")
    return length
