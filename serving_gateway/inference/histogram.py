"""Statistics of mirrored requests, with bounds that stay valid under continuous monitoring."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Final

from serving_gateway.contract import (
    BoundedMean,
    BucketCounts,
    MeanDifference,
    Proportion,
    QuantileBounds,
    Trials,
)

_ALPHA: Final = 0.05
"""How often a pair of bounds may ever exclude the true value, however often it is read."""


def proportion(successes: int, trials: int) -> Proportion | None:
    """The share of successes with its bounds; None without trials."""
    if trials == 0:
        return None
    interval = Trials(successes, trials).bounds(_ALPHA)
    return Proportion(successes / trials, interval.low, interval.high)


class Histogram:
    """Counts by bucket, and sums of the values; values beyond the limits count as the limits.

    `low` and `high` are limits of all values that can occur, on which the mean's bounds depend.
    """

    __slots__ = ("bounds", "counts", "high", "largest", "low", "squares", "sum", "total")

    def __init__(self, bounds: tuple[float, ...], low: float, high: float) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0
        self.largest = -math.inf
        self.low, self.high = low, high
        self.sum = self.squares = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += 1
        self.largest = max(self.largest, value)
        if not self.low <= value <= self.high:
            value = self.low if value < self.low else self.high
        self.sum += value
        self.squares += value * value

    def mean(self) -> MeanDifference | None:
        """The mean with its bounds; None without values."""
        if self.total == 0:
            return None
        record = BoundedMean(self.total, self.sum, self.squares, self.low, self.high)
        interval = record.bounds(_ALPHA)
        return MeanDifference(self.sum / self.total, interval.low, interval.high, self.largest)

    def median(self) -> QuantileBounds | None:
        """The bounds of the median; None without values."""
        if self.total == 0:
            return None
        bounds = BucketCounts(self.bounds, tuple(self.counts)).bounds(_ALPHA)
        low, high = (None if math.isinf(bound) else bound for bound in (bounds.low, bounds.high))
        return QuantileBounds(low, high)
