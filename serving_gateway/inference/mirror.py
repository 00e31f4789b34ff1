"""Copies answered requests to variant B and compares: never on the client's time.

Copies gather for a moment and go to B together: one inference of many rows costs Triton about as
much as one of a single row, and that time is taken from the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Final

from serving_gateway.batching import Batch, Batcher, BatchItem, ByteBudget
from serving_gateway.contract import FeatureSource, Signature
from serving_gateway.errors import GatewayError, InferenceRefused, Overloaded
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.dispatcher import RoutedRequest
from serving_gateway.inference.router import Router, RoutingTarget
from serving_gateway.inference.rows import VALUE_BYTES, RequestRows
from serving_gateway.inference.shadow import PairingStatistics, ShadowStatistics
from serving_gateway.inference.tensors import Tensors
from serving_gateway.inference.traffic import B
from serving_gateway.inference.version_client import PREDICTION, InferenceItem, joined
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.replication.replicas import now
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import Count, ModelMetrics

log = logging.getLogger(__name__)

AGREED: Final = "agreed"
DISAGREED: Final = "disagreed"
FAILED: Final = "failed"
DROPPED: Final = "dropped"


class Mirror:
    """The copies of one model's requests on their way to B.

    Args:
        settings: limits.
        router: tells the present generation.
        metrics: counts what becomes of each copy.
        ledger: notes how B's answers compare with A's.
        budget: bytes that waiting copies may hold, over all models.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        metrics: ModelMetrics,
        ledger: ShadowStatistics,
        budget: ByteBudget,
    ) -> None:
        self._router = router
        self._ledger = ledger
        self._seconds = settings.request_seconds
        self.counts = {
            outcome: metrics.mirrored(outcome) for outcome in (AGREED, DISAGREED, FAILED, DROPPED)
        }
        self._batcher: Batcher[MirroredCopy] = Batcher(
            self._start,
            "variant B",
            max_rows=settings.max_batch_rows,
            max_in_flight=settings.mirror_in_flight,
            max_queued=settings.mirror_queue,
            budget=budget,
            gather_seconds=settings.mirror_gather_seconds,
        )

    def offer(
        self, request: RoutedRequest, rows: RequestRows, output: ModelOutput, seconds: float
    ) -> None:
        """Copy an answered request, when the policy says so; at once and without failing."""
        table = request.table
        if table is not self._router.table or not table.policy.mirrors(request.client_id):
            return  # an answer of a former generation belongs to a pairing that has ended
        source, target = request.target, table.targets.get(B)
        if target is None:
            self.counts[DROPPED].inc()
            return
        page = self._ledger.open((source.side, target.side), now)
        if target.client.ready:
            codec = source.client.codec
            assert codec is not None  # noqa: S101 -- it has just answered
            deadline = request.arrived + seconds + self._seconds
            copy = MirroredCopy(
                self.counts, page, target, codec.signature, rows, output, seconds, deadline
            )
            with contextlib.suppress(Overloaded):
                self._batcher.submit(copy)
                return
        page.dropped += 1
        self.counts[DROPPED].inc()

    def close(self) -> None:
        """Drop what waits."""
        self._batcher.close(Overloaded("The gateway is ending."))

    def _start(self, batch: Batch[MirroredCopy], batcher: Batcher[MirroredCopy]) -> None:
        """Have B answer these copies in one inference."""
        target = batch.items[0].target
        codec, to = target.client.codec, target.client.batcher
        loop = asyncio.get_running_loop()
        if codec is None or to is None:
            loop.call_soon(batcher.fail, batch, Overloaded("Variant B is not ready."))
            return
        parts: list[Tensors] = []
        fitting: list[MirroredCopy] = []
        for copy in batch.items:
            try:
                parts.append(encoded(codec, copy))
                fitting.append(copy)
            except GatewayError as error:
                copy.is_finished = True
                copy.fail(error)
        batch.items, batch.rows = fitting, sum(copy.rows for copy in fitting)
        if not fitting:
            loop.call_soon(batcher.complete, batch)
            return
        inference = _CopiesInference(batch, batcher)
        inference.carry(joined(parts), batch.rows, PREDICTION, loop.time() + self._seconds)
        batch.call = inference
        try:
            to.submit(inference)
        except Overloaded as error:
            loop.call_soon(batcher.fail, batch, error)


class MirroredCopy(BatchItem):
    """One answered request on its way to B."""

    __slots__ = ("_counts", "_output", "_page", "_seconds", "rows_sent", "signature", "target")

    def __init__(
        self,
        counts: Mapping[str, Count],
        page: PairingStatistics,
        target: RoutingTarget,
        signature: Signature,
        rows: RequestRows,
        output: ModelOutput,
        seconds: float,
        deadline: float,
    ) -> None:
        size = sum(map(len, rows.tensors))
        size += VALUE_BYTES * rows.count * len(signature.features)
        super().__init__(page, rows.count, size, deadline)
        self._counts = counts
        self._page = page
        self._output = output
        self._seconds = seconds
        self.target = target
        self.signature = signature
        self.rows_sent = rows

    def compare(self, output: ModelOutput, seconds: float) -> None:
        """Note how B's output for the same rows compares."""
        rows = self.rows_sent
        sent = rows.data if rows.instances is None else rows.instances
        self.target.stats.answer(seconds, rows.count)
        agreed = self._page.note(self._output, output, seconds - self._seconds, sent or [])
        self._counts[AGREED if agreed else DISAGREED].inc()

    def fail(self, error: GatewayError) -> None:
        """Note that B did not answer."""
        self._page.failed += 1
        self.target.stats.fail()
        self._counts[FAILED].inc()
        log.debug("a mirrored request failed", extra={"reason": error.message})


class _CopiesInference(InferenceItem):
    """One inference of B for several copies."""

    __slots__ = ("_batch", "_batcher", "_started")

    def __init__(self, batch: Batch[MirroredCopy], batcher: Batcher[MirroredCopy]) -> None:
        super().__init__()
        self._batch = batch
        self._batcher = batcher
        self._started = perf_counter()

    def abandon(self, *, overdue: bool = False) -> None:  # noqa: ARG002 -- B's own queue counts it
        super().abandon()

    def deliver(self, outputs: InferenceOutputs, start: int, stop: int) -> None:
        output = outputs.predicted().part(start, stop)
        seconds = perf_counter() - self._started
        at = 0
        for copy in self._batch.items:
            if not copy.is_finished:
                copy.is_finished = True
                copy.compare(output.part(at, at + copy.rows), seconds)
            at += copy.rows
        self._batcher.complete(self._batch)

    def fail(self, error: GatewayError) -> None:
        if isinstance(error, InferenceRefused):
            self._batcher.split(self._batch, error)
        else:
            self._batcher.fail(self._batch, error)


def encoded(codec: Codec, copy: MirroredCopy) -> Tensors:
    """The rows of an answered request for a version with the given codec.

    Raises:
        InvalidInput: they do not fit that version.
    """
    rows = copy.rows_sent
    if codec.signature == copy.signature:
        return rows.tensors
    if rows.instances is not None:
        return codec.encode_instances(rows.instances)
    if rows.source is FeatureSource.PAYLOAD:
        return codec.encode(rows.data or [])
    # Values of the feature store have names, also where the payload filled a gap.
    names = [feature.name for feature in copy.signature.features]
    return codec.encode_instances([dict(zip(names, row, strict=True)) for row in rows.data or []])
