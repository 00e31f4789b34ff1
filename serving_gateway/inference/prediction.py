"""The use case that clients come for: a prediction by the version that is effective.

No HTTP in here, and on this path no call to MLflow, Dagster or the routing store (I8): all
that it reads is the table in memory, all that it calls is Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol, cast

import msgspec

from serving_gateway.coalesce import Origin
from serving_gateway.contract import Signature
from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    EntityUnusable,
    GatewayError,
    InferenceRefused,
    InvalidInput,
    TritonUnavailable,
    Unavailable,
    VariantUnavailable,
)
from serving_gateway.metrics import ModelMetrics
from serving_gateway.routing import A, B
from serving_gateway.rows import (
    Features,
    FeatureSource,
    FloatRequest,
    PredictRequest,
    RowReader,
    Rows,
)
from serving_gateway.samples import ModelSamples
from serving_gateway.serving import Serving, Table, Target, production
from serving_gateway.settings import Settings
from serving_gateway.tensors import Answers


class PredictAnswer(msgspec.Struct):
    """Body of a prediction: the answers, and which version gave them."""

    predictions: list[Any]
    probabilities: list[list[float]] | None
    model_name: str
    variant: str
    version: int
    run_id: str
    generation: int
    feature_source: FeatureSource
    fallback: str | None = None
    """Why A answered although the client belongs to B's share."""


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
        serving: the table to route by.
        mirror: gets copies under the mirror policy.
        kick: called when Triton seems to have changed, to have it looked at now.
        metrics: counts.
        features: looks features up; None where that is switched off.
        samples: takes a share of what was answered; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        serving: Serving,
        mirror: MirrorSink,
        kick: Callable[[], None],
        metrics: ModelMetrics,
        features: Features | None = None,
        samples: ModelSamples | None = None,
    ) -> None:
        self._serving = serving
        self._mirror = mirror
        self._kick = kick
        self._rows = RowReader(settings.max_rows, features)
        self._samples = samples
        self._max_client_id = settings.max_client_id_chars
        self._probe_seconds = settings.probe_seconds
        self._fallbacks = metrics.fallbacks
        self._sources = metrics.sources

    async def predict(
        self, request: PredictRequest | FloatRequest, origin: Origin | None = None
    ) -> PredictAnswer:
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
        table = self._serving.table
        router = table.router
        if router.split and router.answers(client_id) == B:
            return await self._by_b(request, origin)
        return await self._by_a(request, origin, copy=router.mirror and router.mirrors(client_id))

    async def _by_a(
        self, request: PredictRequest | FloatRequest, origin: Origin | None, *, copy: bool = False
    ) -> PredictAnswer:
        """Answer by production, and hand a copy to the mirror when that is wanted.

        A request that meets its version being retired, because the replica was switched while
        it was under way, is answered by the version that is effective now.
        """
        table = self._serving.table
        try:
            return await self._ask(table, production(table), request, origin, copy=copy)
        except VariantUnavailable:
            fresh = self._serving.table
            if fresh is table or A not in fresh.targets:
                raise
            return await self._ask(fresh, fresh.targets[A], request, origin, copy=copy)

    async def _by_b(
        self, request: PredictRequest | FloatRequest, origin: Origin | None
    ) -> PredictAnswer:
        """Answer by B; by A when B cannot, saying so."""
        table = self._serving.table
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
        table: Table,
        target: Target,
        request: PredictRequest | FloatRequest,
        origin: Origin | None,
        *,
        copy: bool = False,
    ) -> PredictAnswer:
        """Answer by exactly this target."""
        lane = target.lane
        coalescer = lane.coalescer
        if coalescer is None or not lane.ready:
            raise VariantUnavailable(
                f"Variant {target.variant} routes to version {lane.version}, which cannot answer "
                f"now: {lane.reason} It heals by itself once Triton has that version READY."
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
            raise await self._explained(target, error) from error
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
        return PredictAnswer(
            answers.predictions,
            answers.probabilities,
            target.model_name,
            target.variant,
            slot.version,
            slot.run_id,
            table.record.generation,
            rows.source,
        )

    async def _explained(self, target: Target, error: GatewayError) -> GatewayError:
        """Tell a bad row from a version that is gone, when Triton refused or was lost."""
        if isinstance(error, TritonUnavailable):
            self._kick()
            return error
        if not isinstance(error, InferenceRefused):
            return error
        lane = target.lane
        try:
            ready = await lane.triton.version_ready(
                lane.model_name, lane.version, self._probe_seconds
            )
        except GatewayError as unreachable:
            self._kick()
            return TritonUnavailable(unreachable.message)
        if ready and error.upstream_status < 500:
            return error
        if ready:
            return BadUpstreamAnswer(error.message, code="model_failed")
        lane.deny(f"Triton does not have {lane.model_name} version {lane.version} READY.")
        self._kick()
        return VariantUnavailable(
            f"Variant {target.variant} routes to version {lane.version}, which Triton no longer "
            "has READY."
        )


def float_rows(table: Table) -> bool:
    """Whether all variants read rows of plain numbers, so that the fast decoder applies."""
    for target in table.targets.values():
        coalescer = target.lane.coalescer
        if coalescer is None or not coalescer.codec.float_rows:
            return False
    return bool(table.targets)
