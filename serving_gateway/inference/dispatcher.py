"""Which variant answers a request, and what happens when it cannot: for all protocols alike.

This path makes no call to MLflow, Dagster or the routing store (I8): it reads only the table in
memory, and calls only Triton and the online feature store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from serving_gateway.errors import (
    BadUpstreamAnswer,
    DeadlineExceeded,
    GatewayError,
    InvalidInput,
    ReplicaBehind,
    TooLarge,
    TritonUnavailable,
    Unavailable,
    VariantUnavailable,
)
from serving_gateway.inference.offload import LARGE_BYTES, Offload
from serving_gateway.inference.protocol_response import ProtocolResponse
from serving_gateway.inference.release_counts import VersionCounter
from serving_gateway.inference.router import Router, RoutingTable, RoutingTarget
from serving_gateway.inference.traffic import A, B
from serving_gateway.inference.version_client import InferenceItem, report_bug
from serving_gateway.telemetry.prediction_ids import PredictionIds
from serving_gateway.telemetry.prediction_log import ModelLog, VariantLog

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import RequestSpan

_FALLBACK: Final = (Unavailable, DeadlineExceeded, BadUpstreamAnswer, InvalidInput, TooLarge)
"""Errors of B after which A answers instead. B may read other features and take fewer rows than A,
so a refusal by B says nothing about the request: when A refuses it too, A's reason is reported."""
_SERVER_ERROR: Final = 500
"""The lowest HTTP status of an error that is not the client's."""
_B_SHARE: Final = 0.5
"""Part of a request's time that B gets before A is asked instead."""

_T = TypeVar("_T")


class Sink(Protocol):
    """Receives an answer, and holds what is known about the request besides its body.

    `traceparent` is a syntactically valid W3C trace context; `span` the request's own, if traced.
    `is_traffic` is False for the platform's own requests.
    """

    is_traffic: bool
    traceparent: bytes | None
    span: RequestSpan | None

    def succeed(self, body: bytes) -> None:
        """Take the JSON of a `PredictResponse`."""

    def respond(
        self, response: ProtocolResponse, variant: str, version: int, prediction_id: str
    ) -> None:
        """Take a response of the Open Inference Protocol, its origin, and its id."""

    def fail(self, error: GatewayError) -> None:
        """Take the reason why there is neither."""


class RoutedRequest(InferenceItem):
    """A client's request, wherever the routing rules lead it.

    `arrived` and `due` are event loop times. `table` is the generation that it was last routed by,
    `target` where it was last sent. `is_split`: the policy chose B for it, so A may answer instead;
    `fallback` then says why, and `failed_at` is the counter of that failure. `named` is the target
    that the client named, so that no other may answer. `number` is that of the prediction's id,
    once it has one.
    """

    __slots__ = (
        "arrived",
        "client_id",
        "dispatcher",
        "due",
        "failed_at",
        "fallback",
        "is_split",
        "is_traffic",
        "named",
        "number",
        "sent_at",
        "sink",
        "table",
        "target",
    )

    def __init__(self, dispatcher: Dispatcher, sink: Sink, arrived: float, due: float) -> None:
        # Like `InferenceItem.__init__`, in one call: this is made for every request.
        self.key = None
        self.is_finished = False
        self.batcher = None
        self.tensors = ()
        self.tail = None
        self.traceparent = sink.traceparent
        self.span = sink.span
        self.sink = sink
        self.dispatcher = dispatcher
        self.offload = dispatcher.offload
        self.arrived = arrived
        self.due = due
        self.client_id: str | None = None
        self.fallback: str | None = None
        self.is_traffic = sink.is_traffic
        self.is_split = False
        self.named: RoutingTarget | None = None
        self.number: int
        self.failed_at: VersionCounter | None = None
        self.sent_at: float
        self.table: RoutingTable
        self.target: RoutingTarget

    def begin(self, size: int) -> None:
        """Read the body of `size` bytes, in a thread if it is large, and route the request."""
        if size > LARGE_BYTES:
            self.offload.run(size, self.read, self._on_read, self.due)
            return
        try:
            self.read()
        except GatewayError as error:
            self.reject(error)
        else:
            self.dispatcher.dispatch(self)

    def _on_read(self, error: GatewayError | None) -> None:
        if error is not None and not self.is_finished:
            self.reject(error)
        elif not self.is_finished:
            self.dispatcher.dispatch(self)

    def read(self) -> None:
        """Read the body and find what is `named`; raises `GatewayError` when that fails."""
        raise NotImplementedError

    def send(self, target: RoutingTarget, deadline: float) -> None:
        """Queue the tensors for exactly this target, or raise; `recover` gets what fails later."""
        raise NotImplementedError

    def reject(self, error: GatewayError) -> None:
        """End the request with an error, for good."""
        self.is_finished = True
        self.sink.fail(error)

    def resume(self, result: _T | GatewayError, queue: Callable[[_T], None]) -> None:
        """Queue what the tensors come from, now that it is there, unless the request has ended."""
        if self.is_finished:
            return
        if asyncio.get_running_loop().time() >= self.due and not isinstance(result, GatewayError):
            result = DeadlineExceeded("The body was not read before the request's deadline.")
        if isinstance(result, GatewayError):
            self.dispatcher.recover(self, result)
            return
        try:
            queue(result)
        except GatewayError as error:
            self.dispatcher.recover(self, error)
        except Exception:
            self.dispatcher.recover(self, report_bug())

    def open_log(self, model: ModelLog) -> VariantLog:
        """Open the log of the target's answers."""
        target = self.target
        codec = target.client.codec
        assert codec is not None  # noqa: S101 -- it has just answered
        target.log = log = VariantLog(
            model,
            target.model_name,
            target.variant,
            target.slot.version,
            self.table.record.generation,
            codec.signature,
        )
        return log

    def fail(self, error: GatewayError) -> None:
        """Handle an attempt that failed on its way through the batcher."""
        if self.is_traffic:
            self.target.stats.fail()
        self.dispatcher.handle_failure(self, error)

    def abandon(self) -> None:
        """Leave; for a release, this is a failure of the version: it has not answered in time."""
        super().abandon()
        if self.is_traffic and (counter := self._counter()) is not None:
            counter.fail()

    def count_failure(self, error: GatewayError, *, is_answered_elsewhere: bool) -> None:
        """Count a failure for the active release, if any, when it is the version's.

        An invalid request is the client's fault, unless the other version answers it; and a Triton
        that has neither version READY says nothing about either.
        """
        targets = self.table.targets.values()
        if not self.is_traffic or not any(target.client.ready for target in targets):
            return
        counter = self._counter()
        if is_answered_elsewhere:
            self.failed_at = counter
        elif error.status < _SERVER_ERROR:
            counter = None
            if self.failed_at is not None:
                self.failed_at.retract()
        if counter is not None:
            counter.fail()

    def _counter(self) -> VersionCounter | None:
        table: RoutingTable | None = getattr(self, "table", None)  # not set before the body is read
        if table is None:
            return None
        target = self.named or (table.targets.get(B) if self.is_split else table.production)
        return None if target is None else target.counter


@dataclass(slots=True, eq=False)
class Dispatcher:
    """Routes the requests of one model.

    `wake` is called when Triton seems to have changed, to have it and the record checked now;
    `probe` when a request's version is not ready, to have Triton asked about it; `count_fallback`
    for each request of B's share that A gets instead. `offload` reads and encodes what is large.
    `log` is None if nothing is logged.
    """

    router: Router
    wake: Callable[[], None]
    probe: Callable[[], None]
    count_fallback: Callable[[], None]
    offload: Offload
    ids: PredictionIds = field(default_factory=PredictionIds)
    log: ModelLog | None = None

    def require_generation(self, least: int) -> None:
        """Refuse (`ReplicaBehind`) a request for a later generation, and have the record read."""
        present = self.router.record.generation
        if present < least:
            self.wake()
            raise ReplicaBehind(
                f"This replica routes by generation {present}, and the request asks for {least} or "
                "later. It reads the routing record now: send the request again. Where that does "
                "not help, GET /models says whether there is such a generation."
            )

    def dispatch(self, request: RoutedRequest) -> None:
        """Send a request to the target that it names, or to the traffic policy's variant."""
        table = self.router.table
        policy = table.policy
        if request.named is not None:
            self._attempt(request, table, request.named, request.due)
        elif policy.split and request.is_traffic and policy.choose_variant(request.client_id) == B:
            request.is_split = True
            deadline = request.arrived + (request.due - request.arrived) * _B_SHARE
            self._attempt(request, table, table.targets.get(B), deadline)
        else:
            self._attempt(request, table, table.production, request.due)

    def handle_failure(self, request: RoutedRequest, error: GatewayError) -> None:
        """Recover from a failure of Triton, as far as that is possible."""
        if isinstance(error, (TritonUnavailable, VariantUnavailable)):
            self.wake()
        self.recover(request, error)

    def recover(self, request: RoutedRequest, error: GatewayError) -> None:
        """Have A answer what B could not, and the newest version what a retired one could not."""
        fresh = self.router.table
        if isinstance(error, VariantUnavailable):
            self.probe()
        if request.is_split and isinstance(error, _FALLBACK):
            self.count_fallback()
            request.count_failure(error, is_answered_elsewhere=True)
            request.is_split = False
            request.fallback = f"variant B could not answer: {error.message}"
        elif (
            request.named is not None
            or fresh is request.table
            or fresh.production is None
            or not isinstance(error, VariantUnavailable)
        ):
            request.count_failure(error, is_answered_elsewhere=False)
            request.reject(error)
            return
        request.is_finished = False  # only the attempt is; the request goes on
        self._attempt(request, fresh, fresh.production, request.due)

    def _attempt(
        self,
        request: RoutedRequest,
        table: RoutingTable,
        target: RoutingTarget | None,
        deadline: float,
    ) -> None:
        request.table = table
        if target is None:
            variant = B if request.is_split else A
            error = VariantUnavailable(
                f"Variant {variant} has no version yet. Reload it onto one that is READY, by a "
                f"POST to its variant/{variant}/reload.",
                code="no_effective_version",
            )
            self.recover(request, error)
            return
        request.target = target
        try:
            request.send(target, deadline)
        except GatewayError as error:
            self.recover(request, error)
        except Exception:
            self.recover(request, report_bug())
