"""What Prometheus reads. The request path counts in plain numbers; a scrape does the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

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

from serving_gateway.features.reader import FeatureReader
from serving_gateway.features.types import Status
from serving_gateway.inference.shadow import Ledger, Page
from serving_gateway.telemetry.samples import ModelSamples

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


class Routed(NamedTuple):
    """What a replica routes a model to at the moment of a scrape."""

    ready: bool
    """Whether the replica should get the model's traffic."""
    generation: int
    variants: Sequence[tuple[str, int, bool]] = ()
    """Variant, version, and whether Triton has it READY, as last seen."""


class ModelMetrics:
    """What is counted and told of one model."""

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        self.fallbacks = metrics.fallbacks.labels(model_name)
        self.sources: dict[str, int] = dict.fromkeys(("payload", "feast", "fallback"), 0)
        """Answered requests by where their rows came from."""
        self.variants: dict[tuple[str, int], VariantStats] = {}
        self.ledger: Ledger | None = None
        self.samples: ModelSamples | None = None
        """Counts rows that are kept, where that is switched on."""
        self.state: Callable[[], Routed] | None = None
        self._metrics = metrics
        self._model_name = model_name

    def variant(self, variant: str, version: int) -> VariantStats:
        """The counts of one variant and version; the same object each time."""
        return self.variants.setdefault((variant, version), VariantStats())

    def mirrored(self, outcome: str) -> Counter:
        """Counts copies by what became of them."""
        return self._metrics.mirrored.labels(self._model_name, outcome)

    def change(self, operation: str, outcome: str) -> Counter:
        """Counts changes of the routing record by what became of them."""
        return self._metrics.changes.labels(self._model_name, operation, outcome)

    def watch(self, state: Callable[[], Routed], ledger: Ledger) -> None:
        """Read `state` and the shadow ledger at each scrape."""
        self.state = state
        self.ledger = ledger


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
            ("model",),
            registry=self.registry,
        )
        self.mirrored = Counter(
            "gateway_mirrored",
            "Requests copied to variant B, by what became of the copy.",
            ("model", "outcome"),
            registry=self.registry,
        )
        self.changes = Counter(
            "gateway_changes",
            "Changes of the routing record that were asked for, by what became of them.",
            ("model", "operation", "outcome"),
            registry=self.registry,
        )
        self.info = Info(
            "gateway",
            "Which replica answers this scrape: counters of two replicas are not to be mixed.",
            registry=self.registry,
        )
        self.in_flight: Callable[[], int] | None = None
        """Tells the number of requests being worked on."""
        self.hosted: Callable[[], Iterable[str]] = tuple
        """Tells the models whose numbers a scrape gets."""
        self.features: FeatureReader | None = None
        """Looks features up, where that is switched on."""
        self._models: dict[str, ModelMetrics] = {}
        self.registry.register(self)

    def model(self, model_name: str) -> ModelMetrics:
        """The metrics of one model; the same object each time."""
        if model_name not in self._models:
            self._models[model_name] = ModelMetrics(self, model_name)
        return self._models[model_name]

    def forget(self, model_name: str) -> None:
        """Drop what is counted of a model that is not hosted after all."""
        self._models.pop(model_name, None)
        for counter in (self.fallbacks, self.mirrored, self.changes):
            counter.remove_by_labels({"model": model_name})

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing: what `collect` gives depends on the versions seen."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """The counts of all models, variants and versions, and the replica's state."""
        families = _Families()
        for name in self.hosted():
            families.add(name, self.model(name))
        yield from families.all
        if self.features is not None:
            yield from _look_ups(self.features)
        if self.in_flight is not None:
            yield GaugeMetricFamily(
                "gateway_requests_in_flight", "Requests being worked on.", value=self.in_flight()
            )


class _Families:
    """The families that one scrape fills, model by model."""

    def __init__(self) -> None:
        labels = ("model", "variant", "version")
        pair = ("model", "version_a", "version_b")
        self.requests = CounterMetricFamily(
            "gateway_predictions", "Prediction requests.", labels=(*labels, "outcome")
        )
        self.rows = CounterMetricFamily("gateway_rows", "Rows predicted.", labels=labels)
        self.seconds = HistogramMetricFamily(
            "gateway_prediction_seconds",
            "From a checked request to its answer, the wait for Triton included.",
            labels=labels,
        )
        self.sources = CounterMetricFamily(
            "gateway_feature_source",
            "Answered requests by where their rows came from.",
            labels=("model", "source"),
        )
        self.shadow_rows = CounterMetricFamily(
            "gateway_shadow_rows",
            "Rows of mirrored requests, by whether both versions label them alike.",
            labels=(*pair, "outcome"),
        )
        self.differences = HistogramMetricFamily(
            "gateway_shadow_probability_difference",
            "Per row, the largest difference of a class's probability between the versions.",
            labels=pair,
        )
        self.delays = HistogramMetricFamily(
            "gateway_shadow_latency_difference_seconds",
            "Per mirrored request, B's latency minus A's.",
            labels=pair,
        )
        self.samples = CounterMetricFamily(
            "gateway_sample_rows",
            "Rows chosen to be kept, by what became of them.",
            labels=("model", "outcome"),
        )
        self.ready = GaugeMetricFamily(
            "gateway_ready", "1 when this replica should get the model's traffic.", labels=["model"]
        )
        self.generation = GaugeMetricFamily(
            "gateway_routing_generation",
            "Generation of the routing record that this replica routes by.",
            labels=["model"],
        )
        self.effective = GaugeMetricFamily(
            "gateway_effective_version_ready",
            "There for each version that a variant routes to; 1 while Triton has it READY.",
            labels=labels,
        )

    @property
    def all(self) -> tuple[Metric, ...]:
        """Every family."""
        counts = (self.requests, self.rows, self.seconds, self.sources)
        shadow = (self.shadow_rows, self.differences, self.delays)
        routed = (self.ready, self.generation, self.effective)
        return (*counts, *shadow, self.samples, *routed)

    def add(self, name: str, model: ModelMetrics) -> None:
        """Add what is known of one model."""
        for (variant, version), stats in model.variants.items():
            label = (name, variant, str(version))
            self.requests.add_metric((*label, "answered"), stats.answered)
            self.requests.add_metric((*label, "failed"), stats.failed)
            self.rows.add_metric(label, stats.rows)
            buckets = _buckets(BUCKETS, stats.counts)
            self.seconds.add_metric(label, buckets=buckets, sum_value=stats.seconds)
        for source, count in model.sources.items():
            self.sources.add_metric((name, source), count)
        if model.ledger is not None:
            self._add_shadow(name, model.ledger.page)
        if model.samples is not None:
            for outcome in ("written", "dropped", "failed"):
                self.samples.add_metric((name, outcome), getattr(model.samples, outcome))
        if model.state is not None:
            ready, generation, variants = model.state()
            self.ready.add_metric([name], ready)
            self.generation.add_metric([name], generation)
            for variant, version, served in variants:
                self.effective.add_metric((name, variant, str(version)), served)

    def _add_shadow(self, name: str, page: Page) -> None:
        """Add the present pairing; a former one is told no more."""
        if page.pairing is None:
            return
        label = (name, *(str(side.version) for side in page.pairing))
        found = page.comparison
        self.shadow_rows.add_metric((*label, "agreed"), found.agreed)
        self.shadow_rows.add_metric((*label, "disagreed"), found.rows - found.agreed)
        histogram = found.differences
        self.differences.add_metric(
            label, buckets=_buckets(histogram.bounds, histogram.counts), sum_value=histogram.sum
        )
        # A sum that can fall is none that Prometheus may see.
        self.delays.add_metric(
            label, buckets=_buckets(found.delays.bounds, found.delays.counts), sum_value=None
        )


def _look_ups(reader: FeatureReader) -> Iterator[Metric]:
    """What was asked of the feature store, and what became of it."""
    counts = reader.counts
    look_ups = CounterMetricFamily(
        "gateway_feature_look_ups",
        "Look-ups of features that were answered, overdue, or not tried (refused).",
        labels=["outcome"],
    )
    for outcome, count in (
        ("answered", counts.answered),
        ("timed_out", counts.timed_out),
        ("refused", counts.refused),
    ):
        look_ups.add_metric([outcome], count)
    entities = CounterMetricFamily(
        "gateway_feature_entities", "Entities looked up, by what was found.", labels=["status"]
    )
    for status in Status:
        entities.add_metric([status], counts.by_status[status])
    yield from (look_ups, entities)
    reads = CounterMetricFamily(
        "gateway_feature_reads", "Reads of the feature store.", labels=["outcome"]
    )
    reads.add_metric(["answered"], counts.reads - counts.failed_reads)
    reads.add_metric(["failed"], counts.failed_reads)
    yield reads
    yield GaugeMetricFamily(
        "gateway_feature_store_skipped",
        "Feature services that are not read now because they failed several times in a row.",
        value=len(reader.skipped_services),
    )


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Cumulative counts by upper bound, as Prometheus wants them."""
    return list(zip((*map(str, bounds), "+Inf"), map(float, accumulate(counts)), strict=True))
