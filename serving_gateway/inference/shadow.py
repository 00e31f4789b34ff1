"""How B's answers to copies compare with A's, for one pairing of versions. No I/O."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import InitVar, dataclass, field
from typing import Any, Final, NamedTuple

from serving_gateway.contract import (
    Disagreement,
    Pairing,
    RoutedVersion,
    ShadowReport,
)
from serving_gateway.inference.codec import ModelOutput
from serving_gateway.inference.histogram import Histogram, proportion
from serving_gateway.telemetry.counters import HistogramState, ShadowState

_CLOSE: Final = 1e-6
"""Relative difference up to which two numbers of a regression count as the same."""

DIFFERENCES: Final = (0.0001, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Upper bounds of the histogram of probability differences."""
DELAYS: Final = (
    *(-0.25, -0.1, -0.05, -0.025, -0.01, -0.005, -0.002, -0.001),
    *(0.0, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
)
"""Upper bounds of the histogram of latency differences, B's minus A's, in seconds."""


class AnswerComparison(NamedTuple):
    """How two outputs for the same rows compare."""

    apart: list[int]
    """Rows that are labelled differently."""
    differences: list[float]
    """Per row, the largest difference in a class's probability; empty without probabilities."""


def compare(ours: ModelOutput, theirs: ModelOutput) -> AnswerComparison:
    """Compare A's and B's answers to one request."""
    pairs = zip(ours.predictions, theirs.predictions, strict=True)
    apart = [
        number for number, (one, other) in enumerate(pairs) if not predictions_agree(one, other)
    ]
    if ours.probabilities is None or theirs.probabilities is None:
        return AnswerComparison(apart, [])
    pairs = zip(ours.probabilities, theirs.probabilities, strict=True)
    return AnswerComparison(apart, [largest_difference(one, other) for one, other in pairs])


@dataclass(slots=True, eq=False)
class PairingStatistics:
    """How B's answers compare with A's; `pairing` is None before the first copy."""

    pairing: Pairing | None
    since: str | None
    """When the first copy was taken, RFC 3339 in UTC."""
    examples: deque[Disagreement]
    """The newest rows that were labelled differently."""
    seconds: InitVar[float]
    """Deadline of a request: the limit of latency differences."""
    requests: int = 0
    """Those that B answered."""
    rows: int = 0
    agreed: int = 0
    """Rows that were labelled alike."""
    failed: int = 0
    """Copies that B could not answer."""
    dropped: int = 0
    """Copies that were not made."""
    differences: Histogram = field(default_factory=lambda: Histogram(DIFFERENCES, 0.0, 1.0))
    delays: Histogram = field(init=False)

    def __post_init__(self, seconds: float) -> None:
        self.delays = Histogram(DELAYS, -seconds, seconds)

    def note(
        self,
        ours: ModelOutput,
        theirs: ModelOutput,
        delay: float,
        sent: Sequence[Any],
        comparison: AnswerComparison | None = None,
    ) -> bool:
        """Count A's and B's answers to one request; return whether all rows were labelled alike.

        `delay` is B's latency minus A's in seconds, `sent` the rows as the client sent them.
        """
        self.requests += 1
        self.delays.note(delay)
        apart, differences = comparison or compare(ours, theirs)
        self.rows += len(ours.predictions)
        self.agreed += len(ours.predictions) - len(apart)
        a, b = ours.probabilities, theirs.probabilities
        for difference in differences:
            self.differences.note(difference)
        for number in apart:
            self.examples.append(
                Disagreement(
                    sent[number],
                    ours.predictions[number],
                    theirs.predictions[number],
                    None if a is None else a[number],
                    None if b is None else b[number],
                )
            )
        return not apart


def predictions_agree(a: Any, b: Any) -> bool:
    """Whether two predictions agree: equal labels, or numbers that differ by rounding only."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=_CLOSE)
    return bool(a == b)


def largest_difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest difference in a class's probability; 1 when they cannot be compared."""
    if len(one) != len(other):
        return 1.0
    differences = [abs(first - second) for first, second in zip(one, other, strict=True)]
    are_numbers = all(difference <= 1.0 for difference in differences)  # NaN is not
    return max(differences, default=0.0) if are_numbers else 1.0


class ShadowStatistics:
    """Keeps the page of the present pairing, with the newest `examples`.

    `seconds` is the deadline of a request, and so the largest difference between two latencies.
    """

    def __init__(self, examples: int, seconds: float) -> None:
        self._kept = examples
        self._seconds = seconds
        self.page = self._page(None, None)

    def open(self, pairing: Pairing, now: Callable[[], str]) -> PairingStatistics:
        """The page of a pairing: an empty one if the pairing has changed."""
        if pairing != self.page.pairing:
            self.page = self._page(pairing, now())
        return self.page

    def _page(self, pairing: Pairing | None, since: str | None) -> PairingStatistics:
        return PairingStatistics(pairing, since, deque(maxlen=self._kept), self._seconds)

    def state(self) -> ShadowState | None:
        """The numbers of the present pairing; None before its first copy."""
        page = self.page
        if page.pairing is None:
            return None
        a, b = page.pairing
        return ShadowState(
            a.version,
            b.version,
            page.rows,
            page.agreed,
            HistogramState(DIFFERENCES, page.differences.counts, page.differences.sum),
            HistogramState(DELAYS, page.delays.counts, None),
        )

    def summary(
        self, replica: str, a: RoutedVersion | None, b: RoutedVersion | None, *, examples: bool
    ) -> ShadowReport:
        """What is known about a pairing; `examples`: whether the caller may see clients' rows."""
        page = self.page
        if a is None or b is None or (a, b) != page.pairing:
            page = self._page(None, None)
        return ShadowReport(
            replica=replica,
            a=a,
            b=b,
            since=page.since,
            requests=page.requests,
            rows=page.rows,
            rows_agreed=page.agreed,
            failed=page.failed,
            dropped=page.dropped,
            agreement=proportion(page.agreed, page.rows),
            probability_difference=page.differences.mean(),
            latency_difference_seconds=page.delays.mean(),
            latency_difference_median_seconds=page.delays.median(),
            examples=tuple(page.examples) if examples else (),
            examples_withheld=bool(page.examples) and not examples,
        )
