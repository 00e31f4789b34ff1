"""A confidence sequence for the difference of two versions that answered the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

from serving_gateway.contract.confidence.bets import LOG_WEIGHTS, STAKES
from serving_gateway.contract.confidence.interval import (
    Interval,
    boundary,
    log_sum,
    log_threshold,
    require_counts,
)


@dataclass(frozen=True, slots=True)
class PairedOutcomes:
    """Rows that only B, only A, and both or neither got wrong; estimates B's loss minus A's.

    "Wrong" is any event that both can have on one row: a wrong label, a failure. The difference,
    -1 to 1, is the share of rows that B alone has wrong minus the share that A alone has; rows
    on which both are alike cost almost nothing, which is why mirrored requests prove a
    difference with far fewer outcomes than two groups of clients.

    The bounds invert the capital of bets against a difference, a mixture over stakes that are
    fixed beforehand: Waudby-Smith and Ramdas, Estimating means of bounded random variables by
    betting (2024), theorem 3 and section 4; a mixture in the place of predictions makes the
    capital a function of the counts alone. They assume that each row has the same expected
    difference, whatever the rows before it were.

    Raises:
        ValueError: A count is negative.
    """

    only_b: int
    only_a: int
    alike: int

    def __post_init__(self) -> None:
        require_counts(only_b=self.only_b, only_a=self.only_a, alike=self.alike)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.only_b + other.only_b, self.only_a + other.only_a, self.alike + other.alike
        )

    @property
    def mean(self) -> float | None:
        """The mean difference; None without rows."""
        rows = self.only_b + self.only_a + self.alike
        return (self.only_b - self.only_a) / rows if rows else None

    def bounds(self, alpha: float) -> Interval:
        """Bounds of the expected difference, as in `ConfidenceSequence`."""
        # Each bound takes half of the error rate.
        limit, mean = log_threshold(alpha) + math.log(2), self.mean
        if mean is None:
            return Interval(-1.0, 1.0)
        low = _lower_bound(self.only_b, self.alike, self.only_a, limit)
        return Interval(low, -_lower_bound(self.only_a, self.alike, self.only_b, limit))


def _lower_bound(gains: int, alike: int, losses: int, limit: float) -> float:
    mean = (gains - losses) / (gains + alike + losses)
    return boundary(mean, -1.0, lambda value: _capital(gains, alike, losses, value) >= limit)


def _capital(gains: int, alike: int, losses: int, mean: float) -> float:
    """The logarithm of the capital of bets that differences exceed `mean`.

    A bet of one stake multiplies its capital by 1 + stake (difference - mean) / (mean + 1): a
    fair game if the expected difference is `mean`, a losing one if it is less. It falls as
    `mean` grows, so that what it excludes is everything below a bound.
    """
    scale = mean + 1
    if scale <= 0:
        return math.inf if gains or alike else 0.0
    return log_sum(
        weight
        + gains * math.log1p(stake * (1 - mean) / scale)
        + alike * math.log1p(-stake * mean / scale)
        + losses * math.log1p(-stake)
        for stake, weight in zip(STAKES, LOG_WEIGHTS, strict=True)
    )
