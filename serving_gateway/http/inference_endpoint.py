"""Requests for inference over HTTP, in callbacks: `POST /predict` and `POST /v2/.../infer`.

Nothing here waits. The connection hands over a request whose body is complete; the response is
written when the batch that carries its rows returns.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from time import perf_counter
from typing import TYPE_CHECKING, Final

from serving_gateway.batching import BatchItem
from serving_gateway.contract import PLATFORM_HEADER
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import GatewayError, InvalidInput, MalformedRequest
from serving_gateway.http.bodies import check_json
from serving_gateway.http.raw import (
    BUG,
    Header,
    RequestIds,
    error_body,
    header_text,
    log_request,
)
from serving_gateway.http.security import Access
from serving_gateway.inference.offload import Offload
from serving_gateway.inference.protocol_response import ProtocolResponse
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import Count, LabelledCounts
from serving_gateway.telemetry.logs import RepeatedWarning
from serving_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import RequestSpan, Tracing

log = logging.getLogger(__name__)

Fields = dict[bytes, bytes]
"""Headers by lower-case name."""

_PREDICT: Final = re.compile(rb"(?:/models/([A-Za-z0-9_-]+))?/predict")
_INFER: Final = re.compile(
    rb"/v2/models/([A-Za-z0-9_.-]+)(?:/versions/([0-9]{1,18}))?/infer/?",
)
_PLATFORM: Final = PLATFORM_HEADER.encode()
_MIN_GENERATION: Final = b"x-min-generation"
_TRACEPARENT: Final = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)
_GZIP: Final = re.compile(rb"(?:^|,)\s*gzip\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?(?:,|$)")
"""gzip among the codings that a client accepts, with its weight if any; 0 is a refusal."""
_ROUTES_KEPT: Final = 4096
_LONGEST_KEPT: Final = 256
"""Longest target that is cached, in bytes; those of valid model names are shorter."""
_COMPRESSED_FROM: Final = 16_384
"""Bytes from which a response is compressed for a client that asks for it."""
_COMPRESSION: Final = 1  # the fastest: 1 MB in about 10 ms
_JSON: Final = b"content-type: application/json\r\n"


@dataclass(frozen=True, slots=True)
class Route:
    """What a path asks for; `answered` counts its successful answers."""

    template: str
    model_name: str | None
    version: int | None
    is_protocol: bool
    answered: Count


class Routes(dict[bytes, Route | None]):
    """The routes of targets, each parsed once; None for one that does not ask for inference."""

    def __init__(self, requests: LabelledCounts) -> None:
        self._requests = requests

    def __missing__(self, target: bytes) -> Route | None:
        version = None
        if match := _PREDICT.fullmatch(target):
            template = "/predict" if match[1] is None else "/models/{model}/predict"
        elif match := _INFER.fullmatch(target):
            template = "/v2/models/{model}/infer"
            version = None if match[2] is None else int(match[2])
        else:
            return None
        if len(self) > _ROUTES_KEPT:
            self.clear()
        name = None if match[1] is None else match[1].decode()
        answered = self._requests.labels("POST", template, "200")
        route = Route(template, name, version, template.startswith("/v2"), answered)
        if len(target) <= _LONGEST_KEPT:
            self[target] = route
        return route


class HttpExchange:
    """One request for inference: what came, and how its response is written."""

    __slots__ = (
        *("body", "call", "endpoint", "fields", "headers", "is_traffic", "request_id", "route"),
        *("span", "started", "traceparent"),
    )

    def __init__(
        self, endpoint: InferenceEndpoint, route: Route, headers: list[Header], fields: Fields
    ) -> None:
        self.endpoint = endpoint
        self.route = route
        self.headers = headers
        self.fields = fields
        self.body: bytes | bytearray = b""
        self.request_id: bytes
        self.is_traffic: bool
        """Whether it comes from a client, and not from the platform itself."""
        self.started: float
        self.call: BatchItem | None = None
        """The inference in flight for it."""
        self.span: RequestSpan | None = None
        self.traceparent: bytes | None = None

    def write(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole response; `headers` are lines that end with CRLF."""
        raise NotImplementedError

    def succeed(self, body: bytes) -> None:
        """Answer with a prediction."""
        self.finish(_JSON, body)

    def respond(
        self, response: ProtocolResponse, variant: str, version: int, prediction_id: str
    ) -> None:
        """Answer with an inference of the protocol."""
        kind, size = _JSON, response.header_length
        if size is not None:
            kind = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % size
            )
        served = b"x-serving-variant: %b\r\nx-serving-version: %d\r\nx-prediction-id: %b\r\n" % (
            variant.encode(),
            version,
            prediction_id.encode(),
        )
        self.finish(kind + served, response.body)

    def finish(self, headers: bytes, body: bytes) -> None:
        """Answer with a result."""
        self.endpoint.finish(self, 200, headers, body)

    def fail(self, error: GatewayError) -> None:
        """Answer with an error."""
        self.endpoint.fail(self, error)


class AwaitedExchange(HttpExchange):
    """A request that came through the application, which awaits the result."""

    __slots__ = ("_result",)

    async def get_response(self, body: bytes) -> tuple[bytes, bytes]:
        """Header lines and body of the response; `GatewayError` when there is none."""
        self.body = body
        self.is_traffic = _PLATFORM not in self.fields
        self._result: asyncio.Future[tuple[bytes, bytes]]
        self._result = asyncio.get_running_loop().create_future()
        status = 500
        try:
            self.endpoint.submit(self)
            response = await self._result
            status = 200
        except GatewayError as error:
            status = error.status
            raise
        finally:
            if self.call is not None and not self.call.is_finished:
                self.call.abandon()
            if self.span is not None:
                self.span.end(status)
        return response

    def finish(self, headers: bytes, body: bytes) -> None:
        """Take a result."""
        self.endpoint.compress(self.fields, headers, body, self._take)

    def _take(self, headers: bytes, body: bytes) -> None:
        if not self._result.done():
            self._result.set_result((headers, body))

    def fail(self, error: GatewayError) -> None:
        """Take the reason why there is none."""
        if not self._result.done():
            self._result.set_exception(error)


class InferenceEndpoint:
    """Answers requests for inference."""

    def __init__(
        self,
        settings: Settings,
        hosting: Hosting,
        lifecycle: Lifecycle,
        access: Access,
        metrics: Metrics,
        offload: Offload,
        tracing: Tracing | None = None,
    ) -> None:
        self._offload = offload
        self.routes = Routes(metrics.http_requests)
        self._metrics = metrics
        self._hosting = hosting
        self._lifecycle = lifecycle
        self._access = access
        self._needs_key = access.needs_key
        self._requests = metrics.http_requests
        self._tracing = tracing
        self._access_log = settings.access_log
        self._ids = RequestIds()
        self._unanswered = RepeatedWarning(log, "a request was not answered")
        self._bugs = RepeatedWarning(log, "a request failed because of a bug", logging.ERROR)

    def start(self, request: HttpExchange) -> None:
        """Answer a request whose body is complete."""
        self._metrics.in_flight += 1
        request.is_traffic = _PLATFORM not in request.fields
        request.request_id = self._ids.assign(request.fields.get(b"x-request-id"))
        if self._access_log:
            request.started = perf_counter()
        try:
            self.submit(request)
        except Exception as error:
            self.fail(request, error)

    def abandon(self, request: HttpExchange) -> None:
        """Forget a request whose client has left."""
        if request.call is not None:
            if not request.call.is_finished:
                request.call.abandon()
            self._metrics.in_flight -= 1
            if request.span is not None:
                request.span.end(499)

    def finish(self, request: HttpExchange, status: int, headers: bytes, body: bytes) -> None:
        """Write a response, and count it."""
        request.call = None  # it refers to the request: a cycle would wait for garbage collection
        self._metrics.in_flight -= 1
        if request.is_traffic and status == 200:
            request.route.answered.value += 1
        elif request.is_traffic:
            self._requests.labels("POST", request.route.template, str(status)).inc()
        if request.span is not None:
            request.span.end(status)
        if self._lifecycle.draining:
            headers += b"connection: close\r\n"
        if self._access_log:
            seconds = perf_counter() - request.started
            log_request("POST", request.route.template, status, request.request_id, seconds)
        if len(body) > _COMPRESSED_FROM:
            self.compress(request.fields, headers, body, partial(request.write, status))
        else:
            request.write(status, headers, body)

    def compress(
        self, fields: Fields, headers: bytes, body: bytes, done: Callable[[bytes, bytes], None]
    ) -> None:
        """Call `done` with the response, compressed if large, in a thread if very large."""
        if len(body) <= _COMPRESSED_FROM or not _accepts_gzip(fields):
            done(headers, body)
            return

        def on_compressed(packed: bytes | GatewayError) -> None:
            if isinstance(packed, bytes):
                done(headers + b"content-encoding: gzip\r\nvary: accept-encoding\r\n", packed)
            else:
                done(headers, body)

        work = partial(gzip.compress, body, _COMPRESSION)
        self._offload.run(len(body), work, on_compressed, inf)

    def fail(self, request: HttpExchange, error: Exception) -> None:
        """Write an error."""
        request_id = request.request_id.decode()
        if not isinstance(error, GatewayError):
            self._bugs.log(type(error).__name__, exception=error, request_id=request_id)
            error = GatewayError(BUG)
        # A caller's mistake is unrelated to what is served; a failure of the gateway is not.
        still = None
        if error.status >= 500:
            still = self._hosting.still_served(request.route.model_name)
            self._unanswered.log(error.code, request_id=request_id, reason=error.message)
        body, headers = error_body(error, request.request_id, still)
        self.finish(request, error.status, _lines(headers), body)

    def describe_refusal(self, error: GatewayError, route: Route | None) -> tuple[bytes, bytes]:
        """Header lines and body for a request that is refused before it is complete."""
        method, path = ("other", "other") if route is None else ("POST", route.template)
        self._requests.labels(method, path, str(error.status)).inc()
        request_id = self._ids.assign(None)
        body, headers = error_body(error, request_id, None)
        return _lines([*headers, (b"x-request-id", request_id)]), body

    def submit(self, request: HttpExchange) -> None:
        """Hand a request to the model that it is for; `GatewayError` when it is refused."""
        fields, route, hosting = request.fields, request.route, self._hosting
        if self._tracing is not None or b"traceparent" in fields:
            self._begin_trace(request)
        if self._needs_key:
            self._access.check_key(request.headers)
        if not request.is_traffic:
            self._access.require_token(request.headers)
        if _MIN_GENERATION in fields:
            self._require_generation(fields[_MIN_GENERATION], route)
        if route.is_protocol:
            self._infer(request)
            return
        content_type = fields.get(b"content-type")
        if content_type != b"application/json":
            check_json(content_type)
        name = route.model_name
        hosted = hosting.default if name is None else hosting.find(name)
        request.call = hosted.predictor.submit(bytes(request.body), request)

    def _require_generation(self, least: bytes, route: Route) -> None:
        """Refuse a request for which this replica is too far behind."""
        if not least.isdigit() or len(least) > 18:
            raise InvalidInput(
                "X-Min-Generation is not the number of a generation.",
                field="x-min-generation",
                code="wrong_type",
            )
        name, hosting = route.model_name, self._hosting
        hosted = hosting.default if name is None else hosting.resolve(name)
        hosted.predictor.dispatcher.require_generation(int(least))

    def _infer(self, request: HttpExchange) -> None:
        fields, route = request.fields, request.route
        announced = fields.get(b"inference-header-content-length")
        if announced is not None and (not announced.isdigit() or len(announced) > 18):
            raise MalformedRequest("Inference-Header-Content-Length is not a number.")
        client = fields.get(b"x-client-id")
        name = route.model_name or self._hosting.default.model_name
        request.call = self._hosting.resolve(name).open_inference.submit(
            name,
            route.version,
            None if client is None else header_text(client),
            bytes(request.body),
            None if announced is None else int(announced),
            request,
        )

    def _begin_trace(self, request: HttpExchange) -> None:
        """Note the W3C trace context of a request, and its span where it is traced."""
        traceparent = request.fields.get(b"traceparent")
        if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
            traceparent = None  # as the standard requires
        if self._tracing is not None and self._tracing.should_trace(traceparent):
            request.span = self._tracing.request("POST", request.route.template, traceparent)
            traceparent = request.span.traceparent
        request.traceparent = traceparent


def _lines(headers: list[Header]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _accepts_gzip(fields: Fields) -> bool:
    match = _GZIP.search(fields.get(b"accept-encoding", b"").lower())
    return match is not None and (match[1] is None or float(match[1]) > 0)
