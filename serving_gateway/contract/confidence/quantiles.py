"""Confidence sequences for a quantile, and for the ratio of two, from counts by buckets."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Final, Self

from serving_gateway.contract.confidence.interval import Interval, log_threshold, require_counts
from serving_gateway.contract.confidence.trials import Trials

LATENCY_EDGES: Final = tuple(0.0001 * 2 ** (step / 16) for step in range(309))
"""Upper bounds of buckets for latencies, in seconds: 0.1 ms to 62 s in steps of 4.4 %."""


@dataclass(frozen=True, slots=True)
class BucketCounts:
    """Counts of values by buckets; estimates quantiles of their distribution.

    Bucket `i` holds the values above `edges[i - 1]` and up to `edges[i]`, in their unit; one more
    count is of those beyond the last edge. The bounds of a quantile are edges.

    Whether a value is at most the quantile of order q is a trial with probability q (where several
    values equal the quantile, with some of them counted), so the number of such values stays
    within bounds as in `Trials`, and the quantile within the buckets where that number is
    reached: Howard and Ramdas, Sequential estimation of quantiles with applications to A/B
    testing and best-arm identification (2022), for one quantile, by a beta-binomial mixture.
    Only the bucket of the true quantile can be excluded wrongly: it is one test, not one per
    bucket. The bounds assume values of one distribution that do not depend on those before.

    Raises:
        ValueError: The edges do not rise, or there is not one more count than edges.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        require_counts(**{f"counts[{place}]": count for place, count in enumerate(self.counts)})
        if not all(low < high for low, high in pairwise(self.edges)):
            raise ValueError("The edges of buckets rise from each to the next.")
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges and {len(self.counts)} counts: one more.")

    def __add__(self, other: Self) -> Self:
        """The record of both records' values; `ValueError` where their edges differ."""
        if self.edges != other.edges:
            raise ValueError("Counts by different edges cannot be added.")
        both = zip(self.counts, other.counts, strict=True)
        return type(self)(self.edges, tuple(one + more for one, more in both))

    @classmethod
    def of(cls, edges: tuple[float, ...], values: Iterable[float]) -> Self:
        """Count values by buckets."""
        counts = [0] * (len(edges) + 1)
        for value in values:
            counts[bisect_left(edges, value)] += 1
        return cls(edges, tuple(counts))

    def bounds(self, alpha: float, order: float = 0.5) -> Interval:
        """Bounds of the quantile, as in `ConfidenceSequence`; infinite where no edge bounds it.

        Raises:
            ValueError: `alpha` or `order` is not between 0 and 1.
        """
        limit = log_threshold(alpha)
        if not 0 < order < 1:
            raise ValueError(f"A quantile's order lies between 0 and 1, as 0.99; {order} does not.")
        upto = (0, *accumulate(self.counts))
        low, high = _plausible_counts(upto[-1], order, limit)
        ends = (-math.inf, *self.edges, math.inf)
        # The buckets that may hold the quantile: those with a plausible number of values below it.
        possible = [
            bucket
            for bucket, (below, within) in zip(pairwise(ends), pairwise(upto), strict=True)
            if below <= high and within >= low
        ]
        return Interval(possible[0][0], possible[-1][1])


def quantile_ratio(a: BucketCounts, b: BucketCounts, order: float, alpha: float) -> Interval:
    """Bounds of B's quantile over A's, as in `ConfidenceSequence`; of values above 0.

    Each quantile takes half of the error rate, so that the versions may have answered the same
    requests, whose latencies depend on each other.

    Raises:
        ValueError: `alpha` or `order` is not between 0 and 1.
    """
    log_threshold(alpha)
    ours, theirs = a.bounds(alpha / 2, order), b.bounds(alpha / 2, order)
    return Interval(
        max(0.0, theirs.low) / ours.high,
        theirs.high / ours.low if ours.low > 0 else math.inf,
    )


def _plausible_counts(total: int, order: float, limit: float) -> tuple[int, int]:
    """The least and greatest number of values up to the quantile that is not excluded."""

    def evidence(count: int) -> float:
        return Trials(count, total).evidence()(order)

    def is_excluded(count: int) -> bool:
        return evidence(count) >= limit

    # Convex in the count, and at its least value below any limit: there its mean is 1.
    counts = range(total + 1)
    least = bisect_left(counts[:-1], True, key=lambda n: evidence(n) <= evidence(n + 1))
    low = bisect_left(counts[: least + 1], True, key=lambda n: not is_excluded(n))
    return low, bisect_left(counts, True, lo=least, key=is_excluded) - 1
