"""What Prometheus reads. The request path counts in plain numbers; a scrape does the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving_gateway.shadow import Ledger, Page

BUCKETS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Upper bounds of the latency histograms, in seconds."""


class VariantStats:
    """Counts of one variant and version, updated by the request path of one event loop."""

    __slots__ = ("answered", "counts", "failed", "rows", "seconds")

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.rows = 0
        self.seconds = 0.0
        self.counts = [0] * (len(BUCKETS) + 1)

    def answer(self, seconds: float, rows: int) -> None:
        """Count an answered request of `rows` rows that took `seconds`."""
        self.answered += 1
        self.rows += rows
        self.seconds += seconds
        self.counts[bisect_left(BUCKETS, seconds)] += 1


class ReplicaState:
    """Numbers about the replica at the moment of a scrape."""

    __slots__ = ("generation", "in_flight", "ready")

    def __init__(self, *, ready: bool, generation: int, in_flight: int) -> None:
        self.ready = ready
        self.generation = generation
        self.in_flight = in_flight


class Metrics(Collector):
    """All metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.http_requests = Counter(
            "http_requests",
            "HTTP requests answered.",
            ("method", "path", "status"),
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "gateway_fallbacks",
            "Requests of variant B's share that A answered because B could not.",
            registry=self.registry,
        )
        self.mirrored = Counter(
            "gateway_mirrored",
            "Requests copied to variant B, by what became of the copy.",
            ("outcome",),
            registry=self.registry,
        )
        self.changes = Counter(
            "gateway_changes",
            "Changes of the routing record that were asked for, by what became of them.",
            ("operation", "outcome"),
            registry=self.registry,
        )
        self.info = Info(
            "gateway",
            "Which replica answers this scrape: counters of two replicas are not to be mixed.",
            registry=self.registry,
        )
        self._variants: dict[tuple[str, int], VariantStats] = {}
        self._state: Callable[[], ReplicaState] | None = None
        self._ledger: Ledger | None = None
        self.registry.register(self)

    def watch(self, state: Callable[[], ReplicaState], ledger: Ledger) -> None:
        """Read the replica's state with `state`, and the shadow ledger, at each scrape."""
        self._state = state
        self._ledger = ledger

    def variant(self, variant: str, version: int) -> VariantStats:
        """The counts of one variant and version; the same object each time."""
        return self._variants.setdefault((variant, version), VariantStats())

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing: what `collect` gives depends on the versions seen."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The counts of all variants and versions, and the replica's state."""
        labels = ("variant", "version")
        requests = CounterMetricFamily(
            "gateway_predictions", "Prediction requests.", labels=(*labels, "outcome")
        )
        rows = CounterMetricFamily("gateway_rows", "Rows predicted.", labels=labels)
        seconds = HistogramMetricFamily(
            "gateway_prediction_seconds",
            "From a checked request to its answer, the wait for Triton included.",
            labels=labels,
        )
        for (variant, version), stats in self._variants.items():
            label = (variant, str(version))
            requests.add_metric((*label, "answered"), stats.answered)
            requests.add_metric((*label, "failed"), stats.failed)
            rows.add_metric(label, stats.rows)
            buckets = _buckets(BUCKETS, stats.counts)
            seconds.add_metric(label, buckets=buckets, sum_value=stats.seconds)
        yield from (requests, rows, seconds)
        if self._ledger is not None:
            yield from _shadow(self._ledger.page)
        if self._state is not None:
            state = self._state()
            yield GaugeMetricFamily(
                "gateway_ready", "1 when this replica should get traffic.", value=state.ready
            )
            yield GaugeMetricFamily(
                "gateway_routing_generation",
                "Generation of the routing record that this replica routes by.",
                value=state.generation,
            )
            yield GaugeMetricFamily(
                "gateway_requests_in_flight", "Requests being worked on.", value=state.in_flight
            )


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus wants them."""
    return list(zip((*map(str, bounds), "+Inf"), map(float, accumulate(counts)), strict=True))


def _shadow(page: Page) -> Iterator[Metric]:
    """What is known about the present pairing; a former one is told no more."""
    if page.pairing is None:
        return
    names = ("version_a", "version_b")
    label = tuple(str(side.version) for side in page.pairing)
    found = page.comparison
    rows = CounterMetricFamily(
        "gateway_shadow_rows",
        "Rows of mirrored requests, by whether both versions label them alike.",
        labels=(*names, "outcome"),
    )
    rows.add_metric((*label, "agreed"), found.agreed)
    rows.add_metric((*label, "disagreed"), found.rows - found.agreed)
    differences = HistogramMetricFamily(
        "gateway_shadow_probability_difference",
        "Per row, the largest difference of a class's probability between the versions.",
        labels=names,
    )
    histogram = found.differences
    differences.add_metric(
        label, buckets=_buckets(histogram.bounds, histogram.counts), sum_value=histogram.sum
    )
    delays = HistogramMetricFamily(
        "gateway_shadow_latency_difference_seconds",
        "Per mirrored request, B's latency minus A's.",
        labels=names,
    )
    # A sum that can fall is none that Prometheus may see.
    delays.add_metric(
        label, buckets=_buckets(found.delays.bounds, found.delays.counts), sum_value=None
    )
    yield from (rows, differences, delays)
