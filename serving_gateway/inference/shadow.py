"""The shadow ledger: how B's answers to mirrored requests compare with A's. Pure.

It is about one pairing of versions: another version on either side starts an empty page.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from serving_gateway.contract import (
    Disagreement,
    MeanDifference,
    Pairing,
    Proportion,
    ShadowReport,
    ShadowSide,
)
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.telemetry.counters import HistogramState, ShadowState

_Z: Final = 1.959963984540054
"""Of the standard normal distribution, for two-sided bounds at 95 %."""
_CLOSE: Final = 1e-6
"""Relative difference up to which two numbers of a regression count as the same."""

DIFFERENCES: Final = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Upper bounds of the histogram of probability differences."""
DELAYS: Final = (
    *(-0.25, -0.1, -0.05, -0.025, -0.01, -0.005, -0.002, -0.001),
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
"""Upper bounds of the histogram of latency differences, B's minus A's, in seconds."""


def wilson(successes: int, trials: int) -> Proportion | None:
    """The share of successes with the bounds of Wilson's score interval; None without trials."""
    if trials == 0:
        return None
    share = successes / trials
    spread = _Z * _Z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    # At 0 and 1 rounding may leave the share itself just outside.
    low, high = max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
    return Proportion(share, low, high)


class Histogram:
    """Counts by bounds, and the moments of what was counted."""

    __slots__ = ("_mean", "_squares", "bounds", "counts", "largest", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0
        self.largest = -math.inf
        self._mean = 0.0
        self._squares = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += 1
        self.largest = max(self.largest, value)
        off = value - self._mean
        self._mean += off / self.total
        self._squares += off * (value - self._mean)

    @property
    def sum(self) -> float:
        """The sum of all values."""
        return self._mean * self.total

    def mean(self) -> MeanDifference | None:
        """The mean with its bounds; None without values."""
        if self.total == 0:
            return None
        half = 0.0
        if self.total > 1:
            half = _Z * math.sqrt(self._squares / (self.total - 1) / self.total)
        return MeanDifference(self._mean, self._mean - half, self._mean + half, self.largest)


class PairingCounts:
    """Counts of one pairing."""

    __slots__ = ("agreed", "delays", "differences", "requests", "rows")

    def __init__(self) -> None:
        self.requests = 0
        self.rows = 0
        self.agreed = 0
        self.differences = Histogram(DIFFERENCES)
        self.delays = Histogram(DELAYS)

    def note(self, ours: ModelOutput, theirs: ModelOutput, delay: float) -> list[int]:
        """Compare the answers to one request; the rows that are labelled differently."""
        self.requests += 1
        self.delays.note(delay)
        pairs = zip(ours.predictions, theirs.predictions, strict=True)
        apart = [number for number, (one, other) in enumerate(pairs) if not same(one, other)]
        rows = len(ours.predictions)
        self.rows += rows
        self.agreed += rows - len(apart)
        if ours.probabilities is not None and theirs.probabilities is not None:
            for one, other in zip(ours.probabilities, theirs.probabilities, strict=True):
                self.differences.note(largest_difference(one, other))
        return apart


def same(one: Any, other: Any) -> bool:
    """Whether two predictions agree: equal labels, or numbers that differ by rounding only."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_CLOSE)
    return bool(one == other)


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference of a class's probability; 1 when they cannot be compared."""
    if len(one) != len(other):
        return 1.0
    found = 0.0
    for first, second in zip(one, other, strict=True):
        difference = abs(first - second)
        if not difference <= 1.0:  # NaN too
            return 1.0
        found = max(found, difference)
    return found


class PairingStatistics:
    """The comparisons of one pairing.

    Attributes:
        pairing: the versions; None before the first copy.
        since: when the first copy was taken, RFC 3339 in UTC.
        comparison: what became of those that B answered.
        failed: copies that B could not answer.
        dropped: copies that were not made.
        examples: the newest rows that were labelled differently.
    """

    __slots__ = ("comparison", "dropped", "examples", "failed", "pairing", "since")

    def __init__(self, pairing: Pairing | None, since: str | None, examples: int) -> None:
        self.pairing = pairing
        self.since = since
        self.comparison = PairingCounts()
        self.failed = 0
        self.dropped = 0
        self.examples: deque[Disagreement] = deque(maxlen=examples)


class ShadowStatistics:
    """Keeps the page of the present pairing.

    Args:
        examples: how many rows that are labelled differently are kept.
    """

    def __init__(self, examples: int) -> None:
        self._kept = examples
        self.page = PairingStatistics(None, None, examples)

    def open(self, pairing: Pairing, now: Callable[[], str]) -> PairingStatistics:
        """The page of a pairing: an empty one when the pairing is another than before."""
        if pairing != self.page.pairing:
            self.page = PairingStatistics(pairing, now(), self._kept)
        return self.page

    def state(self) -> ShadowState | None:
        """The numbers of the present pairing; None before its first copy."""
        if self.page.pairing is None:
            return None
        a, b = self.page.pairing
        found = self.page.comparison
        return ShadowState(
            a.version,
            b.version,
            found.rows,
            found.agreed,
            HistogramState(DIFFERENCES, found.differences.counts, found.differences.sum),
            HistogramState(DELAYS, found.delays.counts, None),
        )

    def summary(
        self, replica: str, a: ShadowSide | None, b: ShadowSide | None, *, examples: bool
    ) -> ShadowReport:
        """What is known about a pairing, which is nothing before its first copy.

        Args:
            replica: who tells.
            a: A's side, if it has a version.
            b: B's side, if it has a version.
            examples: whether the caller may see clients' rows.
        """
        page = self.page
        if a is None or b is None or (a, b) != page.pairing:
            page = PairingStatistics(None, None, 0)
        found = page.comparison
        return ShadowReport(
            replica=replica,
            a=a,
            b=b,
            since=page.since,
            requests=found.requests,
            rows=found.rows,
            rows_agreed=found.agreed,
            failed=page.failed,
            dropped=page.dropped,
            agreement=wilson(found.agreed, found.rows),
            probability_difference=found.differences.mean(),
            latency_difference_seconds=found.delays.mean(),
            examples=tuple(page.examples) if examples else (),
            examples_withheld=bool(page.examples) and not examples,
        )


def note(
    page: PairingStatistics,
    ours: ModelOutput,
    theirs: ModelOutput,
    delay: float,
    sent: Sequence[Any],
) -> bool:
    """Note one comparison on its page; whether all rows were labelled alike.

    Args:
        page: of the versions that answered.
        ours: A's answers.
        theirs: B's answers to the same rows.
        delay: B's latency minus A's, in seconds.
        sent: the rows as the client sent them.
    """
    apart = page.comparison.note(ours, theirs, delay)
    for number in apart:
        one, other = ours.part(number, number + 1), theirs.part(number, number + 1)
        page.examples.append(
            Disagreement(
                sent[number],
                one.predictions[0],
                other.predictions[0],
                None if one.probabilities is None else one.probabilities[0],
                None if other.probabilities is None else other.probabilities[0],
            )
        )
    return not apart
