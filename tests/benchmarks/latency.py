"""Send times and percentiles of an open-loop run: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Sequence

PERCENTILES = (50.0, 99.0, 99.9)


def send_times(per_second: float, seconds: float) -> list[float]:
    """Seconds after the start at which each request is due, evenly spaced.

    Raises:
        ValueError: the rate or the duration is not positive.
    """
    if per_second <= 0 or seconds <= 0:
        raise ValueError(f"{per_second:g} requests/s for {seconds:g} s is not a load")
    return [number / per_second for number in range(math.floor(per_second * seconds))]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed (nearest rank).

    Args:
        ordered: values in ascending order.
        percent: above 0 and up to 100.

    Raises:
        ValueError: there are no values, or the percentage is out of range.
    """
    if not ordered or not 0 < percent <= 100:
        raise ValueError(f"no {percent:g} % of {len(ordered)} values")
    # 99.9 / 100 * 1000 is a little over 999, which must not count as the next rank.
    rank = math.ceil(round(percent / 100 * len(ordered), 6))
    return ordered[max(rank, 1) - 1]


def summarize_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the maximum of latencies in seconds, as milliseconds."""
    ordered = sorted(seconds)
    figures = {f"p{percent:g}": percentile(ordered, percent) for percent in PERCENTILES}
    return {name: round(value * 1e3, 3) for name, value in {**figures, "max": ordered[-1]}.items()}
