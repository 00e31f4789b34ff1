"""What Prometheus reads: the text of a scrape, made from `counters` in slices.

The text is written on the event loop, because a thread that formats strings would take the
interpreter from the loop for 5 ms at a time; after each slice the loop serves its requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
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
from serving_gateway.telemetry.exposition import Exposition, labels
from serving_gateway.telemetry.process import PROCESS_TABLE, add_process

_SLICE_SECONDS: Final = 0.002
_PAUSE_SHARE: Final = 4.0
"""Pause after a text, as a multiple of the time that it took: scrapes get a fifth of the loop."""
_MAX_PAUSE_SECONDS: Final = 1.0
_TABLE: Final = """
gateway_info gauge Which replica answers this scrape: do not sum counters of two replicas.
gateway_requests_in_flight gauge Requests being worked on.
gateway_task_restarts_total counter Background tasks that failed, maybe for one model, and went on.
gateway_routing_records_lost_total counter Records that the store lost: restored, or dropped.
http_requests_total counter HTTP requests answered.
gateway_feature_look_ups_total counter Look-ups answered, overdue, or not tried (refused).
gateway_feature_entities_total counter Entities looked up, by what was found.
gateway_feature_reads_total counter Reads of the feature store.
gateway_feature_store_skipped gauge 1 while a feature service is not read, after failures in a row.
gateway_predictions_total counter Prediction requests, of a variant's last three versions.
gateway_rows_total counter Rows predicted.
gateway_prediction_seconds histogram From a checked request to its answer, Triton included.
gateway_feature_source_total counter Answered requests by where their rows came from.
gateway_fallbacks_total counter Requests of B's share that A answered because B could not.
gateway_mirrored_total counter Requests copied to variant B, by what became of the copy.
gateway_changes_total counter Attempted changes of the routing record, by outcome.
gateway_releases_total counter Releases that a change made by this replica ended, by their end.
gateway_shadow_rows_total counter Rows of mirrored requests, by whether the labels are equal.
gateway_shadow_probability_difference histogram Per row, the largest of a class between versions.
gateway_shadow_latency_difference_seconds histogram Per mirrored request, B's latency minus A's.
gateway_sample_rows_total counter Rows chosen for the prediction log, by what became of them.
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
    """All metrics of one process, `replica`; `features` is None where look-ups are switched off."""

    def __init__(self, replica: str = "", features: FeatureLookups | None = None) -> None:
        self.http_requests = LabelledCounts()
        """Answered HTTP requests, by method, path and status."""
        self.task_restarts = LabelledCounts()
        """Background tasks that failed and went on, by name."""
        self.record_losses = LabelledCounts()
        """Routing records that the store lost, by what became of them."""
        self.in_flight = 0
        """Requests being worked on."""
        self._replica = replica
        self._features = features
        self._models: dict[str, ModelMetrics] = {}
        self._next: asyncio.Task[Sequence[bytes]] | None = None
        self._render_lock = asyncio.Lock()
        self._pause_until = 0.0

    def model(self, model_name: str) -> ModelMetrics:
        """The metrics of one model; the same object each time."""
        return self._models.setdefault(model_name, ModelMetrics())

    def forget(self, model_name: str) -> None:
        """Drop what is counted of a model that is no longer hosted."""
        self._models.pop(model_name, None)

    async def render(self) -> Sequence[bytes]:
        """The text that Prometheus scrapes, in parts: all that was counted before this call."""
        if self._next is None:
            self._next = asyncio.create_task(self._write(), name="metrics")
        # Shared by all scrapes that wait: one that is cancelled leaves it to the others.
        return await asyncio.shield(self._next)

    def render_model(self, model_name: str) -> Sequence[bytes]:
        """The metrics of one model, if it is hosted, and which replica answers."""
        text = Exposition(_TABLE)
        if (model := self._models.get(model_name)) is not None:
            _add_model(text, model_name, model)
        text.add("gateway_info", labels(replica=self._replica), 1)
        return [*text.encode()]

    async def _write(self) -> Sequence[bytes]:
        async with self._render_lock:
            await asyncio.sleep(self._pause_until - monotonic())
            # A scrape that arrives from now on wants what is counted until then: it waits for
            # the next text.
            self._next, began = None, monotonic()
            try:
                return [part async for part in self._parts()]
            finally:
                duration = monotonic() - began
                self._pause_until = monotonic() + min(_MAX_PAUSE_SECONDS, _PAUSE_SHARE * duration)

    async def _parts(self) -> AsyncIterator[bytes]:
        text = Exposition(_TABLE + PROCESS_TABLE)
        started = monotonic()
        for model_name, model in [*self._models.items()]:
            _add_model(text, model_name, model)
            if monotonic() - started > _SLICE_SECONDS:
                await asyncio.sleep(0)
                started = monotonic()
        await asyncio.sleep(0)
        add_process(text)
        self._add_own(text)
        for part in text.encode():
            await asyncio.sleep(0)
            yield part

    def _add_own(self, text: Exposition) -> None:
        text.add("gateway_info", labels(replica=self._replica), 1)
        text.add("gateway_requests_in_flight", "", self.in_flight)
        for (method, path, status), count in self.http_requests.items():
            label = labels(method=method, path=path, status=status)
            text.add("http_requests_total", label, count.value)
        for (task,), count in self.task_restarts.items():
            text.add("gateway_task_restarts_total", labels(task=task), count.value)
        for (outcome,), count in self.record_losses.items():
            text.add("gateway_routing_records_lost_total", labels(outcome=outcome), count.value)
        if self._features is not None:
            _add_look_ups(text, self._features)


def _add_model(text: Exposition, model_name: str, model: ModelMetrics) -> None:
    add, name = text.add, labels(model=model_name)
    for (variant, version), stats in model.variants.items():
        label = f"{name},{labels(variant=variant, version=version)}"
        add("gateway_predictions_total", f'{label},outcome="answered"', stats.answered)
        add("gateway_predictions_total", f'{label},outcome="failed"', stats.failed)
        add("gateway_rows_total", label, stats.rows)
        seconds = HistogramState(BUCKETS, stats.counts, stats.seconds)
        text.add_histogram("gateway_prediction_seconds", label, seconds)
    for source, number in model.sources.items():
        add("gateway_feature_source_total", f'{name},source="{source}"', number)
    add("gateway_fallbacks_total", name, model.fallbacks.value)
    for (outcome,), count in model.mirrored.items():
        add("gateway_mirrored_total", f'{name},outcome="{outcome}"', count.value)
    for (operation, outcome), count in model.changes.items():
        label = f"{name},{labels(operation=operation, outcome=outcome)}"
        add("gateway_changes_total", label, count.value)
    for (state,), count in model.releases.items():
        add("gateway_releases_total", f'{name},state="{state}"', count.value)
    if (log := model.log) is not None:
        add("gateway_sample_rows_total", f'{name},outcome="written"', log.written)
        add("gateway_sample_rows_total", f'{name},outcome="dropped"', log.dropped)
        add("gateway_sample_rows_total", f'{name},outcome="failed"', log.failed)
    if (shadow := model.shadow()) is not None:
        pair = labels(version_a=shadow.version_a, version_b=shadow.version_b)
        _add_shadow(text, f"{name},{pair}", shadow)
    if (routed := model.routed_state()) is not None:
        add("gateway_ready", name, routed.ready)
        add("gateway_routing_generation", name, routed.generation)
        for variant, version, ready in routed.variants:
            label = f"{name},{labels(variant=variant, version=version)}"
            add("gateway_effective_version_ready", label, ready)


def _add_shadow(text: Exposition, label: str, shadow: ShadowState) -> None:
    apart = shadow.rows - shadow.rows_agreed
    text.add("gateway_shadow_rows_total", f'{label},outcome="agreed"', shadow.rows_agreed)
    text.add("gateway_shadow_rows_total", f'{label},outcome="disagreed"', apart)
    add = text.add_histogram
    add("gateway_shadow_probability_difference", label, shadow.probability_difference)
    add("gateway_shadow_latency_difference_seconds", label, shadow.latency_difference)


def _add_look_ups(text: Exposition, features: FeatureLookups) -> None:
    counts = features.counts
    for outcome in ("answered", "timed_out", "refused"):
        label = f'outcome="{outcome}"'
        text.add("gateway_feature_look_ups_total", label, getattr(counts, outcome))
    for status in ENTITY_STATUSES:
        text.add("gateway_feature_entities_total", f'status="{status}"', counts.by_status[status])
    answered = counts.reads - counts.failed_reads
    text.add("gateway_feature_reads_total", 'outcome="answered"', answered)
    text.add("gateway_feature_reads_total", 'outcome="failed"', counts.failed_reads)
    text.add("gateway_feature_store_skipped", "", bool(features.skipped_services))
