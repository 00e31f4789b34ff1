"""Requests for inference over HTTP, in callbacks: `POST /predict` and `POST /v2/.../infer`.

Nothing in here waits. The connection hands over a request whose body is complete; the response
is written when the batch that carries its rows returns.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
from time import perf_counter
from typing import TYPE_CHECKING, Final

from serving_gateway.batching import BatchItem
from serving_gateway.control.hosting import Hosting
from serving_gateway.errors import GatewayError, MalformedRequest
from serving_gateway.http.bodies import check_json
from serving_gateway.http.raw import RequestIds, error_body, trace_context
from serving_gateway.http.security import DataGuard
from serving_gateway.inference.protocol_response import ProtocolResponse
from serving_gateway.inference.readiness import Lifecycle
from serving_gateway.settings import Settings
from serving_gateway.telemetry.counters import Count, LabelledCounts
from serving_gateway.telemetry.logs import RepeatedWarning
from serving_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from serving_gateway.telemetry.tracing import RequestSpan, Tracing

log = logging.getLogger(__name__)

_PREDICT: Final = re.compile(rb"/models/(?P<model>[A-Za-z0-9_-]+)/predict")
_INFER: Final = re.compile(
    rb"/v2/models/(?P<model>[A-Za-z0-9_.-]+)(?:/versions/(?P<version>[0-9]{1,18}))?/infer/?"
)
_ROUTES_KEPT: Final = 4096
_COMPRESSED_FROM: Final = 16_384
"""Bytes from which a response is compressed for a client that asks for it."""
_COMPRESSION: Final = 1
"""The fastest: 1 MB in about 10 ms."""
_BUG: Final = "The gateway failed on a bug of its own; its log says more under this request id."


class Route:
    """What a path asks for, and how often that was answered."""

    __slots__ = ("answered", "is_protocol", "model_name", "template", "version")

    def __init__(
        self,
        template: str,
        model_name: str | None,
        version: int | None,
        answered: Count,
        *,
        is_protocol: bool,
    ) -> None:
        self.template = template
        self.answered = answered
        self.model_name = model_name
        self.version = version
        self.is_protocol = is_protocol


class Routes:
    """Finds the route of a target; each is parsed once.

    Args:
        requests: counts responses by method, route and status.

    Attributes:
        known: routes by target.
    """

    def __init__(self, requests: LabelledCounts) -> None:
        self._requests = requests
        self._default = self._route("/predict", None, None, is_protocol=False)
        self.known = {b"/predict": self._default}

    def parse(self, target: bytes) -> Route | None:
        """The route of a target; None when it is not one for inference."""
        route = self.known.get(target)
        if route is not None:
            return route
        if predict := _PREDICT.fullmatch(target):
            model = predict["model"].decode()
            route = self._route("/models/{model}/predict", model, None, is_protocol=False)
        elif infer := _INFER.fullmatch(target):
            version = None if infer["version"] is None else int(infer["version"])
            template = "/v2/models/{model}/infer"
            route = self._route(template, infer["model"].decode(), version, is_protocol=True)
        if route is not None:
            if len(self.known) > _ROUTES_KEPT:
                self.known.clear()
                self.known[b"/predict"] = self._default
            self.known[target] = route
        return route

    def _route(
        self, template: str, model_name: str | None, version: int | None, *, is_protocol: bool
    ) -> Route:
        answered = self._requests.labels("POST", template, "200")
        return Route(template, model_name, version, answered, is_protocol=is_protocol)


class HttpExchange:
    """One request for inference: what came, and how its response is written."""

    __slots__ = (
        "body",
        "call",
        "endpoint",
        "fields",
        "headers",
        "request_id",
        "route",
        "span",
        "started",
    )

    def __init__(
        self,
        endpoint: InferenceEndpoint,
        route: Route,
        headers: list[tuple[bytes, bytes]],
        fields: dict[bytes, bytes],
    ) -> None:
        self.endpoint = endpoint
        self.route = route
        self.headers = headers
        self.fields = fields
        self.body: bytes | bytearray = b""
        self.request_id = b""
        self.call: BatchItem | None = None
        """What is under way for it."""
        self.span: RequestSpan | None = None
        self.started = 0.0

    def write(self, status: int, headers: bytes, body: bytes) -> None:
        """Send the whole response.

        Args:
            status: of HTTP.
            headers: lines that end with CRLF.
            body: the whole body.
        """
        raise NotImplementedError

    def succeed(self, body: bytes) -> None:
        """Answer with a prediction."""
        self.endpoint.finish(
            self,
            200,
            b"content-type: application/json\r\nx-request-id: %b\r\n" % self.request_id,
            body,
        )

    def respond(self, response: ProtocolResponse, variant: str, version: int) -> None:
        """Answer with an inference of the protocol."""
        size = response.header_length
        if size is None:
            kind = b"content-type: application/json\r\n"
        else:
            kind = (
                b"content-type: application/octet-stream\r\n"
                b"inference-header-content-length: %d\r\n" % size
            )
        headers = b"%bx-serving-variant: %b\r\nx-serving-version: %d\r\nx-request-id: %b\r\n" % (
            kind,
            variant.encode(),
            version,
            self.request_id,
        )
        self.endpoint.finish(self, 200, headers, response.body)

    def fail(self, error: GatewayError) -> None:
        """Answer with an error."""
        self.endpoint.fail(self, error)


class InferenceEndpoint:
    """Answers requests for inference.

    Args:
        settings: limits.
        hosting: finds the model of a request.
        lifecycle: whether the process is about to end.
        metrics: counts.
        tracing: makes spans; None where that is switched off.
    """

    def __init__(
        self,
        settings: Settings,
        hosting: Hosting,
        lifecycle: Lifecycle,
        guard: DataGuard,
        metrics: Metrics,
        tracing: Tracing | None = None,
    ) -> None:
        self.routes = Routes(metrics.http_requests)
        self._metrics = metrics
        self._hosting = hosting
        self._lifecycle = lifecycle
        self._guard = guard
        self._needs_key = not guard.is_open
        self._requests = metrics.http_requests
        self._tracing = tracing
        self._access_log = settings.access_log
        self._ids = RequestIds()
        self._unanswered = RepeatedWarning(log, "a request was not answered")
        self._bugs = RepeatedWarning(log, "a request failed on a bug", logging.ERROR)

    def start(self, request: HttpExchange) -> None:
        """Answer a request whose body is complete."""
        self._metrics.in_flight += 1
        fields = request.fields
        request.request_id = self._ids.of(fields.get(b"x-request-id"))
        if self._access_log:
            request.started = perf_counter()
        traceparent = None
        if self._tracing is not None or b"traceparent" in fields:
            traceparent = self.begin_trace(request)
        try:
            self.submit(request, traceparent)
        except GatewayError as error:
            self.fail(request, error)
        except Exception as bug:
            self._bugs.log(
                type(bug).__name__, exception=bug, request_id=request.request_id.decode()
            )
            self.fail(request, GatewayError(_BUG))

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
        if status == 200:
            request.route.answered.value += 1
        else:
            self._requests.labels("POST", request.route.template, str(status)).inc()
        if request.span is not None:
            request.span.end(status)
        if self._lifecycle.draining:
            headers += b"connection: close\r\n"
        if len(body) > _COMPRESSED_FROM and _accepts_gzip(request.fields):
            headers += b"content-encoding: gzip\r\nvary: accept-encoding\r\n"
            body = gzip.compress(body, _COMPRESSION)
        request.write(status, headers, body)
        if self._access_log:
            self._log(request, status)

    def fail(self, request: HttpExchange, error: GatewayError) -> None:
        """Write an error."""
        # A caller's mistake says nothing about the state; what cannot be done now does.
        still = None
        if error.status >= 500:
            still = self._hosting.still_served(request.route.model_name)
            self._unanswered.log(
                error.code, request_id=request.request_id.decode(), reason=error.message
            )
        body, headers = error_body(error, request.request_id, still)
        lines = b"".join([b"%b: %b\r\n" % one for one in headers])
        lines += b"x-request-id: %b\r\n" % request.request_id
        self.finish(request, error.status, lines, body)

    def describe_refusal(self, error: GatewayError, route: Route | None) -> tuple[bytes, bytes]:
        """Header lines and body for a request that is refused before it is complete."""
        method, path = ("other", "other") if route is None else ("POST", route.template)
        self._requests.labels(method, path, str(error.status)).inc()
        request_id = self._ids.of(None)
        body, headers = error_body(error, request_id, None)
        headers.append((b"x-request-id", request_id))
        return b"".join([b"%b: %b\r\n" % one for one in headers]), body

    def begin_trace(self, request: HttpExchange) -> bytes | None:
        """The W3C trace context of a request, and its span where it is traced."""
        traceparent = request.fields.get(b"traceparent")
        if traceparent is not None:
            traceparent = trace_context(traceparent)
        if self._tracing is not None and self._tracing.wants(traceparent):
            span = self._tracing.request("POST", request.route.template, traceparent)
            request.span, traceparent = span, span.traceparent
        return traceparent

    def submit(self, request: HttpExchange, traceparent: bytes | None) -> None:
        """Hand a request to the model that it is for.

        Raises:
            GatewayError: it is refused.
        """
        if self._needs_key:
            self._guard.check(request.headers)
        route, hosting = request.route, self._hosting
        if route.is_protocol:
            self._infer(request, traceparent)
            return
        content_type = request.fields.get(b"content-type")
        if content_type != b"application/json":
            check_json(content_type)
        name = route.model_name
        hosted = hosting.default if name is None else hosting.plane(name)
        request.call = hosted.predictor.submit(
            bytes(request.body), request, traceparent, request.span
        )

    def _infer(self, request: HttpExchange, traceparent: bytes | None) -> None:
        fields, route = request.fields, request.route
        announced = fields.get(b"inference-header-content-length")
        if announced is not None and (not announced.isdigit() or len(announced) > 18):
            raise MalformedRequest("Inference-Header-Content-Length is not a number.")
        client = fields.get(b"x-client-id")
        name = route.model_name or self._hosting.default.model_name
        request.call = self._hosting.answering(name).open_inference.submit(
            name,
            route.version,
            None if client is None else client.decode("latin-1"),
            bytes(request.body),
            None if announced is None else int(announced),
            request,
            traceparent,
            request.span,
        )

    def _log(self, request: HttpExchange, status: int) -> None:
        log.info(
            "request",
            extra={
                "method": "POST",
                "path": request.route.template,
                "status": status,
                "request_id": request.request_id.decode(),
                "seconds": round(perf_counter() - request.started, 6),
            },
        )


def _accepts_gzip(fields: dict[bytes, bytes]) -> bool:
    accepted = fields.get(b"accept-encoding", b"").lower()
    return b"gzip" in accepted and b"gzip;q=0" not in accepted


class AwaitedExchange(HttpExchange):
    """A request that came through the application, which waits for what comes of it."""

    __slots__ = ("_result",)

    def __init__(
        self,
        endpoint: InferenceEndpoint,
        route: Route,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> None:
        super().__init__(endpoint, route, headers, dict(headers))
        self.body = body
        self._result: asyncio.Future[tuple[bytes, dict[str, str]]] = (
            asyncio.get_running_loop().create_future()
        )

    async def answered(self) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the response.

        Raises:
            GatewayError: there is none.
        """
        traceparent = self.endpoint.begin_trace(self)
        status = 500
        try:
            self.endpoint.submit(self, traceparent)
            content, headers = await self._result
        except GatewayError as error:
            status = error.status
            raise
        else:
            status = 200
            return content, headers
        finally:
            if self.call is not None and not self.call.is_finished:
                self.call.abandon()
            if self.span is not None:
                self.span.end(status)

    def succeed(self, body: bytes) -> None:
        """Take a prediction."""
        self._resolve(body, {"content-type": "application/json"})

    def respond(self, response: ProtocolResponse, variant: str, version: int) -> None:
        """Take an inference of the protocol."""
        headers = {"x-serving-variant": variant, "x-serving-version": str(version)}
        if response.header_length is None:
            headers["content-type"] = "application/json"
        else:
            headers["content-type"] = "application/octet-stream"
            headers["inference-header-content-length"] = str(response.header_length)
        self._resolve(response.body, headers)

    def fail(self, error: GatewayError) -> None:
        """Take the reason why there is none."""
        if not self._result.done():
            self._result.set_exception(error)

    def _resolve(self, body: bytes, headers: dict[str, str]) -> None:
        if not self._result.done():
            self._result.set_result((body, headers))
