"""A confidence sequence for the mean of values within known limits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Self

from serving_gateway.contract.confidence.bets import LOG_WEIGHTS, PENALTIES, STAKES
from serving_gateway.contract.confidence.interval import (
    Interval,
    boundary,
    log_sum,
    log_threshold,
    require_counts,
)

_ROUNDING: Final = 1e-9
"""Relative error of a sum of floats that is no sign of a value out of its limits."""


@dataclass(frozen=True, slots=True)
class BoundedMean:
    """Values within `low` and `high`: their number, sum and sum of squares; estimates their mean.

    Limits, values and bounds have one unit. The limits hold for every value that can occur, and
    are not taken from the data. A difference of two versions on the same row is a value within
    -1 and 1 when each version's own is within 0 and 1.

    The bounds are of the empirical Bernstein kind, narrow where the values vary little: by lemma
    4.1 of Fan, Grama and Liu, Exponential inequalities for martingales with applications (2015),
    exp(s y - (-log(1-s) - s) y²) <= 1 + s y for y >= -1 and 0 <= s < 1, so that with y the
    deviation from a mean in units of its distance to the lower limit, the product over values is
    below the capital of a bet of stake s. That is theorem 4 of Howard, Ramdas, McAuliffe and
    Sekhon, Time-uniform, nonparametric, nonasymptotic confidence sequences (2021), centred at the
    mean that is tested in the place of predictions. A mixture over stakes depends on the three
    sums alone. The bounds assume that each value has the same expectation,
    whatever the values before it were.

    Raises:
        ValueError: The limits are no range, or the sums are not those of values within them.
    """

    count: int
    total: float
    squares: float
    low: float
    high: float

    def __post_init__(self) -> None:
        require_counts(count=self.count)
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"Limits of values are two finite numbers: {self.low}, {self.high}.")
        slack = _ROUNDING * self.count * max(abs(self.low), abs(self.high))
        largest = max(self.low**2, self.high**2)
        if not (
            self.count * self.low - slack <= self.total <= self.count * self.high + slack
            and self.squares <= (1 + _ROUNDING) * self.count * largest
            and (1 + _ROUNDING) * self.count * self.squares >= self.total**2
        ):
            raise ValueError(
                f"{self.count} values within {self.low} and {self.high} cannot have the sum "
                f"{self.total} and the sum of squares {self.squares}."
            )

    def __add__(self, other: Self) -> Self:
        """The record of both records' values; `ValueError` where their limits differ."""
        if (self.low, self.high) != (other.low, other.high):
            raise ValueError(
                f"Values within {self.low} and {self.high} and values within {other.low} and "
                f"{other.high} have no common bounds."
            )
        return type(self)(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.low,
            self.high,
        )

    @property
    def mean(self) -> float | None:
        """The mean of the values; None without values."""
        return self.total / self.count if self.count else None

    def bounds(self, alpha: float) -> Interval:
        """Bounds of the expectation, as in `ConfidenceSequence`."""
        # Each bound takes half of the error rate.
        limit, low, high = log_threshold(alpha) + math.log(2), self.low, self.high
        if not self.count:
            return Interval(low, high)
        # Both distances to a limit are sums of nonnegative terms.
        total = max(0.0, self.total - self.count * low)
        squares = self.squares - 2 * low * self.total + self.count * low**2
        above = max(0.0, self.count * high - self.total)
        opposite = self.squares - 2 * high * self.total + self.count * high**2
        return Interval(
            min(high, low + _least_mean(self.count, total, squares, limit)),
            max(low, high - _least_mean(self.count, above, opposite, limit)),
        )


def _least_mean(count: int, total: float, squares: float, limit: float) -> float:
    """The greatest lower bound of the mean of nonnegative values that the bets allow.

    Sought is the reciprocal of a mean, in which the exponent of each bet is a parabola; where the
    best single bet alone reaches the limit is one end, the mean of the values the other. The
    capital that bounds the mixture falls as the tested mean grows, so that a mean which is
    excluded excludes all lesser ones too.
    """
    if total <= 0 or squares <= 0:
        return 0.0
    ends = []
    for stake, penalty, weight in zip(STAKES, PENALTIES, LOG_WEIGHTS, strict=True):
        half = (stake / 2 + penalty) * total
        roots = half**2 - penalty * squares * ((stake + penalty) * count + limit - weight)
        if roots >= 0:
            ends.append((half - math.sqrt(roots)) / (penalty * squares))
    if not ends:
        return 0.0

    def is_excluded(reciprocal: float) -> bool:
        deviations = total * reciprocal - count
        spread = max(0.0, squares * reciprocal**2 - 2 * total * reciprocal + count)
        mixed = log_sum(
            weight + stake * deviations - penalty * spread
            for stake, penalty, weight in zip(STAKES, PENALTIES, LOG_WEIGHTS, strict=True)
        )
        return mixed >= limit

    return 1 / boundary(count / total, min(ends), is_excluded)
