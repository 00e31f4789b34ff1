"""The use case that clients come for: a prediction by the version that is effective.

No HTTP in here, and on this path no call to MLflow, Dagster or the routing store (I8): all
that it reads is the table in memory, all that it calls is Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol, cast

import msgspec

from serving_gateway.contract import PredictRequest, PredictResponse, Signature
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    EntityUnusable,
    GatewayError,
    InvalidInput,
    TritonUnavailable,
    Unavailable,
    VariantUnavailable,
)
from serving_gateway.inference.batcher import Origin
from serving_gateway.inference.codec import Answers
from serving_gateway.inference.router import Router, RoutingTable, Target, production
from serving_gateway.inference.rows import Features, FloatRequest, RowReader, Rows
from serving_gateway.inference.traffic import A, B
from serving_gateway.settings import Settings
from serving_gateway.telemetry.metrics import ModelMetrics
from serving_gateway.telemetry.samples import ModelSamples


class Mirrored(msgspec.Struct, frozen=True):
    """An answered request, to be repeated on B."""

    signature: Signature
    rows: Rows
    answers: Answers
    seconds: float


class MirrorSink(Protocol):
    """Takes copies of answered requests, at once and without failing."""

    def offer(self, source: Target, target: Target | None, mirrored: Mirrored) -> None:
        """Take a copy of what `source` answered, for `target`."""


class DataPlane:
    """Answers predictions.

    Args:
        settings: limits.
        router: the table to route by.
        mirror: gets copies under the mirror policy.
        wake: called when Triton seems to have changed, to have it looked at now.
        metrics: counts.
        features: looks features up; None where that is switched off.
        samples: takes a share of what was answered; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        router: Router,
        mirror: MirrorSink,
        wake: Callable[[], None],
        metrics: ModelMetrics,
        features: Features | None = None,
        samples: ModelSamples | None = None,
    ) -> None:
        self._router = router
        self._mirror = mirror
        self._wake = wake
        self._rows = RowReader(settings.max_rows, features)
        self._samples = samples
        self._max_client_id = settings.max_client_id_chars
        self._fallbacks = metrics.fallbacks
        self._sources = metrics.sources

    async def predict(
        self, request: PredictRequest | FloatRequest, origin: Origin | None = None
    ) -> PredictResponse:
        """Predict for the rows of one request.

        Args:
            request: what to predict for.
            origin: who asks, when that is known.

        Raises:
            InvalidInput, TooLarge: the request is wrong; `field` says where.
            VariantUnavailable, TritonUnavailable, Overloaded: no answer now (503).
            FeaturesUnavailable: no features now, and no rows in the request (503).
            DeadlineExceeded: no answer in time.
            BadUpstreamAnswer: Triton's answer must not be passed on.
        """
        client_id = request.client_id
        if client_id is not None and len(client_id) > self._max_client_id:
            raise InvalidInput(
                f"client_id has {len(client_id)} characters; at most {self._max_client_id} "
                "are taken.",
                field="client_id",
                code="too_long",
            )
        table = self._router.table
        router = table.policy
        if router.split and router.answers(client_id) == B:
            return await self._by_b(request, origin)
        return await self._by_a(request, origin, copy=router.mirror and router.mirrors(client_id))

    async def _by_a(
        self, request: PredictRequest | FloatRequest, origin: Origin | None, *, copy: bool = False
    ) -> PredictResponse:
        """Answer by production, and hand a copy to the mirror when that is wanted.

        A request that meets its version being retired, because the replica was switched while
        it was under way, is answered by the version that is effective now.
        """
        table = self._router.table
        try:
            return await self._ask(table, production(table), request, origin, copy=copy)
        except VariantUnavailable:
            fresh = self._router.table
            if fresh is table or A not in fresh.targets:
                raise
            return await self._ask(fresh, fresh.targets[A], request, origin, copy=copy)

    async def _by_b(
        self, request: PredictRequest | FloatRequest, origin: Origin | None
    ) -> PredictResponse:
        """Answer by B; by A when B cannot, saying so."""
        table = self._router.table
        target = table.targets.get(B)
        try:
            if target is None:
                raise VariantUnavailable("Variant B has no version.")
            return await self._ask(table, target, request, origin)
        except (Unavailable, DeadlineExceeded, BadUpstreamAnswer, EntityUnusable) as error:
            # B may read other features than A, so what it lacks says nothing of the request.
            self._fallbacks.inc()
            answer = await self._by_a(request, origin)
            answer.fallback = f"variant B could not answer: {error.message}"
            return answer

    async def _ask(
        self,
        table: RoutingTable,
        target: Target,
        request: PredictRequest | FloatRequest,
        origin: Origin | None,
        *,
        copy: bool = False,
    ) -> PredictResponse:
        """Answer by exactly this target."""
        client = target.client
        coalescer = client.coalescer
        if coalescer is None or not client.ready:
            raise VariantUnavailable(
                f"Variant {target.variant} routes to version {client.version}, which cannot answer "
                f"now: {client.reason} It heals by itself once Triton has that version READY."
            )
        codec = coalescer.codec
        rows = self._rows.plain(codec, request)
        if rows is None:
            rows = await self._rows.of_entities(codec, cast(PredictRequest, request))
        started = perf_counter()
        try:
            answers = await coalescer.submit(rows.tensors, rows.count, None, origin)
        except GatewayError as error:
            target.stats.failed += 1
            if isinstance(error, TritonUnavailable | VariantUnavailable):
                self._wake()
            raise
        seconds = perf_counter() - started
        target.stats.answer(seconds, rows.count)
        self._sources[rows.source] += 1
        if copy:
            # Whatever happens to the copy is not this request's matter.
            mirrored = Mirrored(codec.signature, rows, answers, seconds)
            self._mirror.offer(target, table.targets.get(B), mirrored)
        slot = target.slot
        if origin is not None and origin.span is not None:
            origin.span.answered(target.model_name, target.variant, slot.version)
        if self._samples is not None:
            self._samples.offer(
                target.model_name, target.variant, slot.version, codec.signature, rows, answers
            )
        return PredictResponse(
            answers.predictions,
            answers.probabilities,
            target.model_name,
            target.variant,
            slot.version,
            slot.run_id,
            table.record.generation,
            rows.source,
        )


def float_rows(table: RoutingTable) -> bool:
    """Whether all variants read rows of plain numbers, so that the fast decoder applies."""
    for target in table.targets.values():
        coalescer = target.client.coalescer
        if coalescer is None or not coalescer.codec.float_rows:
            return False
    return bool(table.targets)
