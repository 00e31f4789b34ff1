"""Plain numbers, updated and read on one event loop, so that counting takes no lock."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple

from serving_gateway.telemetry.prediction_log import ModelLog

BUCKETS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Upper bounds of the latency histograms, in seconds."""
KEPT_VERSIONS: Final = 3
"""Versions of a variant whose counts are kept: the newest ones. A version that returns after
its counts were dropped starts at 0, which Prometheus reads as a restart."""
FEATURE_SOURCES: Final = ("payload", "feast", "fallback", "override")
ENTITY_STATUSES: Final = ("found", "unknown", "expired", "incomplete")


@dataclass(slots=True, eq=False)
class Count:
    """A number that only grows."""

    value: int = 0

    def inc(self, amount: int = 1) -> None:
        """Add `amount`."""
        self.value += amount


class LabelledCounts(dict[tuple[str, ...], Count]):
    """Counts by the values of their labels, of which callers must use a bounded number."""

    def labels(self, *values: str) -> Count:
        """The count of these values; the same object each time, so that it may be kept."""
        return self.setdefault(values, Count())


class VariantStats:
    """Counts of one variant and version; `last_at` is `monotonic()` of the last request's end."""

    __slots__ = ("answered", "counts", "failed", "last_at", "rows", "seconds")

    def __init__(self) -> None:
        self.answered = self.failed = self.rows = 0
        self.seconds = 0.0
        self.counts = [0] * (len(BUCKETS) + 1)
        self.last_at: float | None = None

    def answer(self, seconds: float, rows: int) -> None:
        """Count an answered request of `rows` rows that took `seconds`."""
        self.last_at = monotonic()
        self.answered += 1
        self.rows += rows
        self.seconds += seconds
        self.counts[bisect_left(BUCKETS, seconds)] += 1

    def fail(self) -> None:
        """Count a request that was not answered."""
        self.last_at = monotonic()
        self.failed += 1


class LookupCounts:
    """Feature look-ups since the start, and what became of them.

    `reads` of the store are fewer, as look-ups are merged; `refused` look-ups were not tried;
    `by_status` counts entities answered, by one of `ENTITY_STATUSES`.
    """

    def __init__(self) -> None:
        self.look_ups = self.answered = self.timed_out = self.refused = 0
        self.reads = self.failed_reads = self.rows_read = 0
        self.by_status: Counter[str] = Counter()


class RoutedState(NamedTuple):
    """What a replica routes a model to."""

    ready: bool
    """Whether the replica should get the model's traffic."""
    generation: int
    variants: Sequence[tuple[str, int, bool]] = ()
    """Variant, version, and whether Triton has it READY, as last seen."""


class HistogramState(NamedTuple):
    """Numbers of a histogram; `counts` has one more than `bounds`, for all beyond."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float | None
    """None where values may be negative: Prometheus takes a sum that falls for a restart."""


class ShadowState(NamedTuple):
    """Comparisons of the present pairing of versions."""

    version_a: int
    version_b: int
    rows: int
    rows_agreed: int
    probability_difference: HistogramState
    latency_difference: HistogramState


class ModelMetrics:
    """Everything that is counted for one model, and where its present state is read."""

    def __init__(self) -> None:
        self.fallbacks = Count()
        """Requests of B's share that A answered because B could not."""
        self.sources: dict[str, int] = dict.fromkeys(FEATURE_SOURCES, 0)
        """Answered requests by where their rows came from."""
        self.variants: dict[tuple[str, int], VariantStats] = {}
        """By variant and version, the one adopted last at the end."""
        self.mirrored = LabelledCounts()
        """Copies of requests for B, by outcome."""
        self.changes = LabelledCounts()
        """Attempted changes of the routing record, by operation and outcome."""
        self.releases = LabelledCounts()
        """Releases that a change made here ended, by the state that they ended in."""
        self.log: ModelLog | None = None
        self.routed_state: Callable[[], RoutedState | None] = lambda: None
        self.shadow: Callable[[], ShadowState | None] = lambda: None

    def variant(self, variant: str, version: int) -> VariantStats:
        """The counts of one variant and version; drops those of all but its newest versions."""
        stats = self.variants.pop((variant, version), None) or VariantStats()
        self.variants[variant, version] = stats
        for key in [key for key in self.variants if key[0] == variant][:-KEPT_VERSIONS]:
            del self.variants[key]
        return stats
