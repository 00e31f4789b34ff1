"""Copies answered requests to variant B and compares the answers; clients never wait for it.

Copies gather for a moment and go to B together: one inference of many rows costs Triton about as
much as one of a single row, and takes that time from the clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from time import perf_counter
from typing import Final

from serving_gateway.batching import Batch, Batcher, ByteBudget
from serving_gateway.contract import Signature
from serving_gateway.errors import GatewayError, Overloaded
from serving_gateway.inference.codec import Codec, ModelOutput
from serving_gateway.inference.dispatcher import RoutedRequest
from serving_gateway.inference.offload import Offload
from serving_gateway.inference.router import Router, RoutingTarget
from serving_gateway.inference.rows import VALUE_BYTES, RequestRows
from serving_gateway.inference.shadow import (
    AnswerComparison,
    PairingStatistics,
    ShadowStatistics,
    compare,
)
from serving_gateway.inference.tensors import Tensors
from serving_gateway.inference.traffic import B
from serving_gateway.inference.version_client import PREDICTION, InferenceItem
from serving_gateway.inference.wire import InferenceOutputs
from serving_gateway.replication.replicas import now
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import ModelMetrics
from serving_gateway.telemetry.prediction_log import PendingEntry

log = logging.getLogger(__name__)

AGREED: Final = "agreed"
DISAGREED: Final = "disagreed"
FAILED: Final = "failed"
DROPPED: Final = "dropped"

_Compared = tuple[float, ModelOutput, AnswerComparison, InferenceOutputs, int]
"""B's latency and output, the comparison, and the source: all outputs, and the first row there."""


class Mirror:
    """The copies of one model's requests on their way to B; all models share one budget."""

    def __init__(
        self,
        settings: Settings,
        router: Router,
        metrics: ModelMetrics,
        ledger: ShadowStatistics,
        budget: ByteBudget,
        offload: Offload,
    ) -> None:
        self.offload = offload
        self._router = router
        self._ledger = ledger
        self._seconds = settings.request_seconds
        self.counts = {
            outcome: metrics.mirrored.labels(outcome)
            for outcome in (AGREED, DISAGREED, FAILED, DROPPED)
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
        self,
        request: RoutedRequest,
        rows: RequestRows,
        output: ModelOutput,
        seconds: float,
        pending: PendingEntry | None = None,
    ) -> None:
        """Copy an answered request if the policy says so; never waits and never fails.

        The `pending` entry of a request to be logged is written once B's answer is known.
        """
        table, target = request.table, None
        # An answer of a former generation belongs to a pairing that has ended.
        if table is self._router.table and table.policy.is_mirrored(request.client_id):
            target = table.targets.get(B)
            if target is None:
                self.counts[DROPPED].inc()
        if target is None:
            if pending is not None:
                pending.write()
            return
        source = request.target
        page = self._ledger.open((source.side, target.side), now)
        if target.client.ready:
            codec = source.client.codec
            assert codec is not None  # noqa: S101 -- it has just answered
            deadline = request.arrived + seconds + self._seconds
            copy = MirroredCopy(
                self, page, target, codec.signature, rows, output, seconds, deadline, pending
            )
            with contextlib.suppress(Overloaded):
                self._batcher.submit(copy)
                return
        elif target.counter is not None and target.client.state.was_ready_since(
            source.client.state
        ):
            # It would have failed a client, too; that there are too many copies says nothing about
            # B.
            target.counter.fail()
        page.dropped += 1
        self.counts[DROPPED].inc()
        if pending is not None:
            pending.write_with_failure(target.slot.version, "dropped: B is not ready or too busy")

    def close(self) -> None:
        """Drop what waits."""
        self._batcher.close(Overloaded("The gateway is ending."))

    def _start(self, batch: Batch[MirroredCopy], batcher: Batcher[MirroredCopy]) -> None:
        """Have B answer these copies in one inference."""
        client, loop = batch.items[0].target.client, asyncio.get_running_loop()
        if client.codec is None:
            loop.call_soon(batcher.fail, batch, Overloaded("Variant B is not ready."))
            return
        fitting = [copy for copy in batch.items if copy.prepare(client.codec)]
        batch.items, batch.rows = fitting, sum(copy.rows for copy in fitting)
        if fitting:
            client.start(batch, batcher)
        else:
            loop.call_soon(batcher.complete, batch)


class MirroredCopy(InferenceItem):
    """One answered request on its way to B."""

    def __init__(
        self,
        mirror: Mirror,
        page: PairingStatistics,
        target: RoutingTarget,
        signature: Signature,
        rows: RequestRows,
        output: ModelOutput,
        seconds: float,
        deadline: float,
        pending: PendingEntry | None = None,
    ) -> None:
        super().__init__(mirror.offload)
        width = len(output.probabilities[0]) if output.probabilities else 1
        kept = VALUE_BYTES * rows.count * (len(signature.features) + width)
        self.carry(rows.tensors, rows.count, page, deadline, kept)
        self._counts = mirror.counts
        self._page = page
        self._signature = signature
        self._rows = rows
        self._output = output
        self._seconds = seconds
        self._started = 0.0
        self._pending = pending
        self.target = target

    def prepare(self, codec: Codec) -> bool:
        """Encode the rows for B; return whether they fit."""
        try:
            self.tensors = self._encode_rows(codec)
        except GatewayError as error:
            self.is_finished = True
            self.fail(error)
            return False
        self.key = PREDICTION  # no longer the page: the batch is complete
        self._started = perf_counter()
        return True

    def _encode_rows(self, codec: Codec) -> Tensors:
        rows = self._rows
        if codec.signature == self._signature:
            return rows.tensors
        if rows.instances is not None:
            return codec.encode_instances(rows.instances)
        data = rows.data or []
        if not rows.is_named:
            return codec.encode(data)
        # Values of the feature store have names, even where the payload filled a gap.
        names = [feature.name for feature in self._signature.features]
        return codec.encode_instances([dict(zip(names, row, strict=True)) for row in data])

    def encode(self, outputs: InferenceOutputs, start: int, stop: int) -> _Compared:
        """B's latency and output for the same rows, and how it compares."""
        seconds, output = perf_counter() - self._started, outputs.model_output().part(start, stop)
        return seconds, output, compare(self._output, output), outputs, start

    def answer(self, encoded: _Compared) -> None:
        """Note how B's output compares."""
        (seconds, output, comparison, outputs, start), rows = encoded, self._rows
        sent = (rows.data if rows.instances is None else rows.instances) or []
        self.target.stats.answer(seconds, rows.count)
        if (counter := self.target.counter) is not None:
            counter.answer(seconds)
            counter.phase.compare(self._output, output, comparison)
        delay = seconds - self._seconds
        agreed = self._page.note(self._output, output, delay, sent, comparison)
        self._counts[AGREED if agreed else DISAGREED].inc()
        if self._pending is not None:
            version, answer = (
                self.target.slot.version,
                outputs.cached_log_answer or outputs.log_answer(),
            )
            self._pending.write_with_answer(version, seconds, answer, start)

    def fail(self, error: GatewayError) -> None:
        """Note that B did not answer."""
        self._page.failed += 1
        self.target.stats.fail()
        if (counter := self.target.counter) is not None:
            counter.fail()
        self._counts[FAILED].inc()
        if self._pending is not None:
            self._pending.write_with_failure(
                self.target.slot.version, f"{error.code}: {error.message}"
            )
        log.debug("a mirrored request failed", extra={"reason": error.message})
