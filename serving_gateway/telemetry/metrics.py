"""What Prometheus reads: the text of a scrape, made from `counters` in slices.

The text is written on the event loop, because a thread that formats strings would take the
interpreter from the loop for 5 ms at a time; after each slice the loop serves its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Final, Protocol

from serving_gateway.telemetry.counters import (
    BUCKETS,
    ENTITY_STATUSES,
    HistogramState,
    LabelledCounts,
    LookupCounts,
    ModelMetrics,
    ShadowState,
)
from serving_gateway.telemetry.exposition import Family, families_of, labels
from serving_gateway.telemetry.process import process_families

_SLICE_SECONDS: Final = 0.002
_PAUSE_SHARE: Final = 4.0
"""Pause after a text, as a multiple of the time that it took: scrapes get a fifth of the loop."""
_MAX_PAUSE_SECONDS: Final = 1.0
_PROCESS_FAMILIES: Final = """
gateway_info gauge Which replica answers this scrape: do not sum counters of two replicas.
gateway_requests_in_flight gauge Requests being worked on.
gateway_task_restarts_total counter Background tasks that failed and were started again.
gateway_routing_records_lost_total counter Records that the store lost: restored, or dropped.
http_requests_total counter HTTP requests answered.
"""
_LOOK_UP_FAMILIES: Final = """
gateway_feature_look_ups_total counter Look-ups answered, overdue, or not tried (refused).
gateway_feature_entities_total counter Entities looked up, by what was found.
gateway_feature_reads_total counter Reads of the feature store.
gateway_feature_store_skipped gauge 1 while a feature service is not read, after failures in a row.
"""
_MODEL_FAMILIES: Final = """
gateway_predictions_total counter Prediction requests, of a variant's last three versions.
gateway_rows_total counter Rows predicted.
gateway_prediction_seconds histogram From a checked request to its answer, Triton included.
gateway_feature_source_total counter Answered requests by where their rows came from.
gateway_fallbacks_total counter Requests of B's share that A answered because B could not.
gateway_mirrored_total counter Requests copied to variant B, by what became of the copy.
gateway_changes_total counter Attempted changes of the routing record, by outcome.
gateway_shadow_rows_total counter Rows of mirrored requests, by whether the labels are equal.
gateway_shadow_probability_difference histogram Per row, the largest of a class between versions.
gateway_shadow_latency_difference_seconds histogram Per mirrored request, B's latency minus A's.
gateway_sample_rows_total counter Rows chosen as samples, by what became of them.
gateway_ready gauge 1 when this replica should get the model's traffic.
gateway_routing_generation gauge Generation of the record that this replica routes by.
gateway_effective_version_ready gauge Per version routed to: 1 while Triton has it READY.
"""


class FeatureLookups(Protocol):
    """The feature store, as far as it is counted."""

    counts: LookupCounts

    @property
    def skipped_services(self) -> Sequence[str]:
        """Feature services that are not read for now, because they failed several times."""


class Metrics:
    """All metrics of one process.

    Args:
        replica: which process it is; counters of two of them must not be mixed.
        features: the feature store; None where look-ups are switched off.
    """

    def __init__(self, replica: str = "", features: FeatureLookups | None = None) -> None:
        self.http_requests = LabelledCounts()
        """Answered HTTP requests, by method, path and status."""
        self.task_restarts = LabelledCounts()
        """Background tasks that failed and were started again, by name."""
        self.record_losses = LabelledCounts()
        """Routing records that the store lost, by what became of them."""
        self.in_flight = 0
        """Requests being worked on."""
        self._replica = replica
        self._features = features
        self._models: dict[str, ModelMetrics] = {}
        self._next: asyncio.Task[bytes] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._pause_until = 0.0

    def model(self, model_name: str) -> ModelMetrics:
        """The metrics of one model; the same object each time."""
        if model_name not in self._models:
            self._models[model_name] = ModelMetrics()
        return self._models[model_name]

    def forget(self, model_name: str) -> None:
        """Drop what is counted of a model that is no longer hosted."""
        self._models.pop(model_name, None)

    async def render(self, model_name: str | None = None) -> bytes:
        """The text that Prometheus scrapes: all that was counted before this call.

        Args:
            model_name: write this model only, and of the process what is small.
        """
        if model_name is not None:
            families = _ModelFamilies()
            if (model := self._models.get(model_name)) is not None:
                families.add(model_name, model)
            both = (*families.all.values(), *self._own_families())
            return b"".join(family.encode() for family in both)
        if self._next is None:
            self._next = asyncio.create_task(self._write(), name="metrics")
        # Shared by all scrapes that wait: one that is cancelled leaves it to the others.
        return await asyncio.shield(self._next)

    async def _write(self) -> bytes:
        async with self._one_at_a_time:
            await asyncio.sleep(self._pause_until - monotonic())
            # A scrape that arrives from now on wants what is counted until then: it waits for
            # the next text.
            self._next, began = None, monotonic()
            try:
                return b"".join(await self._parts())
            finally:
                took = monotonic() - began
                self._pause_until = monotonic() + min(_MAX_PAUSE_SECONDS, _PAUSE_SHARE * took)

    async def _parts(self) -> list[bytes]:
        families, parts = _ModelFamilies(), []
        started = monotonic()
        for model_name, model in [*self._models.items()]:
            families.add(model_name, model)
            if monotonic() - started > _SLICE_SECONDS:
                await asyncio.sleep(0)
                started = monotonic()
        for family in families.all.values():
            await asyncio.sleep(0)
            parts.append(family.encode())
        await asyncio.sleep(0)
        parts += [family.encode() for family in (*process_families(), *self._own_families())]
        await asyncio.sleep(0)
        return parts

    def _own_families(self) -> Iterable[Family]:
        families = families_of(_PROCESS_FAMILIES)
        families["gateway_info"].add(labels(replica=self._replica), 1)
        families["gateway_requests_in_flight"].add("", self.in_flight)
        for (method, path, status), count in self.http_requests.items():
            label = labels(method=method, path=path, status=status)
            families["http_requests_total"].add(label, count.value)
        for (task,), count in self.task_restarts.items():
            families["gateway_task_restarts_total"].add(labels(task=task), count.value)
        for (outcome,), count in self.record_losses.items():
            families["gateway_routing_records_lost_total"].add(labels(outcome=outcome), count.value)
        if self._features is not None:
            families |= _look_ups(self._features)
        return families.values()


class _ModelFamilies:
    """The metrics that have samples for each model."""

    def __init__(self) -> None:
        self.all = families_of(_MODEL_FAMILIES)

    def add(self, model_name: str, model: ModelMetrics) -> None:
        """Add the samples of one model."""
        name = labels(model=model_name)
        for (variant, version), stats in model.variants.items():
            label = f"{name},{labels(variant=variant, version=version)}"
            self.all["gateway_predictions_total"].add(f'{label},outcome="answered"', stats.answered)
            self.all["gateway_predictions_total"].add(f'{label},outcome="failed"', stats.failed)
            self.all["gateway_rows_total"].add(label, stats.rows)
            self.all["gateway_prediction_seconds"].add_histogram(
                label, HistogramState(BUCKETS, stats.counts, stats.seconds)
            )
        for source, number in model.sources.items():
            self.all["gateway_feature_source_total"].add(f'{name},source="{source}"', number)
        self.all["gateway_fallbacks_total"].add(name, model.fallbacks.value)
        for (outcome,), count in model.copies.items():
            self.all["gateway_mirrored_total"].add(f'{name},outcome="{outcome}"', count.value)
        for (operation, outcome), count in model.changes.items():
            self.all["gateway_changes_total"].add(
                f"{name},{labels(operation=operation, outcome=outcome)}", count.value
            )
        if model.samples is not None:
            for outcome in ("written", "dropped", "failed"):
                self.all["gateway_sample_rows_total"].add(
                    f'{name},outcome="{outcome}"', getattr(model.samples, outcome)
                )
        if model.shadow is not None and (shadow := model.shadow()) is not None:
            self._add_shadow(name, shadow)
        if model.routed is not None:
            routed = model.routed()
            self.all["gateway_ready"].add(name, routed.ready)
            self.all["gateway_routing_generation"].add(name, routed.generation)
            for variant, version, ready in routed.variants:
                label = f"{name},{labels(variant=variant, version=version)}"
                self.all["gateway_effective_version_ready"].add(label, ready)

    def _add_shadow(self, name: str, shadow: ShadowState) -> None:
        pair = labels(version_a=shadow.version_a, version_b=shadow.version_b)
        label = f"{name},{pair}"
        self.all["gateway_shadow_rows_total"].add(f'{label},outcome="agreed"', shadow.rows_agreed)
        self.all["gateway_shadow_rows_total"].add(
            f'{label},outcome="disagreed"', shadow.rows - shadow.rows_agreed
        )
        self.all["gateway_shadow_probability_difference"].add_histogram(
            label, shadow.probability_difference
        )
        self.all["gateway_shadow_latency_difference_seconds"].add_histogram(
            label, shadow.latency_difference
        )


def _look_ups(features: FeatureLookups) -> dict[str, Family]:
    """Feature look-ups and reads of the store."""
    counts = features.counts
    families = families_of(_LOOK_UP_FAMILIES)
    for outcome in ("answered", "timed_out", "refused"):
        label = labels(outcome=outcome)
        families["gateway_feature_look_ups_total"].add(label, getattr(counts, outcome))
    for status in ENTITY_STATUSES:
        label = labels(status=status)
        families["gateway_feature_entities_total"].add(label, counts.by_status[status])
    reads = families["gateway_feature_reads_total"]
    reads.add(labels(outcome="answered"), counts.reads - counts.failed_reads)
    reads.add(labels(outcome="failed"), counts.failed_reads)
    families["gateway_feature_store_skipped"].add("", bool(features.skipped_services))
    return families
